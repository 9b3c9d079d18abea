/* assist.h - what a weak KVM cannot run, done here: paging in 32-bit mode, int n, and iret.
 *
 * Some hosts (a paravirtual KVM) drop CR0.PG outside long mode and fail to emulate `int n`, `int3`
 * and protected-mode `iret`. Two helpers make 32-bit kernels run there nevertheless:
 *
 * 1. Paging by memory slots (shadow.h). Changed tables and CR3 are noticed at exits. An access that
 *    leaves the slots exits to us and becomes a page fault.
 * 2. Control transfers. After an emulation failure at `int n`, `int3` or `iret` the transfer is
 *    completed on the registers (SDM volume 2, INT n and IRET).
 *
 * Limits: user/supervisor is not enforced, accessed and dirty bits are not set, and the saved EIP
 * of a page fault on a write is that of the next instruction (the write is made up for when the
 * handler returns). Used by the vCPU's thread; paging only in VMs of one vCPU. */
#ifndef MK_ASSIST_H
#define MK_ASSIST_H

#include "kvm/vcpu.h"
#include "x86/weak/shadow.h"

/* A write that faulted: made up for when the handler returns to where it was. */
struct mk_deferred_write {
    bool pending;
    uint64_t linear, rip;
    uint32_t length;
    uint8_t data[8];
};

struct mk_assist {
    struct mk_shadow shadow;
    bool alone; /* the VM has one vCPU */
    struct mk_deferred_write deferred;
};

/* For mk_vcpu.assist; assist_ctx is the VM's struct mk_assist. */
extern const struct mk_assist_ops mk_assist_ops;

/* The VM's KVM half is new. */
void mk_assist_reset(struct mk_assist *a);
/* Paging begins, or goes on, with these control registers. */
int mk_assist_paging(struct mk_assist *a, const struct mk_mem *mem, int vm_fd,
                     const struct kvm_sregs *s, struct mk_err *err);

#endif
