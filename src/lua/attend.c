/* attend.c - what a debugger in Lua asks of a VM: to be called when something has happened (vm.h,
 * mk_vm_attend), and to keep the vCPUs outside the guest. For lua/minikvm/gdb. */
#include "lua/core.h"

/* set_attend(vm, fn | nil, holds): fn() is called on a vCPU's thread when attention is asked for;
 * whether it may hold the VM. */
static int set_attend(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    bool holds = lua_toboolean(L, 3);
    lua_settop(L, 2);
    int old = v->attend_ref;
    v->attend_ref = lua_isnil(L, 2) ? 0 : mk_lua_ref(L, 1, 2);
    v->vm.holds = holds;
    if (old)
        mk_lua_unref(L, 1, old);
    return 0;
}

void mk_lua_attend(void *ctx, struct mk_vcpu *cpu)
{
    struct mk_lua_vm *v = ctx;
    if (v->attend_ref)
        mk_lua_notify(v, cpu->cpu.index, "the debugger", &v->attend_ref, "");
}

/* wait_attention(vm, seconds | nil) -> whether attention is asked for; takes it. Of a VM that does
 * not run. */
static int wait_attention(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    uint64_t ns = mk_opt_seconds(L, 2);
    mk_check_outside_handler(L, "waiting for a debugger");
    lua_pushboolean(L, mk_lua_wait_vm(L, v, ns, mk_vm_wants_attention, &v->vm));
    v->vm.attention = false;
    return 1;
}

/* hold(vm, on): its vCPUs stay outside the guest for the debugger; at the begin of the next run. */
static int hold(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    (lua_toboolean(L, 2) ? mk_vm_pause : mk_vm_resume)(&v->vm, MK_PAUSED_BY_DEBUGGER);
    return 0;
}

/* hold_cpu(vm, number, on): this one stays outside the guest also when the VM goes on. */
static int hold_cpu(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    lua_Integer cpu = luaL_checkinteger(L, 2);
    luaL_argcheck(L, cpu >= 0 && cpu < (lua_Integer)v->vm.cpus, 2, "no such cpu");
    v->vm.cpu[cpu]->c.held = lua_toboolean(L, 3);
    return 0;
}

/* held(vm) -> true: all its vCPUs are outside the guest for the debugger; false: not, or not yet;
 * nil: it does not run */
static int held(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_vm_wait(&v->vm, 0)
        ? luaL_pushfail(L)
        : lua_pushboolean(L, v->vm.paused & MK_PAUSED_BY_DEBUGGER && mk_vm_is_paused(&v->vm));
    return 1;
}

/* attend(vm): attention is asked for. */
static int attend(lua_State *L)
{
    mk_vm_attend(&mk_check_vm(L, 1)->vm);
    return 0;
}

static const luaL_Reg core[] = { MK_FN(attend), MK_FN(set_attend), MK_FN(wait_attention),
                                 MK_FN(hold),   MK_FN(hold_cpu),   MK_FN(held),
                                 MK_END };

MK_EXPORTS = { { .core = core } };
