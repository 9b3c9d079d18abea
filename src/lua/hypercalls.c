/* hypercalls.c - vm.hypercalls: calls of the guest, answered in Lua. Which functions a number has
 * is known in lua/minikvm/device/hypercalls.lua; here is the one that calls them.
 *
 * Under the Lua lock; a vCPU looks whether there is one without it. */
#include "lua/core.h"

#include <stdio.h>

/* --- the vCPU's side --- */

struct call {
    struct mk_lua_vm *v;
    struct mk_cpu *cpu;
    uint8_t number;
    bool taken;
    uint32_t *value;
};

/* What fn returned, on top, is what the guest's next IN reads. */
static uint32_t read_answer(lua_State *L, uint8_t number)
{
    lua_Integer answer = lua_tointeger(L, -1);
    if (!lua_isnil(L, -1) && (!lua_isinteger(L, -1) || answer < 0 || answer > UINT32_MAX)) {
        char text[120];
        snprintf(text, sizeof(text),
                 "hypercall 0x%02x answered a %s: it must return an integer of 0 to 0xffffffff, or "
                 "nothing",
                 number, luaL_typename(L, -1));
        lua_pushstring(L, text);
        lua_error(L);
    }
    return (uint32_t)answer;
}

static int call_handler(lua_State *co)
{
    struct call *c = lua_touserdata(co, 1);
    int ref = c->v->calls[c->number];
    if (!ref) /* removed while we waited for the lock */
        return 0;
    c->taken = true;
    mk_lua_push_handler(c->v, co, ref);
    lua_pushinteger(co, (lua_Integer)c->cpu->ops->reg(c->cpu, MK_RBX));
    lua_pushinteger(co, c->cpu->index);
    lua_call(co, 2, 1);
    *c->value = read_answer(co, c->number);
    return 0;
}

bool mk_lua_hypercall(void *ctx, struct mk_io *io, uint8_t number, uint32_t *value)
{
    struct mk_lua_vm *v = ctx;
    struct call c = { .v = v, .cpu = io->cpu, .number = number, .value = value };
    return v->calls[number] && (mk_lua_call(v, io->cpu->index, "a hypercall's handler",
                                            call_handler, &c) != MK_CALL_DONE ||
                                c.taken);
}

/* --- the script's side --- */

static uint8_t check_number(lua_State *L)
{
    lua_Integer number = luaL_checkinteger(L, 2);
    luaL_argcheck(L, number >= 0 && number <= 255, 2, "a hypercall number is 0 to 255");
    return (uint8_t)number;
}

/* hypercall(object, number, fn(argument, cpu) -> answer | nil): who answers it, before the built-in
 * call; nil: nobody does. */
static int hypercall(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_HYPERCALLS);
    uint8_t number = check_number(L);
    lua_settop(L, 3);
    lua_getiuservalue(L, 1, 1);
    int old = v->calls[number];
    v->calls[number] = lua_isnil(L, 3) ? 0 : mk_lua_ref(L, 4, 3);
    if (old)
        mk_lua_unref(L, 4, old);
    return 0;
}

/* hypercall_builtin(object, number) -> its answer: the built-in call, inside a handler of the VM */
static int hypercall_builtin(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_HYPERCALLS);
    uint8_t number = check_number(L);
    int cpu = mk_lua_handler_cpu(v);
    if (cpu < 0)
        return mk_lua_error(L, "next() belongs to a call that is over: call it inside the handler");
    struct mk_io io = { .cpu = &v->vm.cpu[cpu]->c.cpu };
    lua_pushinteger(L, mk_hypercall_builtin(&v->vm.hypercall, &io, number));
    return 1;
}

/* hypercall_answer(number, answer of a handler) -> the integer that it stands for; raises when it
 * is none */
static int hypercall_answer(lua_State *L)
{
    lua_settop(L, 2);
    lua_pushinteger(L, read_answer(L, (uint8_t)luaL_checkinteger(L, 1)));
    return 1;
}

static const luaL_Reg core[] = { MK_FN(hypercall), MK_FN(hypercall_builtin),
                                 MK_FN(hypercall_answer), MK_END };

MK_EXPORTS = { { .type = MK_HYPERCALLS, .core = core } };
