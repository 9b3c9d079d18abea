/* probe.c - see probe.h. The probe guests run in one page, in 32-bit protected mode. */
#include "x86/weak/probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where things lie in the page. */
enum { CODE = 0x000, HANDLER = 0x100, GDT = 0x200, IDT = 0x300, STACK = 0x1000, GATE = 0x40 };

/* A vCPU to ask on. */
struct guest {
    int cpu;
    uint8_t *page; /* at guest-physical address 0 */
    struct kvm_run *run;
    size_t run_size;
    struct kvm_sregs fresh;      /* of a vCPU that has not run */
    struct kvm_vcpu_events calm; /* nothing pending */
    bool failed;                 /* a question could not be asked */
};

/* --- questions --- */

/* Every ioctl of a question: repeated after a signal, which must not look like an answer. */
static bool call(struct guest *g, unsigned long request, void *arg)
{
    bool done = mk_ioctl(g->cpu, request, arg) >= 0;
    g->failed |= !done;
    return done;
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){ .limit = 0xffffffff,
                                 .selector = selector,
                                 .type = type,
                                 .present = 1,
                                 .s = 1,
                                 .db = 1,
                                 .g = 1 };
}

/* Flat 32-bit segments, a GDT that holds the same, and one interrupt gate. A failed instruction
 * left an exception pending. */
static bool enter_protected(struct guest *g)
{
    static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
    uint64_t gate = (UINT64_C(0x8e) << 40) | (UINT64_C(8) << 16) | HANDLER;
    struct kvm_sregs s = g->fresh;
    struct kvm_regs r = { .rip = CODE, .rsp = STACK, .rflags = 2 };
    memcpy(g->page + GDT, gdt, sizeof(gdt));
    memcpy(g->page + IDT + GATE * 8, &gate, 8);
    g->page[HANDLER] = 0xf4; /* hlt */
    s.cr0 |= 1;
    s.cs = flat(8, 0xb);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(16, 3);
    s.gdt = (struct kvm_dtable){ .base = GDT, .limit = sizeof(gdt) - 1 };
    s.idt = (struct kvm_dtable){ .base = IDT, .limit = 8 * (GATE + 1) - 1 };
    return call(g, KVM_SET_SREGS, &s) && call(g, KVM_SET_REGS, &r) &&
           call(g, KVM_SET_VCPU_EVENTS, &g->calm);
}

/* Runs `code`; true when it reached HLT at `rip` - 1. */
static bool reaches(struct guest *g, const uint8_t *code, size_t length, uint64_t rip)
{
    struct kvm_regs r;
    memcpy(g->page + CODE, code, length);
    return enter_protected(g) && call(g, KVM_RUN, NULL) && g->run->exit_reason == KVM_EXIT_HLT &&
           call(g, KVM_GET_REGS, &r) && r.rip == rip;
}

/* KVM_SET_SREGS with CR0.PG and no long mode: some hosts accept it and drop the bit. */
static bool keeps_paging(struct guest *g)
{
    struct kvm_sregs s;
    if (!enter_protected(g) || !call(g, KVM_GET_SREGS, &s))
        return false;
    s.cr0 |= 0x80000000;
    s.cr4 |= 0x10;
    return call(g, KVM_SET_SREGS, &s) && call(g, KVM_GET_SREGS, &s) && s.cr0 & 0x80000000;
}

#define SSE2 (1u << 26) /* of EDX in CPUID leaf 1 */

/* Does a guest see the feature bits it is told, none, or the host's own? For a vCPU that has not
 * run yet. */
static bool hides_features(struct guest *g)
{
    static const uint8_t code[] = { 0xb8, 1,    0,    0,   0, 0x0f,
                                    0xa2,                                 /* mov eax, 1; cpuid */
                                    0xf7, 0xc2, 0,    0,   0, SSE2 >> 24, /* test edx, SSE2 */
                                    0x74, 1,    0xf4, 0xf4 }; /* jz over one of two hlt */
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 leaf[2];
    } told = { .head.nent = 2, .leaf = { { .eax = 1 }, { .function = 1 } } };
    return call(g, KVM_SET_CPUID2, &told) && reaches(g, code, sizeof(code), CODE + sizeof(code));
}

