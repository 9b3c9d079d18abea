/* probe.c - see probe.h. */
#include "vm/probe.h"

#include "x86/host.h"
#include "x86/weak/probe.h"

#include <linux/kvm.h>

static void read_caps(struct mk_probe *out, const struct mk_kvm *kvm)
{
    static const struct {
        const char *name;
        int number;
    } caps[] = { { "immediate_exit", KVM_CAP_IMMEDIATE_EXIT },
                 { "coalesced_pio", KVM_CAP_COALESCED_PIO },
                 { "sync_regs", KVM_CAP_SYNC_REGS },
                 { "ioeventfd", KVM_CAP_IOEVENTFD },
                 { "readonly_mem", KVM_CAP_READONLY_MEM },
                 { "user_space_msr", KVM_CAP_X86_USER_SPACE_MSR },
                 { "msr_filter", KVM_CAP_X86_MSR_FILTER },
                 { "xsave", KVM_CAP_XSAVE },
                 { "vcpu_events", KVM_CAP_VCPU_EVENTS } };
    _Static_assert(MK_COUNT(caps) <= MK_PROBE_CAPS, "room for all capabilities");
    for (size_t i = 0; i < MK_COUNT(caps); i++) {
        out->caps[i].name = caps[i].name;
        out->caps[i].present = mk_kvm_capability(kvm, caps[i].number) > 0;
    }
    out->cap_count = MK_COUNT(caps);
}

static const char *word(bool native)
{
    return native ? "native" : "assist";
}

static void report_native(struct mk_probe *out, const struct mk_kvm *kvm)
{
    struct mk_native native;
    enum mk_cpuid_kind cpuid;
    out->ok = mk_native_probe_all(&native, &cpuid, kvm, &out->err) == 0;
    if (!out->ok || cpuid == MK_CPUID_UNKNOWN)
        return;
    out->paging32 = word(native.paging32);
    out->int_n = word(native.int_n);
    out->iret = word(native.iret);
    out->cpuid = cpuid == MK_CPUID_SHAPED ? "shaped" : "host";
}

void mk_probe(struct mk_probe *out)
{
    struct mk_kvm kvm;
    *out = (struct mk_probe){ .host = mk_host_kind(),
                              .paging32 = "unknown",
                              .int_n = "unknown",
                              .iret = "unknown",
                              .cpuid = "unknown" };
    if (mk_kvm_open(&kvm, &out->err) < 0)
        return;
    out->api = KVM_API_VERSION;
    read_caps(out, &kvm);
    report_native(out, &kvm);
    mk_kvm_close(&kvm);
}
