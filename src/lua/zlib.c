/* zlib.c - what pictures and fonts need of zlib, for the parts written in Lua: core.deflate,
 * core.inflate, core.crc32. All memory that a call needs is there before zlib allocates anything,
 * so that an error of Lua leaves nothing behind. RFC 1950 (zlib), RFC 1952 (gzip). */
#include "lua/core.h"

#include <zlib.h>

#define EITHER (32 + MAX_WBITS) /* the format is told from the first bytes */
#define LARGEST (64 << 20)      /* of what is to be unpacked */

/* deflate(bytes) -> a zlib stream; nil when memory ran out */
static int deflate_bytes(lua_State *L)
{
    size_t length;
    luaL_Buffer b;
    const char *bytes = luaL_checklstring(L, 1, &length);
    luaL_argcheck(L, length <= LARGEST, 1, "too long");
    uLongf size = compressBound(length);
    char *to = luaL_buffinitsize(L, &b, size);
    int rc = compress2((Bytef *)to, &size, (const Bytef *)bytes, length, Z_DEFAULT_COMPRESSION);
    luaL_pushresultsize(&b, rc == Z_OK ? size : 0);
    if (rc != Z_OK)
        lua_pushnil(L);
    return 1;
}

/* The whole stream, or -1. */
static long unpack(const char *from, size_t length, char *to, size_t limit)
{
    z_stream stream = { .next_in = (Bytef *)(uintptr_t)from,
                        .avail_in = (uInt)length,
                        .next_out = (Bytef *)to,
                        .avail_out = (uInt)limit };
    if (inflateInit2(&stream, EITHER) != Z_OK)
        return -1;
    int rc = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return rc == Z_STREAM_END ? (long)stream.total_out : -1;
}

/* inflate(bytes, limit), of a zlib or gzip stream -> the bytes; nil when they are damaged or more
 * than `limit` */
static int inflate_bytes(lua_State *L)
{
    size_t length;
    luaL_Buffer b;
    const char *bytes = luaL_checklstring(L, 1, &length);
    lua_Integer limit = luaL_checkinteger(L, 2);
    luaL_argcheck(L, length <= LARGEST, 1, "too long");
    luaL_argcheck(L, limit > 0 && limit <= LARGEST, 2, "out of range");
    char *to = luaL_buffinitsize(L, &b, (size_t)limit);
    long size = unpack(bytes, length, to, (size_t)limit);
    luaL_pushresultsize(&b, size < 0 ? 0 : (size_t)size);
    if (size < 0)
        lua_pushnil(L);
    return 1;
}

/* crc32(bytes [, crc]) -> that of what went before and these bytes */
static int crc32_bytes(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    uLong crc = (uLong)luaL_optinteger(L, 2, 0);
    luaL_argcheck(L, length <= LARGEST, 1, "too long");
    lua_pushinteger(L, (lua_Integer)crc32(crc, (const Bytef *)bytes, (uInt)length));
    return 1;
}

static const luaL_Reg core[] = {
    { "deflate", deflate_bytes }, { "inflate", inflate_bytes }, { "crc32", crc32_bytes }, MK_END
};

MK_EXPORTS = { { .core = core } };
