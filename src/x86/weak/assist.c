/* assist.c - see assist.h. */
#include "x86/weak/assist.h"

#include "x86/mode.h"
#include "x86/weak/shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NP = 11, SS_FAULT = 12, GP = 13, PF = 14 };

#define PF_PRESENT 1u
#define PF_WRITE 2u
#define PF_USER 4u
#define FLAG_NT 0x4000u
#define FLAG_VM 0x20000u
#define TASK_GATE 5
#define INTERRUPT_GATE 6 /* bit 0: trap gate; bit 3: of 32 or 64 bits */
#define LONGEST_INSTRUCTION 15

struct weak {
    struct mk_assist assist; /* first */
    struct mk_shadow shadow;
    struct mk_deferred_write deferred;
};

static struct weak *weak_of(const struct mk_vcpu *c)
{
    return (struct weak *)c->assist;
}

/* The vCPU at an exit, with its registers as the guest set them. Nothing is changed until
 * commit(). */
struct access {
    struct mk_vcpu *c;
    struct weak *a;
    struct kvm_sync_regs s;
    uint64_t mask; /* of a linear address and RIP in this mode */
};

static void show_sregs(const struct mk_vcpu *c, struct kvm_sregs *s)
{
    const struct weak *a = weak_of(c);
    if (a->shadow.on)
        s->cr0 |= MK_CR0_PG;
}

static void hide_sregs(const struct mk_vcpu *c, struct kvm_sregs *s)
{
    const struct weak *a = weak_of(c);
    if (a->shadow.on)
        s->cr0 &= ~(uint64_t)MK_CR0_PG;
}

static bool begin(struct access *x, struct mk_vcpu *c)
{
    x->c = c;
    x->a = weak_of(c);
    if (mk_vcpu_get_state(c, &x->s) < 0)
        return false;
    show_sregs(c, &x->s.sregs);
    x->mask = x->s.sregs.cs.l && x->s.sregs.efer & MK_EFER_LMA ? UINT64_MAX : UINT32_MAX;
    return true;
}

/* KVM queues #UD when it reports an emulation failure; whatever we do instead replaces it. */
static void clear_exception(struct access *x)
{
    memset(&x->s.events.exception, 0, sizeof(x->s.events.exception));
}

static bool commit(struct access *x)
{
    hide_sregs(x->c, &x->s.sregs);
    x->c->run->ready_for_interrupt_injection = 0; /* this state's events would overwrite it */
    return mk_vcpu_set_state(x->c, &x->s) == 0;
}

static void raise_exception(struct access *x, uint8_t vector, uint32_t code)
{
    clear_exception(x);
    x->s.events.exception.injected = 1;
    x->s.events.exception.nr = vector;
    x->s.events.exception.has_error_code = 1;
    x->s.events.exception.error_code = code;
    commit(x);
}

/* --- guest memory by linear address --- */

static bool copy(const struct access *x, uint64_t linear, void *data, size_t length, bool write)
{
    struct mk_mem *mem = x->c->mem;
    for (size_t i = 0; i < length; i++) {
        struct mk_walk w = mk_walk(mem, &x->s.sregs, (linear + i) & x->mask);
        uint8_t *byte = (uint8_t *)data + i;
        if (!w.present ||
            !(write ? mk_mem_write(mem, w.address, byte, 1) : mk_mem_read(mem, w.address, byte, 1)))
            return false;
    }
    return true;
}

/* --- paging --- */

static int start_paging(struct weak *a, const struct mk_mem *mem, int vm_fd,
                        const struct kvm_sregs *s, struct mk_err *err)
{
    if (!a->assist.alone)
        return mk_fail(err, ENOTSUP,
                       "this KVM does not run 32-bit paging, and the assist does it for VMs of one "
                       "vCPU only");
    if (s->cr4 & MK_CR4_PAE)
        return mk_fail(err, ENOTSUP,
                       "this KVM does not run 32-bit paging, and the assist "
                       "follows two-level page tables only, not PAE");
    return mk_shadow_set_cr3(&a->shadow, mem, vm_fd, s->cr3, s->cr4 & MK_CR4_PSE, err);
}

