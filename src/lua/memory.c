/* memory.c - vm.memory: guest RAM by guest-physical address. What Lua gets is a copy. */
#include "lua/core.h"

#include <string.h>

/* Bytes of guest memory that are copied at once. */
#define STRING_PIECE 256u
#define FILL_PIECE 16384u
#define FIND_PIECE (1u << 20)

static void no_memory(lua_State *L, struct mk_lua_vm *v, lua_Integer address, lua_Integer length)
{
    mk_lua_error(L, "%lld bytes at address %lld are not all in RAM of %lld bytes", length, address,
                 (long long)v->vm.mem.size);
}

/* Raises when [address, address + length) is not all memory. */
static const struct mk_mem *check_range(lua_State *L, struct mk_lua_vm *v, lua_Integer address,
                                        lua_Integer length, bool write)
{
    const struct mk_mem *mem = &v->vm.mem;
    if (length < 0)
        mk_lua_error(L, "a length of %lld bytes", length);
    if (address < 0 || !mk_mem_has(mem, (uint64_t)address, (uint64_t)length, false))
        no_memory(L, v, address, length);
    if (write && !mk_mem_has(mem, (uint64_t)address, (uint64_t)length, true))
        mk_lua_error(
            L,
            "%lld bytes at address %lld: %s is read-only, its contents are given when it is "
            "mapped",
            length, address, mk_mem_find(mem, (uint64_t)address)->name);
    return mem;
}

static void set_all_ready(struct mk_lua_vm *v)
{
    for (unsigned i = 0; i < v->vm.cpus; i++)
        mk_vm_set_ready(&v->vm, i);
}

/* memory:read(address, length) -> string */
static int memory_read(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2), length = luaL_checkinteger(L, 3);
    const struct mk_mem *mem = check_range(L, v, address, length, false);
    luaL_Buffer b;
    if (!mk_mem_read(mem, (uint64_t)address, luaL_buffinitsize(L, &b, (size_t)length),
                     (size_t)length))
        no_memory(L, v, address, length);
    luaL_pushresultsize(&b, (size_t)length);
    return 1;
}

static void write_bytes(lua_State *L, struct mk_lua_vm *v, lua_Integer address, const void *bytes,
                        size_t length)
{
    const struct mk_mem *mem = check_range(L, v, address, (lua_Integer)length, true);
    if (!mk_mem_write(mem, (uint64_t)address, bytes, length))
        no_memory(L, v, address, (lua_Integer)length);
    set_all_ready(v);
}

/* memory:write(address, string) */
static int memory_write(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    size_t length;
    const char *bytes = luaL_checklstring(L, 3, &length);
    write_bytes(L, v, luaL_checkinteger(L, 2), bytes, length);
    return 0;
}

/* memory:u8/u16/u32/u64(address[, value]): little-endian; reads without a value. */
static int number(lua_State *L, unsigned bytes)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2);
    uint64_t value = 0;
    if (lua_isnoneornil(L, 3)) {
        const struct mk_mem *mem = check_range(L, v, address, bytes, false);
        if (!mk_mem_read(mem, (uint64_t)address, &value, bytes))
            no_memory(L, v, address, bytes);
        lua_pushinteger(L, (lua_Integer)value);
        return 1;
    }
    value = (uint64_t)luaL_checkinteger(L, 3);
    luaL_argcheck(L, bytes == 8 || value <= mk_mask(bytes), 3, "value is too large for its width");
    write_bytes(L, v, address, &value, bytes);
    return 0;
}

static int memory_u8(lua_State *L)
{
    return number(L, 1);
}
static int memory_u16(lua_State *L)
{
    return number(L, 2);
}
static int memory_u32(lua_State *L)
{
    return number(L, 4);
}
static int memory_u64(lua_State *L)
{
    return number(L, 8);
}

