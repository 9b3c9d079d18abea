/* hypercalls.c - vm.hypercalls: calls of the guest, answered in Lua. The methods are in
 * lua/minikvm/device/hypercalls.lua, which checks what a script gives.
 *
 * The handlers of one number form a stack above the built-in call, if it has one. Under the Lua
 * lock; a vCPU looks whether there is any without it. */
#include "lua/core.h"

#include <stdlib.h>

#define CALLS_MAX 1024 /* handlers of one number */

enum call_kind { DEFINE, OVERRIDE, TAP };

struct mk_call {
    struct mk_call *beneath;
    uint64_t order; /* newer ones have higher numbers */
    enum call_kind kind;
    uint8_t number;
    int ref;
    uint64_t hits;
};

/* --- the vCPU's side --- */

/* The topmost handler older than `order`: found anew each time, because handlers may remove
 * themselves and others. */
static struct mk_call *below(const struct mk_lua_vm *v, uint8_t number, uint64_t order)
{
    struct mk_call *call = v->calls[number];
    while (call && call->order >= order)
        call = call->beneath;
    return call;
}

/* A handler's turn. */
struct turn {
    struct mk_lua_vm *v;
    struct mk_frame frame;
    bool found, tap;
    uint32_t *value;
};

/* What fn returned is what the guest's next IN reads. */
static void read_answer(lua_State *co, const struct turn *t)
{
    if (lua_isinteger(co, -1) && (uint64_t)lua_tointeger(co, -1) <= UINT32_MAX)
        *t->value = (uint32_t)lua_tointeger(co, -1);
    else if (!lua_isnil(co, -1))
        mk_lua_bad_answer(t->v, t->frame.io->cpu->index,
                          "hypercall 0x%02x answered a %s: it must "
                          "return an integer of 0 to 0xffffffff, or nothing",
                          t->frame.number, luaL_typename(co, -1));
}

/* The handler below the order in t->frame, if there is one. */
static int call_below(lua_State *co)
{
    struct turn *t = lua_touserdata(co, 1);
    struct mk_cpu *cpu = t->frame.io->cpu;
    struct mk_call *call = below(t->v, t->frame.number, t->frame.order);
    if (!call)
        return 0;
    bool next = call->kind == OVERRIDE;
    t->found = true;
    t->tap = call->kind == TAP;
    t->frame.order = call->order;
    call->hits++;
    mk_lua_push_handler(t->v, co, call->ref);
    lua_pushinteger(co, (lua_Integer)cpu->ops->reg(cpu, MK_RBX));
    lua_pushinteger(co, cpu->index);
    if (next) {
        lua_pushvalue(t->v->anchor, MK_AT_NEXT + (int)cpu->index);
        lua_xmove(t->v->anchor, co, 1);
    }
    lua_call(co, 2 + next, 1);
    if (!t->tap)
        read_answer(co, t);
    return 0;
}

static uint32_t next_call(struct mk_lua_vm *v, const struct mk_frame *frame);

/* The handlers below `order`: taps, and the first that is none. False when the built-in call, or
 * nobody, is to have it. */
static bool run_below(struct mk_lua_vm *v, struct mk_io *io, uint8_t number, uint64_t order,
                      uint32_t *value)
{
    struct mk_lua_cpu *lc = v->cpu[io->cpu->index];
    struct turn t = { .v = v,
                      .value = value,
                      .frame = { .io = io,
                                 .call = next_call,
                                 .number = number,
                                 .order = order,
                                 .above = lc->frame } };
    enum mk_call_result called;
    lc->frame = &t.frame;
    do {
        t.found = t.tap = false;
        called = mk_lua_call(v, io->cpu->index, "a hypercall's handler", call_below, &t);
    } while (t.tap && called == MK_CALL_DONE);
    lc->frame = t.frame.above;
    return t.found || called != MK_CALL_DONE;
}

/* next() of a hypercall. */
static uint32_t next_call(struct mk_lua_vm *v, const struct mk_frame *frame)
{
    uint32_t value = 0;
    if (!run_below(v, frame->io, frame->number, frame->order, &value))
        value = mk_hypercall_builtin(&v->vm.hypercall, frame->io, frame->number);
    return value;
}

bool mk_lua_hypercall(void *ctx, struct mk_io *io, uint8_t number, uint32_t *value)
{
    struct mk_lua_vm *v = ctx;
    return v->calls[number] && run_below(v, io, number, UINT64_MAX, value);
}

/* --- the script's side --- */

static uint64_t call_hits(struct mk_lua_vm *v, struct mk_handle *h)
{
    (void)v;
    return ((const struct mk_call *)h->target)->hits;
}

static void call_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index)
{
    struct mk_call *call = h->target, *_Atomic *top = &v->calls[call->number];
    struct mk_call *above = *top;
    mk_lua_unref(L, vm_index, call->ref);
    if (above == call) {
        *top = call->beneath;
    } else {
        while (above->beneath != call)
            above = above->beneath;
        above->beneath = call->beneath;
    }
    free(call);
}

void mk_lua_free_calls(struct mk_lua_vm *v)
{
    for (unsigned i = 0; i < MK_COUNT(v->calls); i++)
        while (v->calls[i]) {
            struct mk_call *call = v->calls[i];
            v->calls[i] = call->beneath;
            free(call);
        }
}

static uint8_t check_number(lua_State *L)
{
    lua_Integer number = luaL_checkinteger(L, 2);
    luaL_argcheck(L, number >= 0 && number <= 255, 2, "a hypercall number is 0 to 255");
    return (uint8_t)number;
}

/* hypercall_defined(object, number) -> whether a handler defines it */
static int hypercall_defined(lua_State *L)
{
    const struct mk_lua_vm *v = mk_check_child(L, 1, MK_HYPERCALLS);
    const struct mk_call *call = v->calls[check_number(L)];
    while (call && call->kind != DEFINE)
        call = call->beneath;
    lua_pushboolean(L, call != NULL);
    return 1;
}

static void check_room(lua_State *L, const struct mk_lua_vm *v, uint8_t number)
{
    unsigned depth = 0;
    for (const struct mk_call *call = v->calls[number]; call; call = call->beneath)
        depth++;
    if (depth >= CALLS_MAX)
        mk_lua_error(L, "hypercall 0x%02x has %d handlers, the most there may be: remove() some",
                     number, CALLS_MAX);
}

/* hypercall(object, number, "define" | "override" | "tap", fn) -> handle */
static int hypercall(lua_State *L)
{
    static const char *const kinds[] = { "define", "override", "tap", NULL };
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_HYPERCALLS);
    uint8_t number = check_number(L);
    enum call_kind kind = (enum call_kind)luaL_checkoption(L, 3, NULL, kinds);
    check_room(L, v, number);
    lua_settop(L, 4);
    lua_getiuservalue(L, 1, 1);
    struct mk_handle *h = mk_new_handle(L, 5);
    int ref = mk_lua_ref(L, 5, 4);
    struct mk_call *call = malloc(sizeof(*call));
    if (!call)
        return mk_lua_error(L, "out of memory for a hypercall");
    *call = (struct mk_call){ .beneath = v->calls[number],
                              .order = ++v->call_orders,
                              .kind = kind,
                              .number = number,
                              .ref = ref };
    *h = (struct mk_handle){ .remove = call_remove, .count = call_hits, .target = call };
    v->calls[number] = call;
    return 1;
}

static const luaL_Reg core[] = { MK_FN(hypercall), MK_FN(hypercall_defined), MK_END };

const struct mk_exports mk_hypercalls_exports[] = { { .type = MK_HYPERCALLS, .core = core },
                                                    MK_END };
