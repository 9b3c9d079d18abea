/* kvm.h - the handle on /dev/kvm: the only file that opens it, and what the kernel's KVM offers.
 *
 * Follows Linux Documentation/virt/kvm/api.rst. One handle may serve any number of VMs and threads:
 * after mk_kvm_open() it is only read. */
#ifndef MK_KVM_H
#define MK_KVM_H

#include "base/err.h"

struct kvm_cpuid2;

struct mk_kvm {
    int fd;
    size_t run_size;          /* bytes to mmap of a vCPU descriptor */
    bool coalesced_pio;       /* KVM_CAP_COALESCED_PIO */
    bool sync_regs;           /* registers appear in kvm_run with every exit */
    bool sync_state;          /* and system registers and events can be had and set there */
    struct kvm_cpuid2 *cpuid; /* all that KVM supports */
    bool svm;                 /* AMD-V */
    bool shadow_paging;  /* the processor does not walk guests' page tables: KVM keeps its own */
    size_t xsave_size;   /* bytes of the FPU's state; 0: only struct kvm_fpu */
    size_t coalesced_at; /* page of the coalescing ring in the vCPU mapping */
};

/* What kind of KVM this host has, by the module that serves /dev/kvm: "vmx", "svm", "pvm" or
 * "unknown". Of the first two hardware virtualization does all that guests need. */
const char *mk_kvm_kind(void);
bool mk_kvm_is_stock(void);

/* Opens /dev/kvm and checks that its API is the one we speak. Errors name the remedy. */
int mk_kvm_open(struct mk_kvm *kvm, struct mk_err *err);
/* Begins with the next mk_kvm_open() on a thread of its own, which ends with it: on a host where
 * the instruction CPUID traps, KVM takes 0.4 ms to tell what it supports. The first VM is made
 * there, too. */
void mk_kvm_open_early(void);
void mk_kvm_close(struct mk_kvm *kvm);

/* ioctl that is repeated when a signal interrupts it; not for KVM_RUN. */
int mk_ioctl(int fd, unsigned long request, void *arg);

/* 0 or less: absent. */
int mk_kvm_capability(const struct mk_kvm *kvm, int capability);
/* vCPUs that a VM of this KVM can have. */
unsigned mk_kvm_most_cpus(const struct mk_kvm *kvm);

/* Creates a VM; returns its descriptor. */
int mk_kvm_create_vm(const struct mk_kvm *kvm, struct mk_err *err);

/* Creates vCPU `index` of a VM; returns its descriptor. */
int mk_kvm_create_vcpu(int vm_fd, unsigned index, struct mk_err *err);

/* Gives a vCPU the features of this list; before it runs for the first time. */
int mk_kvm_set_cpuid(int vcpu_fd, const struct kvm_cpuid2 *cpuid, struct mk_err *err);

#endif
