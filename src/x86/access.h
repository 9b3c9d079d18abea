/* access.h - the instruction whose access to a port is being served.
 *
 * For the thread that runs the vCPU, or the owner while none does. KVM tells RIP at the instruction
 * for whatever waits for an answer (IN, loads, RDMSR and WRMSR), behind it for stores. At an OUT it
 * depends: a KVM that lets the processor run it has RIP at it until the next entry, one that
 * emulates it behind it. */
#ifndef MK_ACCESS_H
#define MK_ACCESS_H

#include "kvm/vcpu.h"

/* RIP as handlers see it: at the IN or OUT that is being served, on any host; otherwise the vCPU's.
 * Guest memory tells; where it leaves a doubt (two such OUTs in a row) and `may_enter`, the access
 * is completed. */
uint64_t mk_access_rip(struct mk_vcpu *c, bool may_enter);

#endif
