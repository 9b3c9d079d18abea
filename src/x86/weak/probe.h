/* probe.h - what this host's KVM does without minikvm's help, found out by trying where its kind
 * (mk_kvm_kind) does not tell. */
#ifndef MK_NATIVE_H
#define MK_NATIVE_H

#include "kvm/kvm.h"

struct mk_native {
    bool paging32, int_n, iret; /* 32-bit paging; the instructions, in protected mode */
};

/* Finds it out. With kvm_intel and kvm_amd it is known. On other hosts tiny guests run in `page`,
 * the VM's RAM at 0, on a new vCPU number `spare`; the page is given back as it was, the vCPU is
 * not used any more. That happens once a process, on whichever thread is first. -1 when it could
 * not be. */
int mk_native_probe(struct mk_native *native, const struct mk_kvm *kvm, int vm_fd, unsigned spare,
                    uint8_t *page, struct mk_err *err);

/* Which feature bits guests see: those that they are told, the host's own; or it is not known, as
 * is then all of the rest. */
enum mk_cpuid_kind { MK_CPUID_SHAPED, MK_CPUID_HOST, MK_CPUID_UNKNOWN };
/* The same and that, in a VM made for it. */
int mk_native_probe_all(struct mk_native *native, enum mk_cpuid_kind *cpuid,
                        const struct mk_kvm *kvm, struct mk_err *err);

#endif
