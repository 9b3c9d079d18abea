/* memory.c - vm.memory: guest RAM by guest-physical address. What Lua gets is a copy. */
#include "lua/core.h"

#include <string.h>

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
        const char *bytes = mk_mem_piece(mem, at, (n = left, &n));
        if (!bytes)
            break;
        size_t length = strnlen(bytes, n);
        luaL_addlstring(&b, bytes, length);
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
    uint64_t at = (uint64_t)address, left = (uint64_t)length;
    for (uint64_t n; left; at += n, left -= n) {
        void *to = mk_mem_writable_piece(mem, at, (n = left, &n));
        if (!to)
            return luaL_error(L, "memory at 0x%I is gone: its file became shorter",
                              (lua_Integer)at);
        memset(to, (int)byte, n);
    }
    set_all_ready(v);
    return 0;
}

/* The first place from `at` on where `what` lies in one region, or in two that meet. */
static bool find(const struct mk_mem *mem, uint64_t at, const char *what, size_t length,
                 uint64_t *hit)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        uint64_t end = r->gpa + r->size, from = at > r->gpa ? at : r->gpa;
        const char *bytes = from < end ? mk_mem_at(mem, from, end - from) : NULL;
        const char *found = bytes ? memmem(bytes, end - from, what, length) : NULL;
        if (found) {
            *hit = from + (uint64_t)(found - bytes);
            return true;
        }
        uint64_t first = length <= r->size ? end - length + 1 : r->gpa; /* beyond the end */
        for (uint64_t k = first > from ? first : from; i + 1 < mem->count && k < end; k++) {
            size_t here = end - k;
            const char *rest = mk_mem_at(mem, k, here), *next = mk_mem_at(mem, end, length - here);
            if (!next || !rest)
                break;
            if (memcmp(rest, what, here) == 0 && memcmp(next, what + here, length - here) == 0) {
                *hit = k;
                return true;
            }
        }
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
    uint64_t hit = 0;
    bool found = find(check_range(L, v, from, 0, false), (uint64_t)from, what, length, &hit);
    return mk_push_optional(L, found, hit);
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

const struct mk_exports mk_memory_exports[] = {
    { .type = MK_MEMORY, .meta = meta, .methods = methods }, MK_END
};
