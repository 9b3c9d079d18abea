/* unhandled.c - vm:on_unhandled(fn): accesses that no device and no hook serves, shown to the
 * script, which may serve them. */
#include "lua/hooks.h"

struct question {
    struct mk_lua_vm *v;
    struct mk_io *io;
    bool in, served;
    uint64_t *value;
};

/* Takes what fn answered: an integer that fits serves a read, true a write. */
static void read_answer(lua_State *co, struct question *q)
{
    bool nothing = lua_isnil(co, -1) || (lua_isboolean(co, -1) && !lua_toboolean(co, -1));
    q->served = !q->in && lua_isboolean(co, -1) && !nothing;
    if (q->in && lua_isinteger(co, -1)) {
        *q->value = (uint64_t)lua_tointeger(co, -1);
        q->served = *q->value <= mk_mask(q->io->size);
    }
    if (!q->served && !nothing)
        mk_lua_bad_answer(
            q->v, q->io->cpu->index,
            "the on_unhandled handler answered a %s that does "
            "not serve this: an integer that fits for reads, true for writes, or nothing",
            luaL_typename(co, -1));
}

static int call_unhandled(lua_State *co)
{
    static const char *const what[][2] = { { "out", "in" },
                                           { "write", "read" },
                                           { "wrmsr", "rdmsr" } };
    struct question *q = lua_touserdata(co, 1);
    if (!q->v->unhandled_ref) /* removed while we waited for the lock */
        return 0;
    q->v->unhandled_hits++;
    mk_lua_push_handler(q->v, co, q->v->unhandled_ref);
    lua_pushstring(co, what[q->io->bus->space][q->in]);
    lua_pushinteger(co, (lua_Integer)q->io->address);
    if (q->in)
        lua_pushnil(co);
    else
        lua_pushinteger(co, (lua_Integer)*q->value);
    lua_pushinteger(co, q->io->size);
    lua_call(co, 4, 1);
    read_answer(co, q);
    return 0;
}

static bool call_script(void *ctx, struct mk_io *io, bool in, uint64_t *value, bool *script)
{
    struct mk_lua_vm *v = ctx;
    struct question q = { .v = v, .io = io, .in = in, .value = value };
    if (v->unhandled_ref && !mk_lua_failed(v, io->cpu->index))
        mk_lua_call(v, io->cpu->index, NULL, call_unhandled, &q);
    if (q.served)
        *script = true;
    return q.served;
}

void mk_lua_connect_unhandled(struct mk_lua_vm *v)
{
    struct mk_vm *vm = &v->vm;
    vm->bus.on_unhandled = vm->mmio.on_unhandled = v->vm.on_unhandled_msr = call_script;
    vm->bus.unhandled_ctx = vm->mmio.unhandled_ctx = v->vm.unhandled_msr_ctx = v;
}

static uint64_t unhandled_hits(struct mk_lua_vm *v, struct mk_handle *h)
{
    (void)h;
    return v->unhandled_hits;
}

static void unhandled_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index)
{
    struct mk_err err;
    (void)h;
    mk_lua_unref(L, vm_index, v->unhandled_ref);
    v->unhandled_ref = 0; /* vCPUs may still be on the way: they find nothing to call */
    v->vm.unknown_msrs = false;
    mk_vm_filter_msrs(&v->vm, &err);
}

/* vm:on_unhandled(fn(what, address, value, size)) -> handle. `what` is "in", "out", "read",
 * "write", "rdmsr" or "wrmsr"; a read is served by the integer that fn returns, a write by true. */
static int vm_on_unhandled(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (v->unhandled_ref)
        return mk_lua_error(L, "vm \"%s\" has an on_unhandled handler: remove() its handle first",
                            v->vm.name);
    struct mk_handle *handle = mk_new_handle(L, 1);
    v->unhandled_hits = 0;
    v->unhandled_ref = mk_lua_ref(L, 1, 2);
    v->vm.unknown_msrs = true;
    mk_vm_filter_msrs(&v->vm, &err); /* an old kernel keeps its MSRs to itself */
    *handle = (struct mk_handle){ .remove = unhandled_remove, .count = unhandled_hits };
    return 1;
}

static const luaL_Reg methods[] = { { "on_unhandled", vm_on_unhandled }, MK_END };

MK_EXPORTS = { { .extends = MK_VM, .methods = methods } };
