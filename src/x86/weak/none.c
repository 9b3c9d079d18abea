/* none.c - instead of the other files here, in a build that leaves them out (make WEAK=0): such a
 * minikvm takes its host for one that needs no help. See assist.h and probe.h. */
#include "x86/weak/assist.h"
#include "x86/weak/probe.h"

int mk_assist_new(struct mk_assist **assist)
{
    *assist = NULL;
    return 0;
}

const char *mk_assist_missing(void)
{
    return mk_kvm_is_stock() ? NULL
                             : "this minikvm was built without what stands in for such a KVM "
                               "(make WEAK=0): build it with that, or use a host with VT-x or "
                               "AMD-V";
}

int mk_native_probe(struct mk_native *native, const struct mk_kvm *kvm, int vm_fd, unsigned spare,
                    uint8_t *page, struct mk_err *err)
{
    (void)kvm, (void)vm_fd, (void)spare, (void)page, (void)err;
    *native = (struct mk_native){ true, true, true };
    return 0;
}

int mk_native_probe_all(struct mk_native *native, enum mk_cpuid_kind *cpuid,
                        const struct mk_kvm *kvm, struct mk_err *err)
{
    (void)kvm, (void)err;
    *cpuid = mk_kvm_is_stock() ? MK_CPUID_SHAPED : MK_CPUID_UNKNOWN;
    *native = (struct mk_native){ true, true, true };
    return 0;
}
