/* assist.c - paging where KVM has none, and who serves what. See assist.h. */
#include "x86/weak/assist.h"

#include "x86/mode.h"
#include "x86/weak/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PF_PRESENT 1u
#define PF_WRITE 2u
#define PF_USER 4u

/* --- paging --- */

static int start_paging(struct mk_weak *a, const struct mk_mem *mem, int vm_fd,
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
    struct mk_weak *a = mk_weak_of(c);
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

static void page_fault(struct mk_weak_exit *x, uint64_t linear, uint32_t code)
{
    x->s.sregs.cr2 = (uint32_t)linear;
    mk_weak_raise(x, MK_PF, code | (x->s.sregs.cs.selector & 3 ? PF_USER : 0));
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
static void fault_on_read(struct mk_weak_exit *x, uint64_t linear, uint32_t code)
{
    abandon(x->c);
    page_fault(x, linear, code);
}

/* KVM has finished all but the write. */
static void fault_on_write(struct mk_weak_exit *x, uint64_t linear, uint32_t code)
{
    struct mk_vcpu *c = x->c;
    uint32_t length = c->run->mmio.len;
    x->a->assist.deferred.linear = linear;
    x->a->assist.deferred.length = length;
    memcpy(x->a->assist.deferred.data, c->run->mmio.data, length);
    abandon(c);
    if (!mk_weak_begin(x, c))
        return;
    x->a->assist.deferred.rip = x->s.regs.rip;
    x->a->assist.deferred.pending = true;
    page_fault(x, linear, code | PF_WRITE);
}

static bool serve_mmio(struct mk_vcpu *c)
{
    struct mk_weak_exit x;
    struct kvm_run *run = c->run;
    const struct mk_weak *a = mk_weak_of(c);
    if (!a->shadow.on || !mk_weak_begin(&x, c))
        return false;
    uint64_t linear = run->mmio.phys_addr;
    bool write = run->mmio.is_write;
    struct mk_walk w = mk_walk(c->mem, &x.s.sregs, linear);
    bool supervisor = !(x.s.sregs.cs.selector & 3);
    bool allowed = !write || w.writable || (supervisor && !(x.s.sregs.cr0 & MK_CR0_WP));
    if (w.present && allowed) {
        if (!mk_weak_copy(&x, linear, run->mmio.data, run->mmio.len, write))
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
    const struct mk_weak *a = mk_weak_of(c);
    if (!a->shadow.on || mk_vcpu_get_state(c, &s) < 0)
        return address;
    mk_vcpu_show_paging(c, &s.sregs);
    return mk_walk(c->mem, &s.sregs, address).address;
}

/* --- a guest that switches paging on itself --- */

/* `mov cr0, reg` with PG: a KVM without 32-bit paging answers with #GP, and the guest, which rarely
 * has an IDT that early, triple-faults there. On other hosts this instruction with these values
 * does not fault, so a shutdown at it means just that. */
static bool serve_shutdown(struct mk_vcpu *c)
{
    struct mk_weak_exit x;
    struct mk_err err;
    uint8_t code[3];
    if (!mk_weak_begin(&x, c))
        return false;
    struct kvm_sregs *s = &x.s.sregs;
    uint64_t rip = (s->cs.base + x.s.regs.rip) & x.mask;
    if (s->cr0 & MK_CR0_PG || s->efer & MK_EFER_LME || s->cr4 & MK_CR4_PAE ||
        !mk_weak_copy(&x, rip, code, 3, false) || code[0] != 0x0f || code[1] != 0x22 ||
        code[2] & 0x38)
        return false;
    uint32_t value = (uint32_t)mk_general_register(&x.s.regs, code[2] & 7);
    if ((value & (MK_CR0_PG | MK_CR0_PE)) != (MK_CR0_PG | MK_CR0_PE))
        return false;
    s->cr0 = (value & ~MK_CR0_PG) | MK_CR0_ET;
    x.s.regs.rip += 3;
    mk_weak_clear_exception(&x);
    if (start_paging(x.a, c->mem, c->vm_fd, s, &err) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "%s", err.text);
    c->counters.assists++;
    return mk_weak_commit(&x);
}

/* An instruction whose end is on a page that is not mapped. */
static bool fault_after_write(struct mk_weak_exit *x, uint64_t rip)
{
    uint64_t next = (rip | (MK_PAGE - 1)) + 1;
    if (!x->a->shadow.on || next - rip >= MK_LONGEST_INSTRUCTION ||
        mk_walk(x->c->mem, &x->s.sregs, next & x->mask).present)
        return false;
    page_fault(x, next, 0);
    return true;
}

/* New tables first: the failure may have been a fetch from where no slot was. */
static bool handle_failure(struct mk_weak_exit *x)
{
    struct mk_vcpu *c = x->c;
    uint64_t rip = (x->s.sregs.cs.base + x->s.regs.rip) & x->mask;
    if (x->a->shadow.on && follow(c, &x->s.sregs)) {
        mk_weak_clear_exception(x);
        return mk_weak_commit(x);
    }
    if (x->a->shadow.on && !mk_walk(c->mem, &x->s.sregs, rip).present) {
        page_fault(x, rip, 0);
        return true;
    }
    return mk_weak_transfer(x, rip) || fault_after_write(x, rip);
}

static bool serve_failure(struct mk_vcpu *c)
{
    struct mk_weak_exit x;
    if (!mk_weak_begin(&x, c) || !handle_failure(&x))
        return false;
    c->counters.assists++;
    return true;
}

/* --- the VM --- */

static int set_paging(struct mk_assist *assist, const struct mk_mem *mem, int vm_fd,
                      const struct kvm_sregs *s, struct mk_err *err)
{
    struct mk_weak *a = (struct mk_weak *)assist;
    if (a->shadow.on && !mk_shadow_stale(&a->shadow, mem, s->cr3, s->cr4 & MK_CR4_PSE))
        return 0;
    return start_paging(a, mem, vm_fd, s, err);
}

static int end_paging(struct mk_assist *assist, struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    struct mk_weak *a = (struct mk_weak *)assist;
    assist->deferred.pending = false;
    return mk_shadow_disable(&a->shadow, mem, vm_fd, err);
}

static void remove_slots(struct mk_assist *a, const struct mk_mem *mem, int vm_fd)
{
    mk_shadow_remove_slots(&((struct mk_weak *)a)->shadow, mem, vm_fd);
}

static int rebuild_slots(struct mk_assist *a, const struct mk_mem *mem, int vm_fd,
                         struct mk_err *err)
{
    return mk_shadow_rebuild(&((struct mk_weak *)a)->shadow, mem, vm_fd, err);
}

static int sync_log(const struct mk_assist *a, const struct mk_mem *mem, int vm_fd)
{
    return mk_shadow_sync_log(&((const struct mk_weak *)a)->shadow, mem, vm_fd);
}

static void reset(struct mk_assist *assist)
{
    struct mk_weak *a = (struct mk_weak *)assist;
    mk_shadow_reset(&a->shadow);
    assist->deferred.pending = false;
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
    .set_paging = set_paging,
    .end_paging = end_paging,
    .remove_slots = remove_slots,
    .rebuild_slots = rebuild_slots,
    .sync_log = sync_log,
    .reset = reset,
    .free = free_all,
};

int mk_assist_new(struct mk_assist **assist)
{
    struct mk_weak *a = calloc(1, sizeof(*a));
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
