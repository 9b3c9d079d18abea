/* cpu.c - vm.cpu[i]: registers both ways.
 *
 * Registers may be used while the VM does not run, and inside a handler of the same vCPU. */
#include "debug/instruction.h"
#include "kvm/interrupt.h"
#include "lua/core.h"
#include "x86/mode.h"

#include <string.h>

struct box {
    unsigned index;
};

/* A register, as lua/minikvm/vm/registers.lua has packed it into the integer under its name in
 * core.registers. */
enum { GENERAL, SYSTEM, SELECTOR };
struct field {
    uint16_t offset; /* into struct kvm_regs or kvm_sregs */
    uint8_t shift, bytes, where;
};

static const char registers; /* its address is the registry's key of that table */

/* Pushes the table, which its part fills when it is first wanted. */
static void push_registers(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &registers);
    lua_pushnil(L);
    if (lua_next(L, -2)) {
        lua_pop(L, 2);
    } else {
        mk_lua_part(L, "vm.registers");
        lua_call(L, 0, 0);
    }
}

/* The register that the key at index 2 names; false when there is none. */
static bool find_register(lua_State *L, struct field *f)
{
    push_registers(L);
    lua_pushvalue(L, 2);
    bool found = lua_rawget(L, -2) == LUA_TNUMBER;
    uint64_t code = (uint64_t)lua_tointeger(L, -1);
    *f = (struct field){ (uint16_t)code, (uint8_t)(code >> 16), (uint8_t)(code >> 24),
                         (uint8_t)(code >> 32) };
    return found;
}

struct mk_vcpu *mk_check_cpu(lua_State *L, struct mk_lua_vm **vm)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_CPU);
    const struct box *box = lua_touserdata(L, 1);
    mk_check_cpus(L, v);
    if (!mk_vm_wait(&v->vm, 0) && v->lua->handler != v->cpu[box->index] && !mk_vm_is_paused(&v->vm))
        mk_lua_error(L,
                     "cpu %d of vm \"%s\" is running: stop or pause the vm first, or look from a "
                     "handler of this cpu",
                     (int)box->index, v->vm.name);
    *vm = v;
    return &v->vm.cpu[box->index]->c;
}

static void read_sregs(lua_State *L, struct mk_vcpu *c, struct kvm_sregs *s)
{
    if (mk_vcpu_get_guest_sregs(c, s) < 0)
        mk_lua_error(L, "KVM does not tell the system registers");
}

static uint64_t load(const void *base, const struct field *f)
{
    uint64_t value;
    memcpy(&value, (const char *)base + f->offset, 8);
    return value >> f->shift & mk_mask(f->bytes);
}

/* As the processor does: a 32-bit write clears the upper half, narrower ones leave the rest. */
static void store(void *base, const struct field *f, uint64_t value)
{
    uint64_t old, mask = mk_mask(f->bytes) << f->shift;
    memcpy(&old, (char *)base + f->offset, 8);
    if (f->bytes >= 4)
        old = 0;
    old = (old & ~mask) | (value << f->shift & mask);
    memcpy((char *)base + f->offset, &old, 8);
}

static struct kvm_segment *segment_at(struct kvm_sregs *s, const struct field *f)
{
    return (struct kvm_segment *)((char *)s + f->offset);
}

static struct kvm_regs read_regs(lua_State *L, struct mk_vcpu *c)
{
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    if (!c->regs_known)
        mk_lua_error(L, "KVM does not tell the registers");
    return regs;
}

/* The general registers, RIP as handlers see it. */
static struct kvm_regs seen_regs(lua_State *L, struct mk_vcpu *c)
{
    uint64_t rip = mk_access_rip(c);
    struct kvm_regs regs = read_regs(L, c);
    regs.rip = rip;
    return regs;
}

