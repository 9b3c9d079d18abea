/* cpuid.h - what guests are told of their processor: what KVM can do, less what a VM without a
 * local APIC does not have, with a topology and a frequency of the VM's own. Data, without an
 * ioctl.
 *
 * Follows Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst and errata.rst (KVM_GET_SUPPORTED_CPUID tells the topology
 * of the host's core that it was asked on). */
#ifndef MK_CPUID_H
#define MK_CPUID_H

#include "base/util.h"

struct kvm_cpuid2;

#define MK_CPUID_ENTRIES 256 /* the most that KVM takes */

/* The leaves of vCPU 0 of a VM with so many vCPUs, each a core of one package; `tsc_khz` 0: not
 * known. For free(); NULL when memory ran out. */
struct kvm_cpuid2 *mk_cpuid_new(const struct kvm_cpuid2 *supported, unsigned cpus,
                                uint32_t tsc_khz);

/* A copy for another vCPU: its APIC id is higher by `index`. */
struct kvm_cpuid2 *mk_cpuid_copy(const struct kvm_cpuid2 *list, unsigned index);

#endif
