/* memory.c - vm.memory: guest RAM by guest-physical address. What Lua gets is a copy. */
#include "lua/core.h"

#include <stdio.h>
#include <string.h>

/* The range [address, address + length) as host memory; raises when it is not all RAM. */
static const uint8_t *range(lua_State *L, struct mk_lua_vm *v, lua_Integer address,
                            lua_Integer length)
{
    if (length < 0)
        luaL_error(L, "a length of %I bytes", length);
    const void *at = address < 0 ? NULL
                                 : mk_mem_at(&v->vm.m.mem, (uint64_t)address, (uint64_t)length);
    if (!at)
        luaL_error(L, "%I bytes at address %I are not all in RAM of %I bytes", length, address,
                   (lua_Integer)v->vm.m.mem.size);
    return at;
}

/* The same to write to. */
static uint8_t *writable(lua_State *L, struct mk_lua_vm *v, lua_Integer address, lua_Integer length)
{
    range(L, v, address, length);
    return mk_mem_edit(&v->vm.m.mem, (uint64_t)address, (uint64_t)length);
}

static void touch_all(struct mk_lua_vm *v)
{
    for (unsigned i = 0; i < v->vm.cpus; i++)
        mk_vm_touch(&v->vm, i);
}

/* memory:read(address, length) -> string */
static int memory_read(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer length = luaL_checkinteger(L, 3);
    const uint8_t *at = range(L, v, luaL_checkinteger(L, 2), length);
    lua_pushlstring(L, (const char *)at, (size_t)length);
    return 1;
}

/* memory:write(address, string) */
static int memory_write(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    size_t length;
    const char *bytes = luaL_checklstring(L, 3, &length);
    memcpy(writable(L, v, luaL_checkinteger(L, 2), (lua_Integer)length), bytes, length);
    touch_all(v);
    return 0;
}

/* memory:u8/u16/u32/u64(address[, value]): little-endian; reads without a value. */
static int number(lua_State *L, unsigned bytes)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2);
    const uint8_t *at = range(L, v, address, bytes);
    uint64_t value = 0;
    if (lua_isnoneornil(L, 3)) {
        memcpy(&value, at, bytes);
        lua_pushinteger(L, (lua_Integer)value);
        return 1;
    }
    value = (uint64_t)luaL_checkinteger(L, 3);
    luaL_argcheck(L, bytes == 8 || value <= mk_mask(bytes), 3, "value is too large for its width");
    memcpy(writable(L, v, address, bytes), &value, bytes);
    touch_all(v);
    return 0;
}

static int memory_u8(lua_State *L) { return number(L, 1); }
static int memory_u16(lua_State *L) { return number(L, 2); }
static int memory_u32(lua_State *L) { return number(L, 4); }
static int memory_u64(lua_State *L) { return number(L, 8); }

/* memory:cstring(address[, limit]) -> the bytes before the next NUL */
static int memory_cstring(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2);
    const char *at = (const char *)range(L, v, address, 0);
    size_t room = (size_t)(v->vm.m.mem.size - (uint64_t)address);
    lua_Integer limit = luaL_optinteger(L, 3, (lua_Integer)room);
    luaL_argcheck(L, limit >= 0, 3, "a negative limit");
    lua_pushlstring(L, at, strnlen(at, (size_t)limit < room ? (size_t)limit : room));
    return 1;
}

/* memory:fill(address, length[, byte = 0]) */
static int memory_fill(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer length = luaL_checkinteger(L, 3);
    lua_Integer byte = luaL_optinteger(L, 4, 0);
    luaL_argcheck(L, byte >= 0 && byte <= 255, 4, "not a byte");
    memset(writable(L, v, luaL_checkinteger(L, 2), length), (int)byte, (size_t)length);
    touch_all(v);
    return 0;
}

/* memory:find(string[, from = 0]) -> address or nil */
static int memory_find(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    size_t length;
    const char *what = luaL_checklstring(L, 2, &length);
    lua_Integer from = luaL_optinteger(L, 3, 0);
    const uint8_t *at = range(L, v, from, 0);
    const uint8_t *hit = memmem(at, (size_t)(v->vm.m.mem.size - (uint64_t)from), what, length);
    if (hit)
        lua_pushinteger(L, hit - v->vm.m.mem.ram);
    else
        luaL_pushfail(L);
    return 1;
}

static void hexdump_line(luaL_Buffer *b, uint64_t address, const uint8_t *at, size_t length)
{
    char line[100];
    int used = snprintf(line, sizeof(line), "%08llx ", (unsigned long long)address);
    for (size_t i = 0; i < 16; i++)
        used += snprintf(line + used, sizeof(line) - (size_t)used, i < length ? " %02x" : "   ",
                         i < length ? at[i] : 0);
    line[used++] = ' ';
    line[used++] = ' ';
    for (size_t i = 0; i < length; i++)
        line[used++] = at[i] >= 32 && at[i] < 127 ? (char)at[i] : '.';
    line[used++] = '\n';
    luaL_addlstring(b, line, (size_t)used);
}

/* memory:hexdump(address, length) -> lines of 16 bytes */
static int memory_hexdump(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2), length = luaL_checkinteger(L, 3);
    const uint8_t *at = range(L, v, address, length);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (size_t i = 0; i < (size_t)length; i += 16) {
        size_t left = (size_t)length - i;
        hexdump_line(&b, (uint64_t)address + i, at + i, left < 16 ? left : 16);
    }
    luaL_pushresult(&b);
    return 1;
}

static int memory_size(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)mk_check_child(L, 1, MK_MEMORY)->vm.m.mem.size);
    return 1;
}

void mk_open_memory(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__len", memory_size }, { NULL, NULL } };
    static const luaL_Reg methods[] = {
        { "read", memory_read }, { "write", memory_write }, { "u8", memory_u8 },
        { "u16", memory_u16 }, { "u32", memory_u32 }, { "u64", memory_u64 },
        { "cstring", memory_cstring }, { "fill", memory_fill }, { "find", memory_find },
        { "hexdump", memory_hexdump }, { "size", memory_size }, { NULL, NULL } };
    mk_new_type(L, MK_MEMORY, meta, methods);
}