static int cpu_index(lua_State *L)
{
    struct mk_lua_vm *v;
    struct field f;
    struct kvm_sregs s;
    const char *name = luaL_checkstring(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    struct mk_vcpu *c = mk_check_cpu(L, &v);
    bool found = find_register(L, &f);
    if (found && f.where == GENERAL) {
        struct kvm_regs regs =
            f.offset == offsetof(struct kvm_regs, rip) ? seen_regs(L, c) : read_regs(L, c);
        lua_pushinteger(L, (lua_Integer)load(&regs, &f));
    } else if (found) {
        read_sregs(L, c, &s);
        lua_pushinteger(L, f.where == SYSTEM ? (lua_Integer)load(&s, &f)
                                             : segment_at(&s, &f)->selector);
    } else if (strcmp(name, "index") == 0) {
        lua_pushinteger(L, c->cpu.index);
    } else if (strcmp(name, "tsc_hz") == 0) {
        int khz = mk_ioctl(c->fd, KVM_GET_TSC_KHZ, NULL); /* fails where the host's is unstable */
        khz > 0 ? lua_pushinteger(L, (lua_Integer)khz * 1000) : luaL_pushfail(L);
    } else {
        return mk_unknown_field(L, MK_CPU, false);
    }
    return 1;
}

/* Loads a selector as a MOV to the segment register does (SDM volume 2, MOV), without its checks of
 * type and privilege: in real mode base and selector, else the descriptor that the GDT has. */
static void store_segment(lua_State *L, const struct mk_lua_vm *v, struct kvm_sregs *s,
                          const struct field *f, const char *name, uint64_t value)
{
    struct kvm_segment *segment = segment_at(s, f);
    uint16_t selector = (uint16_t)value;
    if (value > 0xffff)
        mk_lua_error(L, "%s = 0x%llx: a selector has 16 bits", name, (unsigned long long)value);
    if (!(s->cr0 & MK_CR0_PE)) {
        segment->selector = selector;
        segment->base = (uint64_t)selector << 4;
    } else if (selector < 4) {
        *segment = (struct kvm_segment){ .selector = selector, .unusable = 1 };
    } else if (selector & 4) {
        mk_lua_error(L, "%s = 0x%x: it names an entry of the LDT; set it with cpu:set_sregs", name,
                     selector);
    } else if (!mk_descriptor_load(&v->vm.mem, s, selector, segment)) {
        mk_lua_error(L, "%s = 0x%x: the GDT at 0x%llx, limit 0x%x, has no such entry", name,
                     selector, (unsigned long long)s->gdt.base, s->gdt.limit);
    }
}

static bool serves(const struct mk_vcpu *c, unsigned exit, bool in)
{
    const struct kvm_run *run = c->run;
    bool reads = exit == KVM_EXIT_IO ? run->io.direction == KVM_EXIT_IO_IN : !run->mmio.is_write;
    return c->in_access && run->exit_reason == exit && reads == in;
}

/* KVM has yet to carry out the IN or load that a handler answers: it would lose the answer, or the
 * change. */
static void check_settable(lua_State *L, const struct mk_vcpu *c)
{
    bool in = serves(c, KVM_EXIT_IO, true);
    if (in || serves(c, KVM_EXIT_MMIO, true))
        mk_lua_error(L, "registers cannot be set while %s waits for its answer",
                     in ? "an IN" : "a read of memory");
}

struct mk_vcpu *mk_check_settable_cpu(lua_State *L, struct mk_lua_vm **vm)
{
    struct mk_vcpu *c = mk_check_cpu(L, vm);
    check_settable(L, c);
    return c;
}

static int cpu_newindex(lua_State *L)
{
    struct mk_lua_vm *v;
    struct field f;
    int rc;
    struct mk_vcpu *c = mk_check_settable_cpu(L, &v);
    const char *name = luaL_checkstring(L, 2);
    uint64_t value = (uint64_t)luaL_checkinteger(L, 3);
    if (!find_register(L, &f))
        return mk_unknown_field(L, MK_CPU, true);
    if (f.where == GENERAL) {
        if (f.offset == offsetof(struct kvm_regs, rip) && serves(c, KVM_EXIT_IO, false))
            mk_vcpu_complete(c); /* KVM would skip an OUT that it finds RIP at */
        struct kvm_regs regs = read_regs(L, c);
        store(&regs, &f, value);
        rc = mk_vcpu_set_regs(c, &regs);
    } else {
        struct kvm_sregs s;
        read_sregs(L, c, &s);
        if (f.where == SYSTEM)
            store(&s, &f, value);
        else
            store_segment(L, v, &s, &f, name, value);
        rc = mk_vcpu_set_guest_sregs(c, &s);
    }
    if (rc < 0)
        return mk_lua_error(L, "KVM refuses %s = %lld", name, (long long)value);
    mk_vm_restart_cpu(&v->vm, c->cpu.index);
    v->cpu[c->cpu.index]->set = name; /* the same string as the key there */
    return 0;
}

/* The walk of the linear address that is argument 2. */
static struct mk_walk check_walk(lua_State *L)
{
    struct mk_lua_vm *v;
    struct kvm_sregs s;
    uint64_t linear = (uint64_t)luaL_checkinteger(L, 2);
    read_sregs(L, mk_check_cpu(L, &v), &s);
    return mk_walk(&v->vm.mem, &s, linear);
}

/* cpu:translate(linear) -> physical address, page size; or nil when it is not mapped. */
static int cpu_translate(lua_State *L)
{
    struct mk_walk w = check_walk(L);
    if (!w.present) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushinteger(L, (lua_Integer)w.address);
    lua_pushinteger(L, (lua_Integer)w.page_size);
    return 2;
}

/* walk(cpu, linear) -> present, writable, user, address, page size, then of each level the entry
 * and its address */
static int walk(lua_State *L)
{
    struct mk_walk w = check_walk(L);
    lua_pushboolean(L, w.present);
    lua_pushboolean(L, w.writable);
    lua_pushboolean(L, w.user);
    lua_pushinteger(L, (lua_Integer)w.address);
    lua_pushinteger(L, (lua_Integer)w.page_size);
    for (unsigned i = 0; i < w.levels; i++) {
        lua_pushinteger(L, (lua_Integer)w.entry[i]);
        lua_pushinteger(L, (lua_Integer)w.entry_at[i]);
    }
    return 5 + 2 * (int)w.levels;
}

/* The vCPU for what any thread may ask for at any time. */
static struct mk_vcpu *any_cpu(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_CPU);
    return &v->vm.cpu[((const struct box *)lua_touserdata(L, 1))->index]->c;
}

