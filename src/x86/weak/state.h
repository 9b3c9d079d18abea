/* state.h - what a weak KVM lacks, for a VM, and a vCPU at an exit that is served because of it. */
#ifndef MK_WEAK_STATE_H
#define MK_WEAK_STATE_H

#include "kvm/vcpu.h"
#include "x86/weak/shadow.h"

enum { MK_NP = 11, MK_SS_FAULT = 12, MK_GP = 13, MK_PF = 14 };

struct mk_weak {
    struct mk_assist assist; /* first */
    struct mk_shadow shadow;
};

static inline struct mk_weak *mk_weak_of(const struct mk_vcpu *c)
{
    return (struct mk_weak *)c->assist;
}

/* The vCPU at an exit, with its registers as the guest set them. Nothing is changed until
 * mk_weak_commit(). */
struct mk_weak_exit {
    struct mk_vcpu *c;
    struct mk_weak *a;
    struct kvm_sync_regs s;
    uint64_t mask; /* of a linear address and RIP in this mode */
};

/* Reads the state; false when KVM does not tell it. */
bool mk_weak_begin(struct mk_weak_exit *x, struct mk_vcpu *c);
/* KVM queues #UD when it reports an emulation failure; whatever we do instead replaces it. */
void mk_weak_clear_exception(struct mk_weak_exit *x);
/* Writes it back. */
bool mk_weak_commit(struct mk_weak_exit *x);
/* The guest gets this exception instead. */
void mk_weak_raise(struct mk_weak_exit *x, uint8_t vector, uint32_t code);
/* Guest memory by linear address; false when not all of it is there. */
bool mk_weak_copy(const struct mk_weak_exit *x, uint64_t linear, void *data, size_t length,
                  bool write);

/* transfer.c: completes `int n`, `int3` or `iret` at rip, if it is one of these that KVM failed at.
 */
bool mk_weak_transfer(struct mk_weak_exit *x, uint64_t rip);

#endif
