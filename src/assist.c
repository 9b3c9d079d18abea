/* assist.c - see assist.h. */
#include "assist.h"

#include "cpu_mode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MAX_RUNS 4096
#define PDE_LARGE 0x80u
#define UD 6
#define NP 11
#define SS_FAULT 12
#define GP 13
#define PF 14
#define PF_WRITE 2u
#define PF_USER 4u
#define PF_PRESENT 1u

/* --- 1. paging by memory slots --- */

void mk_assist_forget(struct mk_assist *a)
{
    free(a->runs);
    free(a->copies);
    free(a->tables);
    *a = (struct mk_assist){ .transfers = a->transfers, .slots = a->slots, .next_slot = 1 };
}

void mk_assist_free(struct mk_assist *a)
{
    mk_assist_forget(a);
}

static int set_slot(struct mk_machine *m, uint32_t slot, const struct mk_run *run)
{
    struct kvm_userspace_memory_region region = { .slot = slot };
    if (run) {
        region.flags = run->writable ? 0 : KVM_MEM_READONLY;
        region.guest_phys_addr = run->linear;
        region.memory_size = run->length;
        region.userspace_addr = (uint64_t)(uintptr_t)(m->mem.ram + run->physical);
    }
    return mk_ioctl(m->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Collects what the tables map, adjacent pages merged. */
struct collection {
    const struct mk_mem *mem;
    struct mk_run *runs;
    size_t count;
    uint32_t *tables;
    size_t table_count;
    bool full;
};

static void add_page(struct collection *k, uint64_t linear, uint64_t physical, uint64_t length,
                     bool writable)
{
    if (physical >= k->mem->size)
        return; /* points outside RAM: as good as absent */
    if (length > k->mem->size - physical)
        length = k->mem->size - physical;
    struct mk_run *last = k->count ? &k->runs[k->count - 1] : NULL;
    if (last && last->linear + last->length == linear &&
        last->physical + last->length == physical && last->writable == writable) {
        last->length += length;
    } else if (k->count < MAX_RUNS) {
        k->runs[k->count++] = (struct mk_run){ linear, physical, length, writable, 0 };
    } else {
        k->full = true;
    }
}

static void add_table(struct collection *k, uint32_t index, uint32_t pde)
{
    const uint32_t *table = mk_mem_at(k->mem, pde & 0xfffff000, MK_PAGE);
    if (!table)
        return;
    k->tables[k->table_count++] = pde & 0xfffff000;
    for (uint32_t i = 0; i < 1024; i++)
        if (table[i] & 1)
            add_page(k, (uint64_t)index << 22 | i << 12, table[i] & 0xfffff000, MK_PAGE,
                     table[i] & pde & 2);
}

static void collect(struct collection *k, uint64_t cr3, bool pse)
{
    const uint32_t *directory = mk_mem_at(k->mem, cr3 & 0xfffff000, MK_PAGE);
    if (!directory)
        return;
    k->tables[k->table_count++] = cr3 & 0xfffff000;
    for (uint32_t i = 0; i < 1024; i++) {
        uint32_t pde = directory[i];
        if (!(pde & 1))
            continue;
        if (pse && pde & PDE_LARGE)
            add_page(k, (uint64_t)i << 22, pde & 0xffc00000, UINT64_C(4) << 20, pde & 2);
        else
            add_table(k, i, pde);
    }
}

/* Keeps the tables' contents, to notice changes. */
static bool remember_tables(struct mk_assist *a, struct mk_machine *m, struct collection *k)
{
    uint8_t *copies = realloc(a->copies, (k->table_count + 1) * MK_PAGE);
    if (!copies)
        return false;
    a->copies = copies;
    for (size_t i = 0; i < k->table_count; i++)
        mk_mem_read(&m->mem, k->tables[i], copies + i * MK_PAGE, MK_PAGE);
    free(a->tables);
    a->tables = k->tables;
    a->table_count = k->table_count;
    return true;
}

static bool same(const struct mk_run *x, const struct mk_run *y)
{
    return x->linear == y->linear && x->physical == y->physical && x->length == y->length &&
           x->writable == y->writable;
}

/* Both lists are sorted by linear address. What is in the old one only is removed first, since slots
 * must not overlap; `pass` 0 removes, 1 adds. */
static int replace(struct mk_assist *a, struct mk_machine *m, struct collection *k, int pass)
{
    size_t i = 0;
    for (size_t j = 0; j < k->count || (pass == 0 && i < a->run_count);) {
        struct mk_run *old = i < a->run_count ? &a->runs[i] : NULL;
        struct mk_run *new = j < k->count ? &k->runs[j] : NULL;
        if (old && new && same(old, new)) {
            new->slot = old->slot;
            i++, j++;
        } else if (old && (!new || old->linear <= new->linear)) {
            if (pass == 0 && set_slot(m, old->slot, NULL) < 0)
                return -1;
            i++;
        } else {
            if (pass == 1) {
                new->slot = a->next_slot++;
                if (set_slot(m, new->slot, new) < 0)
                    return -1;
            }
            j++;
        }
    }
    return 0;
}

/* Slot numbers are used up by and by; starting over removes every slot once. */
static void renumber(struct mk_assist *a, struct mk_machine *m)
{
    for (size_t i = 0; i < a->run_count; i++)
        set_slot(m, a->runs[i].slot, NULL);
    a->run_count = 0;
    a->next_slot = 1;
}

static int walk(struct mk_assist *a, struct mk_machine *m, struct mk_err *err)
{
    struct collection k = { .mem = &m->mem };
    k.runs = malloc(MAX_RUNS * sizeof(*k.runs));
    k.tables = malloc(1025 * sizeof(*k.tables));
    int rc = -1;
    if (!k.runs || !k.tables) {
        mk_fail_errno(err, ENOMEM, "paging assist");
        goto out;
    }
    collect(&k, a->cr3, a->cr4 & MK_CR4_PSE);
    if (k.full) {
        mk_fail(err, E2BIG, "paging assist: the page tables map more than %d separate ranges",
                MAX_RUNS);
        goto out;
    }
    if (a->next_slot > MAX_RUNS * 2)
        renumber(a, m);
    if (replace(a, m, &k, 0) < 0 || replace(a, m, &k, 1) < 0) {
        mk_fail_errno(err, errno, "paging assist: KVM refuses a memory slot");
        goto out;
    }
    free(a->runs);
    a->runs = k.runs;
    a->run_count = k.count;
    k.runs = NULL;
    if (!remember_tables(a, m, &k)) {
        mk_fail_errno(err, ENOMEM, "paging assist");
        goto out;
    }
    k.tables = NULL;
    rc = 0;
out:
    free(k.runs);
    free(k.tables);
    return rc;
}

int mk_assist_paging(struct mk_assist *a, struct mk_machine *m, const struct kvm_sregs *s,
                     struct mk_err *err)
{
    if (s->cr4 & MK_CR4_PAE)
        return mk_fail(err, ENOTSUP, "this KVM does not run 32-bit paging, and the assist follows "
                                     "two-level page tables only, not PAE");
    if (!a->paging && set_slot(m, 0, NULL) < 0) /* RAM appears where the tables say */
        return mk_fail_errno(err, errno, "paging assist: memory slot 0");
    a->paging = true;
    a->cr3 = s->cr3;
    a->cr4 = (uint32_t)s->cr4;
    if (!a->next_slot)
        a->next_slot = 1;
    return walk(a, m, err);
}

static bool tables_changed(const struct mk_assist *a, const struct mk_machine *m)
{
    for (size_t i = 0; i < a->table_count; i++)
        if (memcmp(a->copies + i * MK_PAGE, m->mem.ram + a->tables[i], MK_PAGE) != 0)
            return true;
    return false;
}

/* Returns true when the slots are others than before. */
static bool follow(struct mk_vcpu *c, const struct kvm_sregs *s)
{
    struct mk_assist *a = c->machine->assist;
    struct mk_err err;
    if (s->cr3 == a->cr3 && (s->cr4 & MK_CR4_PSE) == (a->cr4 & MK_CR4_PSE) &&
        !tables_changed(a, c->machine))
        return false;
    if (mk_assist_paging(a, c->machine, s, &err) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "%s", err.text);
    return true;
}

void mk_assist_follow(struct mk_vcpu *c)
{
    struct mk_assist *a = c->machine->assist;
    struct kvm_sregs s;
    if (a && a->paging && mk_vcpu_sregs(c, &s) == 0 && follow(c, &s))
        c->counters.assists++;
}

void mk_assist_believed(const struct mk_vcpu *c, struct kvm_sregs *s)
{
    const struct mk_assist *a = c->machine->assist;
    if (a && a->paging)
        s->cr0 |= MK_CR0_PG;
}

/* --- guest memory by linear address --- */

struct access {
    struct mk_vcpu *c;
    struct kvm_sregs s; /* as the guest believes them */
    uint64_t mask;      /* of a linear address and RIP in this mode */
};

static bool copy(struct access *x, uint64_t linear, void *data, size_t length, bool write)
{
    for (size_t i = 0; i < length; i++) {
        struct mk_walk w = mk_walk(&x->c->machine->mem, &x->s, (linear + i) & x->mask);
        uint8_t *at = w.present ? mk_mem_at(&x->c->machine->mem, w.address, 1) : NULL;
        if (!at)
            return false;
        if (write)
            *at = ((uint8_t *)data)[i];
        else
            ((uint8_t *)data)[i] = *at;
    }
    return true;
}

/* --- events --- */

/* KVM queues #UD when it reports an emulation failure; the instruction is dealt with here. */
static void set_events(struct mk_vcpu *c, int exception, bool has_code, uint32_t code)
{
    struct kvm_vcpu_events e;
    if (mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
        return;
    memset(&e.exception, 0, sizeof(e.exception));
    if (exception >= 0) {
        e.exception.injected = 1;
        e.exception.nr = (uint8_t)exception;
        e.exception.has_error_code = has_code;
        e.exception.error_code = code;
    }
    mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &e);
}

/* A software interrupt. Vectors above 31, and 2, are not exceptions to KVM. */
static void set_interrupt(struct mk_vcpu *c, uint8_t vector)
{
    struct kvm_vcpu_events e;
    if (mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
        return;
    memset(&e.exception, 0, sizeof(e.exception));
    e.interrupt.injected = 1;
    e.interrupt.nr = vector;
    mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &e);
}

static void page_fault(struct mk_vcpu *c, struct kvm_sregs *s, uint64_t linear, uint32_t code)
{
    s->cr2 = (uint32_t)linear;
    s->cr0 &= ~(uint64_t)MK_CR0_PG;
    mk_vcpu_set_sregs(c, s);
    set_events(c, PF, true, code | (s->cs.selector & 3 ? PF_USER : 0));
}

/* --- 2. control transfers --- */

static void set_rip(struct mk_vcpu *c, uint64_t rip)
{
    struct kvm_regs r = *mk_vcpu_regs(c);
    r.rip = rip;
    mk_vcpu_set_regs(c, &r);
}

static bool software_interrupt(struct access *x, const uint8_t *code, uint64_t length)
{
    uint8_t vector = code[0] == 0xcc ? 3 : code[1];
    set_rip(x->c, (mk_vcpu_regs(x->c)->rip + length) & x->mask);
    set_interrupt(x->c, vector);
    return true;
}

/* What an iret takes from the stack. */
struct frame {
    uint32_t eip, cs, eflags, esp, ss;
};

/* Reads the frame, with the outer stack pointer when the ring changes. */
static bool read_frame(struct access *x, bool wide, struct frame *f, uint32_t *bytes)
{
    uint32_t esp = (uint32_t)mk_vcpu_regs(x->c)->rsp;
    uint32_t size = wide ? 4 : 2, words[5] = { 0 };
    uint64_t mask = x->s.ss.db ? UINT32_MAX : 0xffff;
    unsigned count = 3;
    for (unsigned i = 0; i < count; i++) {
        if (!copy(x, x->s.ss.base + ((esp + i * size) & mask), &words[i], size, false))
            return false;
        if (i == 1 && (words[1] & 3) > (x->s.cs.selector & 3))
            count = 5;
    }
    *f = (struct frame){ words[0], words[1] & 0xffff, words[2], words[3], words[4] & 0xffff };
    *bytes = count * size;
    return true;
}

/* The descriptor of a selector, with the checks of SDM volume 2, IRET; an error vector or 0. */
static int load_descriptor(struct access *x, uint16_t selector, bool is_code,
                           struct kvm_segment *segment)
{
    uint64_t bytes;
    const struct kvm_dtable *table = &x->s.gdt;
    uint64_t base = table->base, limit = table->limit;
    if (selector & 4) {
        base = x->s.ldt.base;
        limit = x->s.ldt.limit;
    }
    if (!(selector & ~3u) || (selector | 7u) > limit ||
        !copy(x, base + (selector & ~7u), &bytes, 8, false))
        return GP;
    *segment = mk_descriptor(selector, bytes);
    unsigned rpl = selector & 3;
    bool right = segment->s && (is_code ? segment->type & 8 : (segment->type & 0xa) == 2);
    bool conforming = is_code && segment->type & 4;
    if (!right || (conforming ? segment->dpl > rpl : segment->dpl != rpl))
        return GP;
    segment->type |= 1; /* accessed */
    return segment->present ? 0 : is_code ? NP : SS_FAULT;
}

/* Segments that the outer ring may not use are emptied. */
static void drop_inner(struct kvm_sregs *s, unsigned rpl)
{
    struct kvm_segment *segments[] = { &s->ds, &s->es, &s->fs, &s->gs };
    for (size_t i = 0; i < MK_COUNT(segments); i++)
        if (segments[i]->dpl < rpl && (segments[i]->type & 0xc) != 0xc)
            *segments[i] = (struct kvm_segment){ .unusable = 1 };
}

/* IOPL may change at CPL 0 only, IF where CPL <= IOPL. */
static uint64_t new_flags(const struct access *x, uint64_t old, uint32_t popped, bool wide)
{
    unsigned cpl = x->s.cs.selector & 3;
    uint64_t allowed = 0x4dd5; /* the status flags, TF, DF, NT */
    if (wide)
        allowed |= 0x250000; /* RF, AC, ID */
    if (cpl == 0)
        allowed |= 0x3000;
    if (cpl <= (old >> 12 & 3))
        allowed |= MK_RFLAGS_IF;
    return (old & ~allowed) | (popped & allowed) | 2;
}

/* The write that faulted, when the handler has mapped its page and returns to it. */
static void make_up(struct access *x, const struct frame *f)
{
    struct mk_assist *a = x->c->machine->assist;
    if (a->late.pending && a->late.rip == f->eip)
        copy(x, a->late.linear, a->late.data, a->late.length, true);
    a->late.pending = false;
}

static bool iret(struct access *x, bool wide)
{
    struct mk_vcpu *c = x->c;
    struct kvm_regs r = *mk_vcpu_regs(c);
    struct frame f;
    uint32_t bytes;
    unsigned cpl = x->s.cs.selector & 3;
    if (r.rflags & 0x24000 || !read_frame(x, wide, &f, &bytes) || f.eflags & 0x20000)
        return false; /* NT, virtual-8086, or no stack */
    struct kvm_segment cs, ss = x->s.ss;
    unsigned rpl = f.cs & 3;
    bool outward = rpl > cpl;
    int vector = rpl < cpl ? GP : load_descriptor(x, (uint16_t)f.cs, true, &cs);
    uint16_t culprit = (uint16_t)f.cs;
    if (!vector && outward) {
        culprit = (uint16_t)f.ss;
        vector = (f.ss & 3) == rpl ? load_descriptor(x, culprit, false, &ss) : GP;
    }
    if (vector) {
        set_events(c, vector, true, culprit & 0xfffc);
        return true;
    }
    uint64_t stack_mask = ss.db ? UINT32_MAX : 0xffff;
    r.rflags = new_flags(x, r.rflags, f.eflags, wide);
    r.rip = f.eip;
    r.rsp = outward ? f.esp : (r.rsp & ~stack_mask) | ((r.rsp + bytes) & stack_mask);
    x->s.cs = cs;
    x->s.ss = ss;
    if (outward)
        drop_inner(&x->s, rpl);
    make_up(x, &f);
    x->s.cr0 &= c->machine->assist->paging ? ~(uint64_t)MK_CR0_PG : UINT64_MAX;
    set_events(c, -1, false, 0);
    return mk_vcpu_set_sregs(c, &x->s) == 0 && mk_vcpu_set_regs(c, &r) == 0;
}

static bool begin(struct access *x, struct mk_vcpu *c)
{
    x->c = c;
    if (!c->machine->assist || mk_vcpu_sregs(c, &x->s) < 0)
        return false;
    mk_assist_believed(c, &x->s);
    x->mask = x->s.cs.l && x->s.efer & MK_EFER_LMA ? UINT64_MAX : UINT32_MAX;
    return true;
}

/* The instruction that KVM failed at, if it is one of ours. Prefix 66 changes the operand size. */
static bool transfer(struct access *x, uint64_t rip)
{
    uint8_t code[3];
    bool prefixed, wide = x->s.cs.db;
    if (!(x->s.cr0 & MK_CR0_PE) || !copy(x, rip, code, 1, false))
        return false;
    prefixed = code[0] == 0x66;
    if (prefixed && !copy(x, rip + 1, code, 1, false))
        return false;
    if (code[0] == 0xcf && !(x->s.efer & MK_EFER_LMA))
        return iret(x, wide != prefixed);
    if (code[0] == 0xcc)
        return software_interrupt(x, code, 1u + prefixed);
    if (code[0] == 0xcd && copy(x, rip + 1 + prefixed, code + 1, 1, false))
        return software_interrupt(x, code, 2u + prefixed);
    return false;
}

bool mk_assist_failure(struct mk_vcpu *c)
{
    struct access x;
    struct mk_assist *a = c->machine->assist;
    if (!begin(&x, c))
        return false;
    uint64_t rip = (x.s.cs.base + mk_vcpu_regs(c)->rip) & x.mask;
    c->counters.assists++;
    if (a->paging && follow(c, &x.s)) {
        set_events(c, -1, false, 0);
        return true;
    }
    if (a->paging && !mk_walk(&c->machine->mem, &x.s, rip).present) {
        page_fault(c, &x.s, rip, 0);
        return true;
    }
    if (a->transfers && transfer(&x, rip))
        return true;
    c->counters.assists--;
    return false;
}

/* --- accesses outside the slots --- */

/* Lets KVM finish the instruction whose access faults, so that it can be forgotten: what it reads is
 * zero, what it writes outside the slots is dropped. */
static void abandon(struct mk_vcpu *c)
{
    for (int i = 0; i < 64; i++) {
        memset(c->run->mmio.data, 0, sizeof(c->run->mmio.data));
        __atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        if (ioctl(c->fd, KVM_RUN, NULL) < 0 || c->run->exit_reason != KVM_EXIT_MMIO)
            break;
    }
    c->incomplete = false;
}

static void fault_on_read(struct mk_vcpu *c, struct access *x, uint64_t linear, uint32_t code)
{
    struct kvm_regs before = *mk_vcpu_regs(c);
    abandon(c);
    mk_vcpu_set_regs(c, &before);
    page_fault(c, &x->s, linear, code);
}

static void fault_on_write(struct mk_vcpu *c, struct access *x, uint64_t linear, uint32_t code)
{
    struct mk_assist *a = c->machine->assist;
    uint32_t length = c->run->mmio.len;
    a->late.linear = linear;
    a->late.length = length;
    memcpy(a->late.data, c->run->mmio.data, length);
    abandon(c);
    c->regs_known = false;
    a->late.rip = mk_vcpu_regs(c)->rip;
    a->late.pending = true;
    page_fault(c, &x->s, linear, code | PF_WRITE);
}

bool mk_assist_mmio(struct mk_vcpu *c)
{
    struct access x;
    struct kvm_run *run = c->run;
    if (!c->machine->assist || !c->machine->assist->paging || !begin(&x, c))
        return false;
    uint64_t linear = run->mmio.phys_addr;
    uint32_t length = run->mmio.len;
    bool write = run->mmio.is_write;
    struct mk_walk w = mk_walk(&c->machine->mem, &x.s, linear);
    bool allowed = !write || w.writable || (!(x.s.cr0 & MK_CR0_WP) && !(x.s.cs.selector & 3));
    c->counters.assists++;
    if (w.present && allowed && copy(&x, linear, run->mmio.data, length, write)) {
        c->incomplete = true; /* served from the page the tables map now; they are followed below */
        follow(c, &x.s);
        return true;
    }
    if (w.present && allowed) { /* mapped, but to where no RAM is */
        c->counters.assists--;
        return false;
    }
    uint32_t code = w.present ? PF_PRESENT : 0;
    if (write)
        fault_on_write(c, &x, linear, code);
    else
        fault_on_read(c, &x, linear, code);
    return true;
}

/* A guest that sets CR0.PG itself: KVM shuts it down at the entry that follows `mov cr0, reg`. */
bool mk_assist_shutdown(struct mk_vcpu *c)
{
    (void)c;
    return false;
}
