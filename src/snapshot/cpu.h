/* cpu.h - all of a vCPU that a guest, or the end of its run, can tell.
 *
 * For the owner of a VM that does not run. Follows Documentation/virt/kvm/api.rst; the order in
 * which state is set is that of its notes: system registers before MSRs, events last. */
#ifndef MK_SNAPSHOT_CPU_H
#define MK_SNAPSHOT_CPU_H

#include "base/bytes.h"
#include "kvm/vcpu.h"

struct mk_cpu_state {
    bool ready; /* has something to run */
    struct kvm_regs regs;
    struct kvm_sregs sregs; /* as the guest believes them to be (assist.h) */
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_mp_state mp;
    struct kvm_xcrs xcrs;
    struct mk_bytes fpu; /* struct kvm_xsave, as long as this host's; or struct kvm_fpu */
    bool has_xsave;
    struct kvm_msrs *msrs;
    uint64_t queued[4]; /* requested interrupts */
    bool nmi;
    uint8_t last[8];
    uint64_t delivered;
    bool injectable;      /* as KVM said at the last exit */
    uint32_t exit_reason; /* the last one */
    uint64_t last_rip;
    struct mk_end end;
    uint8_t code[16];
    uint32_t code_length;
};

int mk_cpu_capture(struct mk_vcpu *c, struct mk_cpu_state *state, struct mk_err *err);
/* Does not switch paging over to the assist: `sregs` is what KVM is to have. */
int mk_cpu_apply(struct mk_vcpu *c, const struct mk_cpu_state *state,
                 const struct kvm_sregs *sregs, struct mk_err *err);
void mk_cpu_state_free(struct mk_cpu_state *state);
/* Space for so many MSRs; NULL when there is none. */
struct kvm_msrs *mk_msrs_new(uint32_t count);

#endif