/* Returns true when the slots are others than before. */
static bool follow(struct mk_vcpu *c, const struct kvm_sregs *s)
{
    struct weak *a = weak_of(c);
    struct mk_err err;
    if (!(s->cr4 & MK_CR4_PAE) && !mk_shadow_stale(&a->shadow, c->mem, s->cr3, s->cr4 & MK_CR4_PSE))
        return false;
    if (start_paging(a, c->mem, c->vm_fd, s, &err) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "%s", err.text);
    return true;
}

static void follow_tables(struct mk_vcpu *c)
{
    struct kvm_sync_regs s;
    if (mk_vcpu_get_state(c, &s) == 0 && follow(c, &s.sregs))
        c->counters.assists++;
}

static void page_fault(struct access *x, uint64_t linear, uint32_t code)
{
    x->s.sregs.cr2 = (uint32_t)linear;
    raise_exception(x, PF, code | (x->s.sregs.cs.selector & 3 ? PF_USER : 0));
}

/* Lets KVM finish the instruction whose access faults, so that it can be forgotten: what it reads
 * is zero, what it writes outside the slots is dropped. */
static void abandon(struct mk_vcpu *c)
{
    for (int i = 0; i < 64; i++) {
        memset(c->run->mmio.data, 0, sizeof(c->run->mmio.data));
        if (mk_vcpu_enter(c, true) < 0 || c->run->exit_reason != KVM_EXIT_MMIO)
            break;
    }
    c->incomplete = false;
}

/* The registers in *x are from before the instruction: it begins again after the handler. */
static void fault_on_read(struct access *x, uint64_t linear, uint32_t code)
{
    abandon(x->c);
    page_fault(x, linear, code);
}

/* KVM has finished all but the write. */
static void fault_on_write(struct access *x, uint64_t linear, uint32_t code)
{
    struct mk_vcpu *c = x->c;
    uint32_t length = c->run->mmio.len;
    x->a->deferred.linear = linear;
    x->a->deferred.length = length;
    memcpy(x->a->deferred.data, c->run->mmio.data, length);
    abandon(c);
    if (!begin(x, c))
        return;
    x->a->deferred.rip = x->s.regs.rip;
    x->a->deferred.pending = true;
    page_fault(x, linear, code | PF_WRITE);
}

static bool serve_mmio(struct mk_vcpu *c)
{
    struct access x;
    struct kvm_run *run = c->run;
    const struct weak *a = weak_of(c);
    if (!a->shadow.on || !begin(&x, c))
        return false;
    uint64_t linear = run->mmio.phys_addr;
    bool write = run->mmio.is_write;
    struct mk_walk w = mk_walk(c->mem, &x.s.sregs, linear);
    bool supervisor = !(x.s.sregs.cs.selector & 3);
    bool allowed = !write || w.writable || (supervisor && !(x.s.sregs.cr0 & MK_CR0_WP));
    if (w.present && allowed) {
        if (!copy(&x, linear, run->mmio.data, run->mmio.len, write))
            return false;     /* mapped to where no RAM is */
        c->incomplete = true; /* served from the page the tables map now, which is followed after */
    } else if (write) {
        fault_on_write(&x, linear, w.present ? PF_PRESENT : 0);
    } else {
        fault_on_read(&x, linear, 0);
    }
    c->counters.assists++;
    return true;
}

static uint64_t physical_address(struct mk_vcpu *c, uint64_t address)
{
    struct kvm_sync_regs s;
    const struct weak *a = weak_of(c);
    if (!a->shadow.on || mk_vcpu_get_state(c, &s) < 0)
        return address;
    show_sregs(c, &s.sregs);
    return mk_walk(c->mem, &s.sregs, address).address;
}

/* --- a guest that switches paging on itself --- */

/* The general register of a ModRM byte's low bits. */
static uint64_t general_register(const struct kvm_regs *r, unsigned number)
{
    const __u64 *all[8] = {
        &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi
    };
    return *all[number];
}

/* `mov cr0, reg` with PG: a KVM without 32-bit paging answers with #GP, and the guest, which rarely
 * has an IDT that early, triple-faults there. On other hosts this instruction with these values
 * does not fault, so a shutdown at it means just that. */