/* memory:cstring(address[, limit]) -> the bytes before the next NUL, or before memory ends */
static int memory_cstring(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2);
    const struct mk_mem *mem = check_range(L, v, address, 0, false);
    lua_Integer limit = luaL_optinteger(L, 3, LUA_MAXINTEGER);
    luaL_argcheck(L, limit >= 0, 3, "a negative limit");
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    uint64_t at = (uint64_t)address, left = (uint64_t)limit;
    for (uint64_t n; left; at += n, left -= n) {
        char *to = luaL_prepbuffsize(&b, STRING_PIECE);
        n = mk_mem_span(mem, at, left < STRING_PIECE ? left : STRING_PIECE);
        if (n == 0 || !mk_mem_read(mem, at, to, n))
            break;
        size_t length = strnlen(to, n);
        luaL_addsize(&b, length);
        if (length < n)
            break;
    }
    luaL_pushresult(&b);
    return 1;
}

/* memory:fill(address, length[, byte = 0]) */
static int memory_fill(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2), length = luaL_checkinteger(L, 3);
    lua_Integer byte = luaL_optinteger(L, 4, 0);
    luaL_argcheck(L, byte >= 0 && byte <= 255, 4, "not a byte");
    const struct mk_mem *mem = check_range(L, v, address, length, true);
    char piece[FILL_PIECE];
    memset(piece, (int)byte, sizeof(piece));
    uint64_t at = (uint64_t)address, left = (uint64_t)length;
    for (uint64_t n; left; at += n, left -= n) {
        n = left < sizeof(piece) ? left : sizeof(piece);
        if (!mk_mem_write(mem, at, piece, n))
            return mk_lua_error(L, "memory at 0x%llx is gone: its file became shorter",
                                (unsigned long long)at);
    }
    set_all_ready(v);
    return 0;
}

/* Where memory is, from `at` on; false: nowhere. */
static bool next_memory(const struct mk_mem *mem, uint64_t *at)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        if (r->gpa + r->size > *at) {
            *at = *at > r->gpa ? *at : r->gpa;
            return true;
        }
    }
    return false;
}

/* How many of `most` bytes from `at` on are memory. */
static uint64_t length_there(const struct mk_mem *mem, uint64_t at, uint64_t most)
{
    uint64_t length = 0;
    for (uint64_t n; length < most; length += n)
        if ((n = mk_mem_span(mem, at + length, most - length)) == 0)
            break;
    return length;
}

/* The first place from *at on where `what` is: FIND_PIECE places after the other, in a copy of what
 * is there. */
static bool find(lua_State *L, const struct mk_mem *mem, uint64_t *at, const char *what,
                 size_t length)
{
    size_t more = length ? length - 1 : 0;
    char *piece = lua_newuserdatauv(L, FIND_PIECE + more, 0);
    while (next_memory(mem, at)) {
        uint64_t n = length_there(mem, *at, FIND_PIECE + more);
        if (n == 0) /* it ends near here, because its file became shorter */
            n = length_there(mem, *at, MK_PAGE - *at % MK_PAGE);
        if (n == 0) {
            const struct mk_region *r = mk_mem_find(mem, *at);
            *at = r->gpa + r->size;
            continue;
        }
        bool there = mk_mem_read(mem, *at, piece, n);
        const char *found = there ? memmem(piece, n, what, length) : NULL;
        if (found) {
            *at += (uint64_t)(found - piece);
            return true;
        }
        *at += n > more ? n - more : n;
    }
    return false;
}

/* memory:find(string[, from = 0]) -> address or nil */
static int memory_find(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    size_t length;
    const char *what = luaL_checklstring(L, 2, &length);
    lua_Integer from = luaL_optinteger(L, 3, 0);
    uint64_t at = (uint64_t)from;
    bool found = find(L, check_range(L, v, from, 0, false), &at, what, length);
    return mk_push_optional(L, found, at);
}

static int memory_size(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)mk_check_child(L, 1, MK_MEMORY)->vm.mem.size);
    return 1;
}

static const luaL_Reg meta[] = { { "__len", memory_size }, MK_END };
static const luaL_Reg methods[] = { { "read", memory_read },
                                    { "write", memory_write },
                                    { "u8", memory_u8 },
                                    { "u16", memory_u16 },
                                    { "u32", memory_u32 },
                                    { "u64", memory_u64 },
                                    { "cstring", memory_cstring },
                                    { "fill", memory_fill },
                                    { "find", memory_find },
                                    { "size", memory_size },
                                    MK_END };

MK_EXPORTS = { { .type = MK_MEMORY, .meta = meta, .methods = methods } };
