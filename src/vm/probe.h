/* probe.h - what a script is told of this host's KVM. */
#ifndef MK_PROBE_H
#define MK_PROBE_H

#include "kvm/kvm.h"

#define MK_PROBE_CAPS 12

struct mk_probe {
    bool ok; /* VMs can run; else err says why not */
    struct mk_err err;
    int api;          /* 12 */
    const char *host; /* "vmx", "svm", "pvm" or "unknown" */
    /* "native", "assist" (minikvm helps out) or "unknown" (not ok, or built to know no better) */
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

#endif
