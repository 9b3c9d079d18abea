/* probe.c - see probe.h. The probe guests run in a VM of one page, 32-bit protected mode. */
#include "x86/probe.h"

#include "kvm/kvm.h"

#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where things lie in the probe VM's one page. */
enum { CODE = 0x000, HANDLER = 0x100, GDT = 0x200, IDT = 0x300, STACK = 0x1000, GATE = 0x40 };

struct probe_vm {
    int vm, cpu;
    uint8_t *page;
    struct kvm_run *run;
    size_t run_size;
};

static void close_vm(struct probe_vm *p)
{
    if (p->run && p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->cpu >= 0)
        close(p->cpu);
    if (p->vm >= 0)
        close(p->vm);
    if (p->page && p->page != MAP_FAILED)
        munmap(p->page, MK_PAGE);
}

static bool open_vm(struct probe_vm *p, const struct mk_kvm *kvm, struct mk_err *err)
{
    *p = (struct probe_vm){ .vm = -1, .cpu = -1, .run_size = kvm->run_size };
    p->page = mmap(NULL, MK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->page == MAP_FAILED || (p->vm = mk_kvm_create_vm(kvm, err)) < 0 ||
        (p->cpu = mk_kvm_create_vcpu(p->vm, 0, err)) < 0)
        return false;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
    struct kvm_userspace_memory_region region = {
        .memory_size = MK_PAGE, .userspace_addr = (uint64_t)(uintptr_t)p->page };
    mk_ioctl(p->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
    return p->run != MAP_FAILED && mk_kvm_set_cpuid(p->cpu, kvm->cpuid, err) == 0 &&
           mk_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type,
                                 .present = 1, .s = 1, .db = 1, .g = 1 };
}

