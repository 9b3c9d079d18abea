/* cpu.c - vm.cpu[i]: registers both ways.
 *
 * Registers may be used while the VM does not run, and inside a handler of the same vCPU. */
#include "kvm/interrupt.h"
#include "lua/core.h"
#include "x86/access.h"
#include "x86/mode.h"

#include <string.h>

struct box {
    unsigned index;
};

/* How a name maps to a field: bit offset and width inside a 64-bit register. */
struct field {
    const char *name;
    uint16_t offset; /* into struct kvm_regs or kvm_sregs */
    uint8_t shift, bytes;
};

#define REG(field) offsetof(struct kvm_regs, field)
#define LEGACY(l)                                                                                  \
    { "r" #l "x", REG(r##l##x), 0, 8 }, { "e" #l "x", REG(r##l##x), 0, 4 },                        \
        { #l "x", REG(r##l##x), 0, 2 }, { #l "l", REG(r##l##x), 0, 1 },                            \
    {                                                                                              \
#l "h", REG(r##l##x), 8, 1                                                                 \
    }
#define INDEX(n)                                                                                   \
    { "r" #n, REG(r##n), 0, 8 }, { "e" #n, REG(r##n), 0, 4 },                                      \
    {                                                                                              \
#n, REG(r##n), 0, 2                                                                        \
    }
#define WIDE(n)                                                                                    \
    {                                                                                              \
        "r" #n, REG(r##n), 0, 8                                                                    \
    }

static const struct field registers[] = {
    LEGACY(a),
    LEGACY(b),
    LEGACY(c),
    LEGACY(d),
    INDEX(si),
    INDEX(di),
    INDEX(sp),
    INDEX(bp),
    INDEX(ip),
    WIDE(8),
    WIDE(9),
    WIDE(10),
    WIDE(11),
    WIDE(12),
    WIDE(13),
    WIDE(14),
    WIDE(15),
    { "rflags", REG(rflags), 0, 8 },
    { "eflags", REG(rflags), 0, 4 },
    { "flags", REG(rflags), 0, 2 },
};

#define SREG(field) offsetof(struct kvm_sregs, field)

static const struct field controls[] = {
    { "cr0", SREG(cr0), 0, 8 }, { "cr2", SREG(cr2), 0, 8 }, { "cr3", SREG(cr3), 0, 8 },
    { "cr4", SREG(cr4), 0, 8 }, { "cr8", SREG(cr8), 0, 8 }, { "efer", SREG(efer), 0, 8 },
};

static const struct field segments[] = {
    { "cs", SREG(cs), 0, 2 }, { "ds", SREG(ds), 0, 2 }, { "es", SREG(es), 0, 2 },
    { "fs", SREG(fs), 0, 2 }, { "gs", SREG(gs), 0, 2 }, { "ss", SREG(ss), 0, 2 },
};

static const struct field *find(const struct field *table, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

#define FIND(table, name) find(table, MK_COUNT(table), name)

/* The vCPU, when its registers can be looked at now. */
static struct mk_vcpu *check_cpu(lua_State *L, struct mk_lua_vm **vm)
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

/* The general registers, RIP as handlers see it. */
static struct kvm_regs seen_regs(struct mk_vcpu *c)
{
    uint64_t rip = mk_access_rip(c, true);
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    regs.rip = rip;
    return regs;
}

static int cpu_index(lua_State *L)
{
    struct mk_lua_vm *v;
    const char *name = luaL_checkstring(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    struct mk_vcpu *c = check_cpu(L, &v);
    const struct field *f = FIND(registers, name);
    struct kvm_sregs s;
    if (f) {
        struct kvm_regs regs = f->offset == REG(rip) ? seen_regs(c) : *mk_vcpu_get_regs(c);
        lua_pushinteger(L, (lua_Integer)load(&regs, f));
        return 1;
    }
    if (strcmp(name, "index") == 0) {
        lua_pushinteger(L, c->cpu.index);
        return 1;
    }
    if (strcmp(name, "tsc_hz") == 0) {
        int khz = mk_ioctl(c->fd, KVM_GET_TSC_KHZ, NULL); /* fails where the host's is unstable */
        khz > 0 ? lua_pushinteger(L, (lua_Integer)khz * 1000) : luaL_pushfail(L);
        return 1;
    }
    read_sregs(L, c, &s);
    if ((f = FIND(controls, name)))
        lua_pushinteger(L, (lua_Integer)load(&s, f));
    else if ((f = FIND(segments, name)))
        lua_pushinteger(L, ((struct kvm_segment *)((char *)&s + f->offset))->selector);
    else
        return mk_unknown_field(L, MK_CPU, false);
    return 1;
}

/* The descriptor that a selector names in the guest's GDT; an error when there is none. */
static uint64_t read_descriptor(lua_State *L, const struct mk_lua_vm *v, const struct kvm_sregs *s,
                                const char *name, uint16_t selector)
{
    uint64_t bytes = 0;
    struct mk_walk w = mk_walk(&v->vm.m.mem, s, s->gdt.base + (selector & 0xfff8));
    if (selector & 4)
        mk_lua_error(L, "%s = 0x%x: it names an entry of the LDT; set it with cpu:set_sregs", name,
                     selector);
    if ((selector & 0xfff8u) + 7 > s->gdt.limit || !w.present ||
        !mk_mem_read(&v->vm.m.mem, w.address, &bytes, 8))
        mk_lua_error(L, "%s = 0x%x: the GDT at 0x%llx, limit 0x%x, has no such entry", name,
                     selector, (unsigned long long)s->gdt.base, s->gdt.limit);
    return bytes;
}

/* Loads a selector as a MOV to the segment register does (SDM volume 2, MOV), without its checks of
 * type and privilege: in real mode base and selector, else the descriptor that the GDT has. */
static void store_segment(lua_State *L, const struct mk_lua_vm *v, struct kvm_sregs *s,
                          const struct field *f, uint64_t value)
{
    struct kvm_segment *segment = (struct kvm_segment *)((char *)s + f->offset);
    uint16_t selector = (uint16_t)value;
    if (value > 0xffff)
        mk_lua_error(L, "%s = 0x%llx: a selector has 16 bits", f->name, (unsigned long long)value);
    if (!(s->cr0 & MK_CR0_PE)) {
        segment->selector = selector;
        segment->base = (uint64_t)selector << 4;
    } else if (selector < 4) {
        *segment = (struct kvm_segment){ .selector = selector, .unusable = 1 };
    } else {
        *segment = mk_descriptor_decode(selector, read_descriptor(L, v, s, f->name, selector));
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

static int cpu_newindex(lua_State *L)
{
    struct mk_lua_vm *v;
    struct mk_vcpu *c = check_cpu(L, &v);
    check_settable(L, c);
    const char *name = luaL_checkstring(L, 2);
    uint64_t value = (uint64_t)luaL_checkinteger(L, 3);
    const struct field *f = FIND(registers, name);
    int rc;
    if (f) {
        if (f->offset == REG(rip) && serves(c, KVM_EXIT_IO, false))
            mk_vcpu_complete(c); /* KVM would skip an OUT that it finds RIP at */
        struct kvm_regs regs = *mk_vcpu_get_regs(c);
        store(&regs, f, value);
        rc = mk_vcpu_set_regs(c, &regs);
    } else {
        struct kvm_sregs s;
        read_sregs(L, c, &s);
        if ((f = FIND(controls, name)))
            store(&s, f, value);
        else if ((f = FIND(segments, name)))
            store_segment(L, v, &s, f, value);
        else
            return mk_unknown_field(L, MK_CPU, true);
        rc = mk_vcpu_set_guest_sregs(c, &s);
    }
    if (rc < 0)
        return mk_lua_error(L, "KVM refuses %s = %lld", name, (long long)value);
    mk_vm_set_ready(&v->vm, c->cpu.index);
    v->cpu[c->cpu.index]->set = f->name;
    return 0;
}

/* cpu:regs() -> { rax=, …, rflags= } */
static int cpu_regs(lua_State *L)
{
    struct mk_lua_vm *v;
    struct kvm_regs regs = seen_regs(check_cpu(L, &v));
    lua_createtable(L, 0, 18);
    for (size_t i = 0; i < MK_COUNT(registers); i++) {
        if (registers[i].bytes != 8)
            continue;
        lua_pushinteger(L, (lua_Integer)load(&regs, &registers[i]));
        lua_setfield(L, -2, registers[i].name);
    }
    return 1;
}

static void push_segment(lua_State *L, const struct kvm_segment *s)
{
    const struct {
        const char *name;
        lua_Integer value;
    } fields[] = { { "selector", s->selector },
                   { "base", (lua_Integer)s->base },
                   { "limit", s->limit },
                   { "type", s->type },
                   { "dpl", s->dpl },
                   { "present", s->present },
                   { "s", s->s },
                   { "db", s->db },
                   { "l", s->l },
                   { "g", s->g } };
    lua_createtable(L, 0, MK_COUNT(fields));
    for (size_t i = 0; i < MK_COUNT(fields); i++) {
        lua_pushinteger(L, fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
}

static void push_table(lua_State *L, const char *name, const struct kvm_dtable *t)
{
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, (lua_Integer)t->base);
    lua_setfield(L, -2, "base");
    lua_pushinteger(L, t->limit);
    lua_setfield(L, -2, "limit");
    lua_setfield(L, -2, name);
}

/* cpu:sregs() -> { cr0=, …, cs = { selector=, base=, limit=, … }, …, gdt = { base=, limit= } } */
static int cpu_sregs(lua_State *L)
{
    struct mk_lua_vm *v;
    struct kvm_sregs s;
    read_sregs(L, check_cpu(L, &v), &s);
    lua_createtable(L, 0, 16);
    for (size_t i = 0; i < MK_COUNT(controls); i++) {
        lua_pushinteger(L, (lua_Integer)load(&s, &controls[i]));
        lua_setfield(L, -2, controls[i].name);
    }
    for (size_t i = 0; i < MK_COUNT(segments); i++) {
        push_segment(L, (struct kvm_segment *)((char *)&s + segments[i].offset));
        lua_setfield(L, -2, segments[i].name);
    }
    push_segment(L, &s.tr);
    lua_setfield(L, -2, "tr");
    push_table(L, "gdt", &s.gdt);
    push_table(L, "idt", &s.idt);
    return 1;
}

/* The integer under `key` of the table on top into *to, which has `bytes`; nothing when it is nil.
 */
static void take_integer(lua_State *L, const char *key, void *to, size_t bytes)
{
    lua_getfield(L, -1, key);
    uint64_t value = (uint64_t)lua_tointeger(L, -1);
    if (!lua_isnil(L, -1))
        memcpy(to, &value, bytes);
    lua_pop(L, 1);
}

static void take_segment(lua_State *L, const char *name, struct kvm_segment *s)
{
    if (lua_getfield(L, 2, name) == LUA_TTABLE) {
        const struct {
            const char *key;
            void *to;
            size_t bytes;
        } fields[] = { { "selector", &s->selector, 2 },
                       { "base", &s->base, 8 },
                       { "limit", &s->limit, 4 },
                       { "type", &s->type, 1 },
                       { "dpl", &s->dpl, 1 },
                       { "present", &s->present, 1 },
                       { "s", &s->s, 1 },
                       { "db", &s->db, 1 },
                       { "l", &s->l, 1 },
                       { "g", &s->g, 1 } };
        for (size_t i = 0; i < MK_COUNT(fields); i++)
            take_integer(L, fields[i].key, fields[i].to, fields[i].bytes);
        s->unusable = !s->present;
    }
    lua_pop(L, 1);
}

static void take_table(lua_State *L, const char *name, struct kvm_dtable *t)
{
    if (lua_getfield(L, 2, name) == LUA_TTABLE) {
        take_integer(L, "base", &t->base, 8);
        take_integer(L, "limit", &t->limit, 2);
    }
    lua_pop(L, 1);
}

/* set_sregs(cpu, values): a table as cpu:sregs() gives, or a part of one, checked in Lua. */
static int set_sregs(lua_State *L)
{
    struct mk_lua_vm *v;
    struct kvm_sregs s;
    struct mk_vcpu *c = check_cpu(L, &v);
    check_settable(L, c);
    read_sregs(L, c, &s);
    lua_settop(L, 2);
    for (size_t i = 0; i < MK_COUNT(controls); i++)
        take_integer(L, controls[i].name, (char *)&s + controls[i].offset, 8);
    for (size_t i = 0; i < MK_COUNT(segments); i++)
        take_segment(L, segments[i].name, (struct kvm_segment *)((char *)&s + segments[i].offset));
    take_segment(L, "tr", &s.tr);
    take_table(L, "gdt", &s.gdt);
    take_table(L, "idt", &s.idt);
    if (mk_vcpu_set_guest_sregs(c, &s) < 0)
        return mk_lua_error(L, "cpu:set_sregs: KVM refuses these system registers");
    mk_vm_set_ready(&v->vm, c->cpu.index);
    return 0;
}

/* The walk of the linear address that is argument 2. */
static struct mk_walk check_walk(lua_State *L)
{
    struct mk_lua_vm *v;
    struct kvm_sregs s;
    uint64_t linear = (uint64_t)luaL_checkinteger(L, 2);
    read_sregs(L, check_cpu(L, &v), &s);
    return mk_walk(&v->vm.m.mem, &s, linear);
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

/* Sets field `name` of the table on top to a list of integers. */
static void set_list(lua_State *L, const char *name, const uint64_t *values, unsigned count)
{
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
        lua_pushinteger(L, (lua_Integer)values[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, name);
}

/* cpu:walk(linear) -> { present=, writable=, user=, address=, page_size=, entries = { … },
 * entry_addresses = { … } } */
static int cpu_walk(lua_State *L)
{
    struct mk_walk w = check_walk(L);
    const struct {
        const char *name;
        bool value;
    } flags[] = { { "present", w.present }, { "writable", w.writable }, { "user", w.user } };
    lua_createtable(L, 0, 6);
    for (size_t i = 0; i < MK_COUNT(flags); i++) {
        lua_pushboolean(L, flags[i].value);
        lua_setfield(L, -2, flags[i].name);
    }
    lua_pushinteger(L, (lua_Integer)w.address);
    lua_setfield(L, -2, "address");
    lua_pushinteger(L, (lua_Integer)w.page_size);
    lua_setfield(L, -2, "page_size");
    set_list(L, "entries", w.entry, w.levels);
    set_list(L, "entry_addresses", w.entry_at, w.levels);
    return 1;
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

/* memory_of(cpu) -> vm.memory of its VM */
static int memory_of(lua_State *L)
{
    mk_check_child(L, 1, MK_CPU);
    lua_getiuservalue(L, 1, 1);
    lua_getiuservalue(L, -1, 1);
    lua_getfield(L, -1, "memory");
    return 1;
}

static int cpu_tostring(lua_State *L)
{
    const struct box *box = luaL_checkudata(L, 1, MK_CPU);
    lua_getiuservalue(L, 1, 1);
    const struct mk_lua_vm *v = lua_touserdata(L, -1);
    lua_pushfstring(L, MK_CPU " %d of \"%s\"%s", (int)box->index, v->vm.name,
                    v->open ? "" : " (closed)");
    return 1;
}

void mk_push_cpu(lua_State *L, int vm_index, unsigned cpu)
{
    struct box *box = mk_new_child(L, vm_index, sizeof(*box), MK_CPU);
    box->index = cpu;
}

void mk_open_cpu(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__index", cpu_index },
                                     { "__newindex", cpu_newindex },
                                     { "__tostring", cpu_tostring },
                                     { NULL, NULL } };
    static const luaL_Reg methods[] = {
        { "regs", cpu_regs }, { "sregs", cpu_sregs }, { "translate", cpu_translate },
        { "walk", cpu_walk }, { "nmi", cpu_nmi },     { "interrupt", cpu_interrupt },
        { NULL, NULL }
    };
    mk_new_type(L, MK_CPU, meta, methods);
    lua_pushcfunction(L, set_sregs);
    lua_setfield(L, -2, "set_sregs");
    lua_pushcfunction(L, memory_of);
    lua_setfield(L, -2, "memory_of"); /* into the core table on top */
}