static bool serve_shutdown(struct mk_vcpu *c)
{
    struct access x;
    struct mk_err err;
    uint8_t code[3];
    if (!begin(&x, c))
        return false;
    struct kvm_sregs *s = &x.s.sregs;
    uint64_t rip = (s->cs.base + x.s.regs.rip) & x.mask;
    if (s->cr0 & MK_CR0_PG || s->efer & MK_EFER_LME || s->cr4 & MK_CR4_PAE ||
        !copy(&x, rip, code, 3, false) || code[0] != 0x0f || code[1] != 0x22 || code[2] & 0x38)
        return false;
    uint32_t value = (uint32_t)general_register(&x.s.regs, code[2] & 7);
    if ((value & (MK_CR0_PG | MK_CR0_PE)) != (MK_CR0_PG | MK_CR0_PE))
        return false;
    s->cr0 = (value & ~MK_CR0_PG) | MK_CR0_ET;
    x.s.regs.rip += 3;
    clear_exception(&x);
    if (start_paging(x.a, c->mem, c->vm_fd, s, &err) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "%s", err.text);
    c->counters.assists++;
    return commit(&x);
}

/* --- control transfers --- */

/* The gate of `int n`, with the checks of SDM volume 2, INT n: the exception, 0 when it is right,
 * -1 when the IDT is not in memory. */
static int check_gate(const struct access *x, uint8_t vector, uint8_t gate[8])
{
    const struct kvm_sregs *s = &x->s.sregs;
    unsigned size = s->efer & MK_EFER_LMA ? 16 : 8;
    if ((vector + 1u) * size - 1 > s->idt.limit)
        return GP;
    if (!copy(x, s->idt.base + vector * size, gate, 8, false))
        return -1;
    unsigned type = gate[5] & 0x1f, dpl = gate[5] >> 5 & 3;
    if ((type != TASK_GATE && (type & 0x16) != INTERRUPT_GATE) || dpl < (s->cs.selector & 3u))
        return GP;
    return gate[5] & 0x80 ? 0 : NP;
}

/* The same for the code segment that the gate leads to, whose selector goes into *code. */
static int check_target(const struct access *x, const uint8_t gate[8], uint32_t *code)
{
    const struct kvm_sregs *s = &x->s.sregs;
    uint32_t selector = gate[2] | (uint32_t)gate[3] << 8;
    uint64_t bytes, limit = selector & 4 ? s->ldt.limit : s->gdt.limit;
    *code = selector & 0xfffc;
    if (!*code || (selector | 7) > limit ||
        !copy(x, (selector & 4 ? s->ldt.base : s->gdt.base) + (selector & ~7u), &bytes, 8, false))
        return GP;
    struct kvm_segment cs = mk_descriptor_decode((uint16_t)selector, bytes);
    if (!cs.s || !(cs.type & 8) || cs.dpl > (s->cs.selector & 3))
        return GP;
    return cs.present ? 0 : NP;
}

/* Delivered like an interrupt: to KVM, vectors above 31, and 2, are not exceptions. Where it raises
 * an exception itself, RIP stays at the instruction. */
static bool software_interrupt(struct access *x, uint8_t vector, uint64_t length)
{
    uint8_t gate[8];
    uint32_t code = vector * 8u + 2;
    int exception = check_gate(x, vector, gate);
    if (!exception && (gate[5] & 0x1f) != TASK_GATE)
        exception = check_target(x, gate, &code);
    if (exception < 0)
        return false;
    if (exception) {
        raise_exception(x, (uint8_t)exception, code);
        return true;
    }
    clear_exception(x);
    x->s.regs.rip = (x->s.regs.rip + length) & x->mask;
    x->s.events.interrupt.injected = 1;
    x->s.events.interrupt.nr = vector;
    x->s.events.interrupt.soft = 0;
    return commit(x);
}

/* What an iret takes from the stack. */
struct frame {
    uint32_t eip, cs, eflags, esp, ss;
    uint32_t bytes;
};

/* Reads the frame, with the outer stack pointer when the ring changes. */
static bool read_frame(const struct access *x, bool wide, struct frame *f)
{
    uint32_t size = wide ? 4 : 2, words[5] = { 0 };
    uint64_t mask = x->s.sregs.ss.db ? UINT32_MAX : 0xffff;
    unsigned count = 3, cpl = x->s.sregs.cs.selector & 3;
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = x->s.sregs.ss.base + ((x->s.regs.rsp + i * size) & mask);
        if (!copy(x, at, &words[i], size, false))
            return false;
        if (i == 1 && (words[1] & 3) > cpl)
            count = 5;
    }
    *f = (struct frame){ words[0], words[1] & 0xffff, words[2],
                         words[3], words[4] & 0xffff, count * size };
    return true;
}