/* Flat 32-bit segments, a GDT that holds the same, and one interrupt gate. */
static bool enter_protected(struct probe_vm *p)
{
    static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
    uint64_t gate = (UINT64_C(0x8e) << 40) | (UINT64_C(8) << 16) | HANDLER;
    struct kvm_sregs s;
    struct kvm_regs r = { .rip = CODE, .rsp = STACK, .rflags = 2 };
    memcpy(p->page + GDT, gdt, sizeof(gdt));
    memcpy(p->page + IDT + GATE * 8, &gate, 8);
    p->page[HANDLER] = 0xf4; /* hlt */
    if (mk_ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 |= 1;
    s.cs = flat(8, 0xb);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(16, 3);
    s.gdt = (struct kvm_dtable){ .base = GDT, .limit = sizeof(gdt) - 1 };
    s.idt = (struct kvm_dtable){ .base = IDT, .limit = 8 * (GATE + 1) - 1 };
    return mk_ioctl(p->cpu, KVM_SET_SREGS, &s) == 0 && mk_ioctl(p->cpu, KVM_SET_REGS, &r) == 0;
}

/* Runs `code`; true when it reached HLT at `rip` - 1. */
static bool reaches(struct probe_vm *p, const uint8_t *code, size_t length, uint64_t rip)
{
    struct kvm_regs r;
    memcpy(p->page + CODE, code, length);
    return enter_protected(p) && ioctl(p->cpu, KVM_RUN, NULL) == 0 &&
           p->run->exit_reason == KVM_EXIT_HLT && mk_ioctl(p->cpu, KVM_GET_REGS, &r) == 0 &&
           r.rip == rip;
}

/* KVM_SET_SREGS with CR0.PG and no long mode: some hosts accept it and drop the bit. */
static bool keeps_paging(struct probe_vm *p)
{
    struct kvm_sregs s;
    if (!enter_protected(p) || mk_ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 |= 0x80000000;
    s.cr4 |= 0x10;
    return mk_ioctl(p->cpu, KVM_SET_SREGS, &s) == 0 &&
           mk_ioctl(p->cpu, KVM_GET_SREGS, &s) == 0 && s.cr0 & 0x80000000;
}

#define SSE2 (1u << 26) /* of EDX in CPUID leaf 1 */

/* Does a guest see the feature bits it is told, or the host's own? */
static bool hides_features(struct probe_vm *p, const struct mk_kvm *kvm)
{
    static const uint8_t code[] = { 0xb8, 1, 0, 0, 0, 0x0f, 0xa2,      /* mov eax, 1; cpuid */
                                    0xf7, 0xc2, 0, 0, 0, SSE2 >> 24,   /* test edx, SSE2 */
                                    0x74, 1, 0xf4, 0xf4 };             /* jz over one of two hlt */
    size_t size = sizeof(*kvm->cpuid) + kvm->cpuid->nent * sizeof(kvm->cpuid->entries[0]);
    struct kvm_cpuid2 *list = malloc(size);
    struct mk_err err;
    if (!list)
        return false;
    memcpy(list, kvm->cpuid, size);
    for (unsigned i = 0; i < list->nent; i++)
        if (list->entries[i].function == 1)
            list->entries[i].edx &= ~SSE2;
    bool hidden = mk_kvm_set_cpuid(p->cpu, list, &err) == 0 &&
                  reaches(p, code, sizeof(code), CODE + sizeof(code));
    free(list);
    return hidden;
}

static const char *word(bool native)
{
    return native ? "native" : "assist";
}

/* Each question gets a VM of its own: a failed instruction leaves events pending in a vCPU. */
static int ask(struct mk_probe *out, const struct mk_kvm *kvm)
{
    static const uint8_t int_n[] = { 0xcd, GATE };                      /* int 0x40 */
    static const uint8_t iret[] = { 0x9c, 0x0e, 0x68, HANDLER & 0xff, HANDLER >> 8, 0, 0, 0xcf };
    bool answer[4] = { false };                                    /* pushf, push cs, push, iret */
    for (int i = 0; i < 4; i++) {
        struct probe_vm p;
        bool opened = open_vm(&p, kvm, &out->err);
        if (opened)
            answer[i] = i == 0   ? keeps_paging(&p)
                        : i == 1 ? reaches(&p, int_n, sizeof(int_n), HANDLER + 1)
                        : i == 2 ? hides_features(&p, kvm)
                                 : reaches(&p, iret, sizeof(iret), HANDLER + 1);
        close_vm(&p);
        if (!opened)
            return out->err.code ? -1 : mk_fail(&out->err, 5, "/dev/kvm: the probe VM failed");
    }
    out->paging32 = word(answer[0]);
    out->int_n = word(answer[1]);
    out->iret = word(answer[3]);
    out->cpuid = answer[2] ? "shaped" : "host";
    return 0;
}

static void read_caps(struct mk_probe *out, const struct mk_kvm *kvm)
{
    static const struct { const char *name; int number; } caps[] = {
        { "immediate_exit", KVM_CAP_IMMEDIATE_EXIT }, { "coalesced_pio", KVM_CAP_COALESCED_PIO },
        { "sync_regs", KVM_CAP_SYNC_REGS }, { "irqchip", KVM_CAP_IRQCHIP },
        { "split_irqchip", KVM_CAP_SPLIT_IRQCHIP }, { "pit2", KVM_CAP_PIT2 },
        { "ioeventfd", KVM_CAP_IOEVENTFD }, { "irqfd", KVM_CAP_IRQFD },
        { "readonly_mem", KVM_CAP_READONLY_MEM }, { "guest_debug", KVM_CAP_SET_GUEST_DEBUG },
        { "user_space_msr", KVM_CAP_X86_USER_SPACE_MSR }, { "msr_filter", KVM_CAP_X86_MSR_FILTER },
        { "xsave", KVM_CAP_XSAVE }, { "vcpu_events", KVM_CAP_VCPU_EVENTS },
        { "dirty_log_ring", KVM_CAP_DIRTY_LOG_RING } };
    _Static_assert(MK_COUNT(caps) <= MK_PROBE_CAPS, "room for all capabilities");
    for (size_t i = 0; i < MK_COUNT(caps); i++) {
        out->caps[i].name = caps[i].name;
        out->caps[i].present = mk_kvm_capability(kvm, caps[i].number) > 0;
    }
    out->cap_count = MK_COUNT(caps);
}

/* The module that serves /dev/kvm names the kind; nothing is decided by it. */
static const char *host_kind(void)
{
    static const char *const kinds[][2] = { { "/sys/module/kvm_pvm", "pvm" },
        { "/sys/module/kvm_intel", "vmx" }, { "/sys/module/kvm_amd", "svm" } };
    for (size_t i = 0; i < MK_COUNT(kinds); i++)
        if (access(kinds[i][0], F_OK) == 0)
            return kinds[i][1];
    return "unknown";
}

void mk_probe(struct mk_probe *out)
{
    struct mk_kvm kvm;
    *out = (struct mk_probe){ .host = host_kind(), .paging32 = "unknown", .int_n = "unknown",
                              .iret = "unknown", .cpuid = "unknown" };
    if (mk_kvm_open(&kvm, &out->err) < 0)
        return;
    out->api = KVM_API_VERSION;
    read_caps(out, &kvm);
    out->ok = ask(out, &kvm) == 0;
    mk_kvm_close(&kvm);
}