static void probe_native(struct guest *g, struct mk_native *out)
{
    static const uint8_t int_n[] = { 0xcd, GATE }; /* int 0x40 */
    static const uint8_t iret[] = { 0x9c, 0x0e, 0x68, HANDLER & 0xff, HANDLER >> 8, 0, 0, 0xcf };
    /* pushf, push cs, push, iret */
    out->int_n = reaches(g, int_n, sizeof(int_n), HANDLER + 1);
    out->iret = reaches(g, iret, sizeof(iret), HANDLER + 1);
    out->paging32 = keeps_paging(g); /* last: some KVMs cannot enter such a vCPU any more */
}

/* --- whom to ask --- */

/* Each answer is kept once it is sure. */
static struct {
    pthread_mutex_t lock;
    bool know_native, know_cpuid;
    struct mk_native native;
    bool cpuid; /* guests see the feature bits they are told */
} answers = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int open_guest(struct guest *g, const struct mk_kvm *kvm, int vm_fd, unsigned cpu,
                      struct mk_err *err)
{
    g->run_size = kvm->run_size;
    g->cpu = mk_kvm_create_vcpu(vm_fd, cpu, err);
    if (g->cpu < 0)
        return -1;
    g->run = mmap(NULL, g->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu, 0);
    if (g->run != MAP_FAILED && call(g, KVM_GET_VCPU_EVENTS, &g->calm) &&
        call(g, KVM_GET_SREGS, &g->fresh))
        return 0;
    return mk_fail_errno(err, errno, "a vCPU to find out what this KVM can do");
}

static void close_guest(struct guest *g)
{
    if (g->run != MAP_FAILED)
        munmap(g->run, g->run_size);
    if (g->cpu >= 0)
        close(g->cpu);
}

/* Asks what is not known yet, CPUID only `with_cpuid`: setting that up takes as long as all the
 * rest. */
static int probe_on(const struct mk_kvm *kvm, int vm_fd, unsigned cpu, uint8_t *page,
                    bool with_cpuid, struct mk_err *err)
{
    struct guest g = { .cpu = -1, .page = page, .run = MAP_FAILED };
    uint8_t before[MK_PAGE];
    int rc = open_guest(&g, kvm, vm_fd, cpu, err);
    memcpy(before, page, MK_PAGE);
    if (rc == 0 && with_cpuid && !answers.know_cpuid) {
        answers.cpuid = hides_features(&g);
        answers.know_cpuid = !g.failed;
    }
    if (rc == 0 && !answers.know_native) {
        probe_native(&g, &answers.native);
        answers.know_native = !g.failed;
    }
    memcpy(page, before, MK_PAGE);
    close_guest(&g);
    return rc;
}

/* In a VM of one page. */
static int probe_alone(const struct mk_kvm *kvm, struct mk_err *err)
{
    int rc = -1, vm_fd = mk_kvm_create_vm(kvm, err);
    if (vm_fd < 0)
        return -1;
    void *page = mmap(NULL, MK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = MK_PAGE,
                                                  .userspace_addr = (uint64_t)(uintptr_t)page };
    mk_ioctl(vm_fd, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
    if (page == MAP_FAILED || mk_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        mk_fail_errno(err, errno, "memory to find out what this KVM can do");
    else
        rc = probe_on(kvm, vm_fd, 0, page, true, err);
    close(vm_fd);
    if (page != MAP_FAILED)
        munmap(page, MK_PAGE);
    return rc;
}

int mk_native_probe(struct mk_native *out, const struct mk_kvm *kvm, int vm_fd, unsigned spare,
                    uint8_t *page, struct mk_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&answers.lock);
    if (mk_kvm_is_stock())
        *out = (struct mk_native){ true, true, true };
    else {
        if (!answers.know_native)
            rc = probe_on(kvm, vm_fd, spare, page, false, err);
        if (rc < 0) /* that VM cannot have one vCPU more */
            rc = probe_alone(kvm, err);
        *out = answers.native;
    }
    pthread_mutex_unlock(&answers.lock);
    return rc;
}

int mk_native_probe_all(struct mk_native *native, enum mk_cpuid_kind *cpuid,
                        const struct mk_kvm *kvm, struct mk_err *err)
{
    int rc = 0;
    *native = (struct mk_native){ true, true, true };
    *cpuid = MK_CPUID_SHAPED;
    if (mk_kvm_is_stock())
        return 0;
    pthread_mutex_lock(&answers.lock);
    if (!answers.know_native || !answers.know_cpuid)
        rc = probe_alone(kvm, err);
    *native = answers.native;
    *cpuid = answers.cpuid ? MK_CPUID_SHAPED : MK_CPUID_HOST;
    pthread_mutex_unlock(&answers.lock);
    return rc;
}
