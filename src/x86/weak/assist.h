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

/* For a VM and its vCPUs; NULL in a build that leaves all this out (none.c). -1 when memory ran
 * out. */
int mk_assist_new(struct mk_assist **assist);
/* What is missing in this build for a host that needs it, as a remedy; NULL: nothing. */
const char *mk_assist_missing(void);

#endif