/* cpu:interrupt(vector): delivered as soon as the guest's flags let it in. */
static int cpu_interrupt(lua_State *L)
{
    struct mk_vcpu *c = any_cpu(L);
    lua_Integer vector = luaL_checkinteger(L, 2);
    luaL_argcheck(L, vector >= 0 && vector <= 255, 2, "a vector is 0 to 255");
    mk_interrupt_request(c, (uint8_t)vector);
    return 0;
}

/* cpu:nmi() */
static int cpu_nmi(lua_State *L)
{
    mk_interrupt_nmi(any_cpu(L));
    return 0;
}

void mk_push_cpu(lua_State *L, int vm_index, unsigned cpu)
{
    struct box *box = mk_new_child(L, vm_index, sizeof(*box), MK_CPU);
    box->index = cpu;
}

static void open_cpu(lua_State *L)
{
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &registers);
    lua_setfield(L, -2, "registers");
}

static const luaL_Reg meta[] = { { "__index", cpu_index }, { "__newindex", cpu_newindex }, MK_END };
static const luaL_Reg methods[] = {
    { "translate", cpu_translate }, { "nmi", cpu_nmi }, { "interrupt", cpu_interrupt }, MK_END
};
static const luaL_Reg core[] = { MK_FN(walk), MK_END };

MK_EXPORTS = { { .type = MK_CPU, .meta = meta, .methods = methods },
               { .type = MK_CPUS, .core = core, .open = open_cpu } };
