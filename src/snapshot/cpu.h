/* cpu.h - all of a vCPU that a guest, or the end of its run, can tell.
 *
 * For the owner of a VM that does not run. Follows Documentation/virt/kvm/api.rst; the order in
 * which state is set is that of its notes: system registers before MSRs, events last. */
#ifndef MK_SNAPSHOT_CPU_H
#define MK_SNAPSHOT_CPU_H

#include "codec/fields.h"
#include "kvm/vcpu.h"

/* What KVM has of it; the rest is the vCPU's own. */
struct mk_cpu_state {
    struct kvm_regs regs;
    struct kvm_sregs sregs; /* as the guest set them (assist.h) */
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_mp_state mp;
    struct kvm_xcrs xcrs;
    struct mk_bytes fpu; /* struct kvm_xsave, as long as this host's; or struct kvm_fpu */
    bool has_xsave;
    struct mk_bytes msrs; /* struct kvm_msrs */
    bool injectable;      /* as KVM said at the last exit */
    uint32_t exit_reason; /* the last one */
};

int mk_cpu_save(struct mk_vcpu *c, struct mk_cpu_state *state, struct mk_err *err);
/* Both parts as bytes, and back: the vCPU's own is then as it is to be. */
void mk_cpu_code(struct mk_codec *k, struct mk_vcpu *c, struct mk_cpu_state *state);
/* Does not switch paging over to the assist: `sregs` is what KVM is to have. */
int mk_cpu_load(struct mk_vcpu *c, const struct mk_cpu_state *state, const struct kvm_sregs *sregs,
                struct mk_err *err);
void mk_cpu_state_free(struct mk_cpu_state *state);

#endif
