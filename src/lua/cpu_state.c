/* cpu_state.c - a vCPU as a debugger wants it: its state as KVM's structures, MSRs, and memory by
 * linear address. For lua/minikvm/gdb, which knows what is in them. As for vm.cpu[i]: while the VM
 * does not run or is paused, or inside a handler of the vCPU. */
#include "debug/instruction.h"
#include "lua/core.h"
#include "x86/mode.h"

#include <string.h>

#define LONGEST_READ (UINT64_C(1) << 20)

/* --- structures of KVM's --- */

enum { REGS, SREGS, FPU, DEBUG_REGS };
static const char *const names[] = { "regs", "sregs", "fpu", "debugregs", NULL };

union state {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_fpu fpu;
    struct kvm_debugregs debug;
};

static const size_t sizes[] = { sizeof(struct kvm_regs), sizeof(struct kvm_sregs),
                                sizeof(struct kvm_fpu), sizeof(struct kvm_debugregs) };

/* RIP as handlers see it. */
static int get(struct mk_vcpu *c, int which, union state *s)
{
    uint64_t rip;
    switch (which) {
    case REGS:
        rip = mk_access_rip(c);
        s->regs = *mk_vcpu_get_regs(c);
        s->regs.rip = rip;
        return c->regs_known ? 0 : -1;
    case SREGS: return mk_vcpu_get_guest_sregs(c, &s->sregs);
    case FPU: return mk_ioctl(c->fd, KVM_GET_FPU, &s->fpu);
    default: return mk_ioctl(c->fd, KVM_GET_DEBUGREGS, &s->debug);
    }
}

/* The debugger's own breakpoints need the debug registers. */
static int set(struct mk_vcpu *c, int which, union state *s)
{
    switch (which) {
    case REGS: return mk_vcpu_set_regs(c, &s->regs);
    case SREGS: return mk_vcpu_set_guest_sregs(c, &s->sregs);
    case FPU: return mk_ioctl(c->fd, KVM_SET_FPU, &s->fpu);
    default: return -1;
    }
}

/* state(cpu, "regs" | "sregs" | "fpu" | "debugregs") -> the bytes of that struct kvm_... */
static int get_state(lua_State *L)
{
    struct mk_lua_vm *v;
    union state s;
    struct mk_vcpu *c = mk_check_cpu(L, &v);
    int which = luaL_checkoption(L, 2, NULL, names);
    if (get(c, which, &s) < 0)
        return mk_lua_error(L, "KVM does not tell this state: %s", names[which]);
    lua_pushlstring(L, (const char *)&s, sizes[which]);
    return 1;
}

/* set_state(cpu, "regs" | "sregs" | "fpu", bytes) */
static int set_state(lua_State *L)
{
    struct mk_lua_vm *v;
    union state s;
    size_t length;
    struct mk_vcpu *c = mk_check_settable_cpu(L, &v);
    int which = luaL_checkoption(L, 2, NULL, names);
    const char *bytes = luaL_checklstring(L, 3, &length);
    luaL_argcheck(L, length == sizes[which], 3, "of another size");
    memcpy(&s, bytes, length);
    if (set(c, which, &s) < 0)
        return mk_lua_error(L, "KVM refuses this state: %s", names[which]);
    if (which != FPU)
        mk_vm_restart_cpu(&v->vm, c->cpu.index);
    return 0;
}

/* msr(cpu, index) -> value; nil: KVM has none of that number */
static int get_msr(lua_State *L)
{
    struct mk_lua_vm *v;
    const struct mk_vcpu *c = mk_check_cpu(L, &v);
    uint64_t value = 0;
    if (!mk_vcpu_msr(c, KVM_GET_MSRS, (uint32_t)luaL_checkinteger(L, 2), &value))
        return 0;
    lua_pushinteger(L, (lua_Integer)value);
    return 1;
}

/* set_msr(cpu, index, value) -> whether KVM takes it */
static int set_msr(lua_State *L)
{
    struct mk_lua_vm *v;
    const struct mk_vcpu *c = mk_check_settable_cpu(L, &v);
    uint32_t index = (uint32_t)luaL_checkinteger(L, 2);
    uint64_t value = (uint64_t)luaL_checkinteger(L, 3);
    lua_pushboolean(L, mk_vcpu_msr(c, KVM_SET_MSRS, index, &value));
    return 1;
}

/* --- memory by linear address --- */

struct view {
    const struct mk_mem *mem;
    struct kvm_sregs sregs;
};

static struct view check_view(lua_State *L)
{
    struct mk_lua_vm *v;
    struct view view;
    struct mk_vcpu *c = mk_check_cpu(L, &v);
    if (mk_vcpu_get_guest_sregs(c, &view.sregs) < 0)
        mk_lua_error(L, "KVM does not tell the system registers");
    view.mem = &v->vm.mem;
    return view;
}

/* How many of `length` bytes from `linear` on lie one behind the other, and where; 0: none. */
static uint64_t translate(const struct view *view, uint64_t linear, uint64_t length, uint64_t *at)
{
    struct mk_walk w = mk_walk(view->mem, &view->sregs, linear);
    uint64_t left = MK_PAGE - linear % MK_PAGE;
    bool beyond = linear >> 32 && !(view->sregs.efer & MK_EFER_LMA);
    *at = w.address;
    return w.present && !beyond ? mk_mem_span(view->mem, w.address, left < length ? left : length)
                                : 0;
}

/* linear_read(cpu, address, length) -> bytes: as many as there are, up to 1 MiB */
static int linear_read(lua_State *L)
{
    struct view view = check_view(L);
    uint64_t linear = (uint64_t)luaL_checkinteger(L, 2);
    uint64_t length = (uint64_t)luaL_checkinteger(L, 3);
    luaL_Buffer b;
    if (length > LONGEST_READ)
        length = LONGEST_READ;
    char *bytes = luaL_buffinitsize(L, &b, length);
    luaL_pushresultsize(&b, mk_linear_copy(view.mem, &view.sregs, linear, bytes, length, false));
    return 1;
}

/* Whether all of it is memory that can be written to. */
static bool is_writable(const struct view *view, uint64_t linear, uint64_t length)
{
    for (uint64_t n, at; length; linear += n, length -= n) {
        n = translate(view, linear, length, &at);
        if (n == 0 || !mk_mem_has(view->mem, at, n, true))
            return false;
    }
    return true;
}

/* linear_write(cpu, address, bytes) -> whether they were written: all, or none */
static int linear_write(lua_State *L)
{
    struct view view = check_view(L);
    size_t length;
    uint64_t linear = (uint64_t)luaL_checkinteger(L, 2);
    void *bytes = (void *)(uintptr_t)luaL_checklstring(L, 3, &length);
    bool fits = is_writable(&view, linear, length); /* and a table may change */
    lua_pushboolean(L, fits && mk_linear_copy(view.mem, &view.sregs, linear, bytes, length, true) ==
                                   length);
    return 1;
}

static const luaL_Reg core[] = { { "state", get_state },
                                 MK_FN(set_state),
                                 { "msr", get_msr },
                                 MK_FN(set_msr),
                                 MK_FN(linear_read),
                                 MK_FN(linear_write),
                                 MK_END };

MK_EXPORTS = { { .core = core } };
