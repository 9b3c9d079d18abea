/* probe.h - what kind of KVM this host has, found out by trying where its name does not tell. */
#ifndef MK_PROBE_H
#define MK_PROBE_H

#include "kvm/kvm.h"

#define MK_PROBE_CAPS 12

struct mk_probe {
    bool ok; /* VMs can run; else err says why not */
    struct mk_err err;
    int api;          /* 12 */
    const char *host; /* "vmx", "svm", "pvm" or "unknown" */
    /* "native", "assist" (minikvm helps out) or "unknown" (not ok) */
    const char *paging32, *int_n, *iret;
    const char *cpuid; /* feature bits: "shaped" as told, the "host"'s own, or "unknown" */
    size_t cap_count;
    struct {
        const char *name;
        bool present;
    } caps[MK_PROBE_CAPS];
};

/* For kvm.probe(). May make a VM of its own. */
void mk_probe(struct mk_probe *probe);

/* "vmx", "svm", "pvm" or "unknown". */
const char *mk_host_kind(void);

/* What the host's KVM does without minikvm's help. */
struct mk_native {
    bool paging32, int_n, iret; /* 32-bit paging; the instructions, in protected mode */
};

/* Finds it out. With kvm_intel and kvm_amd it is known. On other hosts tiny guests run in `page`,
 * the VM's RAM at 0, on a new vCPU number `spare`; the page is given back as it was, the vCPU is
 * not used any more. That happens once a process, on whichever thread is first. -1 when it could
 * not be. */
int mk_native_probe(struct mk_native *native, const struct mk_kvm *kvm, int vm_fd, unsigned spare,
                    uint8_t *page, struct mk_err *err);

#endif
