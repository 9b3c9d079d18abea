/* probe.h - what kind of KVM this host has, found out by trying rather than by name. */
#ifndef MK_PROBE_H
#define MK_PROBE_H

#include "base/err.h"

#define MK_PROBE_CAPS 24

struct mk_probe {
    bool ok;            /* VMs can run; else err says why not */
    struct mk_err err;
    int api;            /* 12 */
    const char *host;   /* "vmx", "svm", "pvm" or "unknown" */
    /* "native", "assist" (minikvm helps out) or "unknown" (not ok) */
    const char *paging32, *int_n, *iret;
    const char *cpuid; /* feature bits: "shaped" as told, the "host"'s own, or "unknown" */
    size_t cap_count;
    struct { const char *name; bool present; } caps[MK_PROBE_CAPS];
};

void mk_probe(struct mk_probe *probe);

#endif
