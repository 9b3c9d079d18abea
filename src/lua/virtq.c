/* virtq.c - virtqueues for kvm.virtio (lua/minikvm/device/virtio.lua), which knows what a queue is
 * and what was taken of it. The first argument is vm.memory, the second a table { size=, desc=,
 * driver=, device=, indirect=, event= }. What a driver has made malformed is nil and a sentence. */
#include "lua/core.h"

#include "dev/virtq.h"

struct mk_virtq mk_virtq_field(lua_State *L, int index)
{
    luaL_checktype(L, index, LUA_TTABLE);
    lua_Integer size = mk_integer_field(L, index, "size", 0);
    return (struct mk_virtq){ .size = size >= 0 && size <= MK_VIRTQ_MAX ? (uint16_t)size : 0,
                              .desc = (uint64_t)mk_integer_field(L, index, "desc", 0),
                              .driver = (uint64_t)mk_integer_field(L, index, "driver", 0),
                              .device = (uint64_t)mk_integer_field(L, index, "device", 0),
                              .indirect = mk_true_field(L, index, "indirect"),
                              .event = mk_true_field(L, index, "event") };
}

static const struct mk_mem *check_queue(lua_State *L, struct mk_virtq *q)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    *q = mk_virtq_field(L, 2);
    return &v->vm.mem;
}

static int fail(lua_State *L, const struct mk_err *err)
{
    luaL_pushfail(L);
    lua_pushstring(L, err->text);
    return 2;
}

/* virtq_check(memory, queue) -> true */
static int virtq_check(lua_State *L)
{
    struct mk_virtq q;
    struct mk_err err;
    const struct mk_mem *mem = check_queue(L, &q);
    if (mk_virtq_check(mem, &q, &err) < 0)
        return fail(L, &err);
    lua_pushboolean(L, true);
    return 1;
}

/* virtq_next(memory, queue, last) -> head; false: there is none */
static int virtq_next(lua_State *L)
{
    struct mk_virtq q;
    struct mk_err err;
    uint16_t head = 0;
    const struct mk_mem *mem = check_queue(L, &q);
    int rc = mk_virtq_next(mem, &q, (uint16_t)luaL_checkinteger(L, 3), &head, &err);
    if (rc < 0)
        return fail(L, &err);
    if (rc > 0)
        lua_pushinteger(L, head);
    else
        lua_pushboolean(L, false);
    return 1;
}

static void push_parts(lua_State *L, const struct mk_virtq_part *part, unsigned count)
{
    lua_createtable(L, (int)(2 * count), 0);
    for (unsigned i = 0; i < count; i++) {
        lua_pushinteger(L, (lua_Integer)part[i].at);
        lua_rawseti(L, -2, (lua_Integer)(2 * i + 1));
        lua_pushinteger(L, part[i].length);
        lua_rawseti(L, -2, (lua_Integer)(2 * i + 2));
    }
}

/* virtq_walk(memory, queue, head) -> { address, length, ... } to read, the same to write, bytes of
 * both */
static int virtq_walk(lua_State *L)
{
    struct mk_virtq q;
    struct mk_virtq_chain chain;
    struct mk_err err;
    const struct mk_mem *mem = check_queue(L, &q);
    if (mk_virtq_walk(mem, &q, (uint16_t)luaL_checkinteger(L, 3), &chain, &err) < 0)
        return fail(L, &err);
    push_parts(L, chain.part, chain.readable);
    push_parts(L, chain.part + chain.readable, chain.count - chain.readable);
    lua_pushinteger(L, (lua_Integer)chain.read_bytes);
    lua_pushinteger(L, (lua_Integer)chain.write_bytes);
    return 4;
}

/* virtq_push(memory, queue, used, head, written) -> true */
static int virtq_push(lua_State *L)
{
    struct mk_virtq q;
    struct mk_err err;
    const struct mk_mem *mem = check_queue(L, &q);
    if (mk_virtq_push(mem, &q, (uint16_t)luaL_checkinteger(L, 3), (uint16_t)luaL_checkinteger(L, 4),
                      (uint32_t)luaL_checkinteger(L, 5), &err) < 0)
        return fail(L, &err);
    lua_pushboolean(L, true);
    return 1;
}

/* virtq_wants_irq(memory, queue, before, used) */
static int virtq_wants_irq(lua_State *L)
{
    struct mk_virtq q;
    const struct mk_mem *mem = check_queue(L, &q);
    lua_pushboolean(L, mk_virtq_wants_irq(mem, &q, (uint16_t)luaL_checkinteger(L, 3),
                                          (uint16_t)luaL_checkinteger(L, 4)));
    return 1;
}

/* virtq_want_notify(memory, queue, last) */
static int virtq_want_notify(lua_State *L)
{
    struct mk_virtq q;
    const struct mk_mem *mem = check_queue(L, &q);
    mk_virtq_want_notify(mem, &q, (uint16_t)luaL_checkinteger(L, 3));
    return 0;
}

static const luaL_Reg core[] = { MK_FN(virtq_check),
                                 MK_FN(virtq_next),
                                 MK_FN(virtq_walk),
                                 MK_FN(virtq_push),
                                 MK_FN(virtq_wants_irq),
                                 MK_FN(virtq_want_notify),
                                 MK_END };

MK_EXPORTS = { { .core = core } };