/* The descriptor of a selector, with the checks of SDM volume 2, IRET; the exception or 0. */
static uint8_t load_descriptor(const struct access *x, uint32_t selector, bool is_code,
                               struct kvm_segment *segment)
{
    const struct kvm_sregs *s = &x->s.sregs;
    uint64_t bytes, base = selector & 4 ? s->ldt.base : s->gdt.base;
    uint64_t limit = selector & 4 ? s->ldt.limit : s->gdt.limit;
    if (!(selector & ~3u) || (selector | 7u) > limit ||
        !copy(x, base + (selector & ~7u), &bytes, 8, false))
        return GP;
    *segment = mk_descriptor_decode((uint16_t)selector, bytes);
    unsigned rpl = selector & 3;
    bool right = segment->s && (is_code ? segment->type & 8 : (segment->type & 0xa) == 2);
    bool conforming = is_code && segment->type & 4;
    if (!right || (conforming ? segment->dpl > rpl : segment->dpl != rpl))
        return GP;
    segment->type |= 1; /* accessed */
    return segment->present ? 0 : is_code ? NP : SS_FAULT;
}

/* CS, and SS when the ring changes. Returns the exception or 0, and whose selector it is about. */
static uint8_t load_segments(const struct access *x, const struct frame *f, struct kvm_segment *cs,
                             struct kvm_segment *ss, uint32_t *culprit)
{
    unsigned rpl = f->cs & 3, cpl = x->s.sregs.cs.selector & 3;
    *culprit = f->cs;
    uint8_t vector = rpl < cpl ? GP : load_descriptor(x, f->cs, true, cs);
    if (vector || rpl == cpl)
        return vector;
    *culprit = f->ss;
    return (f->ss & 3) == rpl ? load_descriptor(x, f->ss, false, ss) : GP;
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
static uint64_t new_flags(const struct access *x, uint32_t popped, bool wide)
{
    uint64_t old = x->s.regs.rflags;
    unsigned cpl = x->s.sregs.cs.selector & 3;
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
static void complete_deferred_write(struct access *x, const struct frame *f)
{
    if (x->a->deferred.pending && x->a->deferred.rip == f->eip)
        copy(x, x->a->deferred.linear, x->a->deferred.data, x->a->deferred.length, true);
    x->a->deferred.pending = false;
}

/* Not done: task returns (NT) and returns to virtual-8086 mode. */
static bool iret(struct access *x, bool wide)
{
    struct frame f;
    struct kvm_segment cs, ss = x->s.sregs.ss;
    uint32_t culprit;
    if (x->s.regs.rflags & (FLAG_NT | FLAG_VM) || !read_frame(x, wide, &f) ||
        (wide && f.eflags & FLAG_VM))
        return false;
    uint8_t vector = load_segments(x, &f, &cs, &ss, &culprit);
    if (vector) {
        raise_exception(x, vector, culprit & 0xfffc);
        return true;
    }
    bool outward = (f.cs & 3) > (x->s.sregs.cs.selector & 3);
    uint64_t rsp = x->s.regs.rsp, mask = ss.db ? UINT32_MAX : 0xffff;
    x->s.regs.rflags = new_flags(x, f.eflags, wide);
    x->s.regs.rip = f.eip;
    x->s.regs.rsp = outward ? f.esp : (rsp & ~mask) | ((rsp + f.bytes) & mask);
    complete_deferred_write(x, &f);
    x->s.sregs.cs = cs;
    x->s.sregs.ss = ss;
    if (outward)
        drop_inner(&x->s.sregs, f.cs & 3);
    x->s.events.nmi.masked = 0; /* an iret lets the next NMI in (SDM 6.7.1) */
    clear_exception(x);
    return commit(x);
}

/* The instruction that KVM failed at, if it is one of ours. Prefix 66 changes the operand size. */
static bool transfer(struct access *x, uint64_t rip)
{
    const struct kvm_sregs *s = &x->s.sregs;
    uint8_t code[2];
    if (!(s->cr0 & MK_CR0_PE) || !copy(x, rip, code, 1, false))
        return false;
    unsigned prefix = code[0] == 0x66;
    if (prefix && !copy(x, rip + 1, code, 1, false))
        return false;
    if (code[0] == 0xcf && !(s->efer & MK_EFER_LMA))
        return iret(x, s->cs.db != prefix);
    if (code[0] == 0xcc)
        return software_interrupt(x, 3, 1 + prefix);
    return code[0] == 0xcd && copy(x, rip + 1 + prefix, code, 1, false) &&
           software_interrupt(x, code[0], 2 + prefix);
}

/* An instruction whose end is on a page that is not mapped. */
static bool fault_after_write(struct access *x, uint64_t rip)
{
    uint64_t next = (rip | (MK_PAGE - 1)) + 1;
    if (!x->a->shadow.on || next - rip >= LONGEST_INSTRUCTION ||
        mk_walk(x->c->mem, &x->s.sregs, next & x->mask).present)
        return false;
    page_fault(x, next, 0);
    return true;
}

/* New tables first: the failure may have been a fetch from where no slot was. */
static bool handle_failure(struct access *x)
{
    struct mk_vcpu *c = x->c;
    uint64_t rip = (x->s.sregs.cs.base + x->s.regs.rip) & x->mask;
    if (x->a->shadow.on && follow(c, &x->s.sregs)) {
        clear_exception(x);
        return commit(x);
    }
    if (x->a->shadow.on && !mk_walk(c->mem, &x->s.sregs, rip).present) {
        page_fault(x, rip, 0);
        return true;
    }
    return transfer(x, rip) || fault_after_write(x, rip);
}

static bool serve_failure(struct mk_vcpu *c)
{
    struct access x;
    if (!begin(&x, c) || !handle_failure(&x))
        return false;
    c->counters.assists++;
    return true;
}

/* --- the VM --- */

static int set_paging(struct mk_assist *assist, const struct mk_mem *mem, int vm_fd,
                      const struct kvm_sregs *s, const struct mk_deferred_write *due,
                      struct mk_err *err)
{
    struct weak *a = (struct weak *)assist;
    if (due)
        a->deferred = *due;
    if (a->shadow.on && !mk_shadow_stale(&a->shadow, mem, s->cr3, s->cr4 & MK_CR4_PSE))
        return 0;
    return start_paging(a, mem, vm_fd, s, err);
}

static int end_paging(struct mk_assist *assist, struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    struct weak *a = (struct weak *)assist;
    a->deferred.pending = false;
    return mk_shadow_disable(&a->shadow, mem, vm_fd, err);
}

static void save(const struct mk_assist *a, struct mk_deferred_write *due)
{
    *due = ((const struct weak *)a)->deferred;
}

static void remove_slots(struct mk_assist *a, const struct mk_mem *mem, int vm_fd)
{
    mk_shadow_remove_slots(&((struct weak *)a)->shadow, mem, vm_fd);
}

static int rebuild_slots(struct mk_assist *a, const struct mk_mem *mem, int vm_fd,
                         struct mk_err *err)
{
    return mk_shadow_rebuild(&((struct weak *)a)->shadow, mem, vm_fd, err);
}

static int log_slots(const struct mk_assist *a, const struct mk_mem *mem, int vm_fd)
{
    return mk_shadow_register(&((const struct weak *)a)->shadow, mem, vm_fd);
}

static int sync_log(const struct mk_assist *a, const struct mk_mem *mem, int vm_fd)
{
    return mk_shadow_sync_log(&((const struct weak *)a)->shadow, mem, vm_fd);
}

static void reset(struct mk_assist *assist)
{
    struct weak *a = (struct weak *)assist;
    mk_shadow_reset(&a->shadow);
    a->deferred.pending = false;
}

static void free_all(struct mk_assist *a)
{
    reset(a);
    free(a);
}

static const struct mk_assist_ops ops = {
    .failure = serve_failure,
    .mmio = serve_mmio,
    .shutdown = serve_shutdown,
    .follow = follow_tables,
    .address = physical_address,
    .show_sregs = show_sregs,
    .hide_sregs = hide_sregs,
    .set_paging = set_paging,
    .end_paging = end_paging,
    .save = save,
    .remove_slots = remove_slots,
    .rebuild_slots = rebuild_slots,
    .log_slots = log_slots,
    .sync_log = sync_log,
    .reset = reset,
    .free = free_all,
};

int mk_assist_new(struct mk_assist **assist)
{
    struct weak *a = calloc(1, sizeof(*a));
    if (!a)
        return -1;
    a->assist.ops = &ops;
    a->assist.paging = &a->shadow.on;
    *assist = &a->assist;
    return 0;
}

const char *mk_assist_missing(void)
{
    return NULL;
}
