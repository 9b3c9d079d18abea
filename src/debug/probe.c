/* probe.c - do this host's debug registers tell of execution? See engine.h.
 *
 * Found out once a process, by a guest of three instructions: KVM_CAP_SET_GUEST_DEBUG2 is the same
 * where they do and where they do not. */
#include "debug/engine.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 16 /* an emulated processor may stop at some of them */

static struct {
    pthread_mutex_t lock;
    bool known, hardware;
} answers = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool run_from_0(int cpu)
{
    struct kvm_regs r = { .rflags = 2 };
    return mk_ioctl(cpu, KVM_SET_REGS, &r) == 0 && mk_ioctl(cpu, KVM_RUN, NULL) == 0;
}

/* At real-mode address 0: nop, nop, hlt. Stops at the second one, in code that has run before? */
static bool ask(const struct mk_kvm *kvm, int cpu)
{
    struct kvm_run *run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    struct kvm_sregs s;
    struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP };
    debug.arch.debugreg[0] = 1;
    debug.arch.debugreg[7] = 1;
    if (run == MAP_FAILED)
        return false;
    bool ready = mk_ioctl(cpu, KVM_GET_SREGS, &s) == 0;
    s.cs.base = s.cs.selector = 0;
    bool stops = ready && mk_ioctl(cpu, KVM_SET_SREGS, &s) == 0;
    for (int i = 0; i < ROUNDS && stops; i++) {
        struct kvm_guest_debug none = { 0 };
        stops = mk_ioctl(cpu, KVM_SET_GUEST_DEBUG, &none) == 0 && run_from_0(cpu) &&
                run->exit_reason == KVM_EXIT_HLT &&
                mk_ioctl(cpu, KVM_SET_GUEST_DEBUG, &debug) == 0 && run_from_0(cpu) &&
                run->exit_reason == KVM_EXIT_DEBUG;
    }
    munmap(run, kvm->run_size);
    return stops;
}

static bool ask_in_vm(const struct mk_kvm *kvm)
{
    struct mk_err ignored;
    bool stops = false;
    int vm = mk_kvm_create_vm(kvm, &ignored), cpu = -1;
    uint8_t *page = mmap(NULL, MK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = MK_PAGE,
                                                  .userspace_addr = (uint64_t)(uintptr_t)page };
    if (vm >= 0 && page != MAP_FAILED) {
        page[0] = page[1] = 0x90;
        page[2] = 0xf4;
        mk_ioctl(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
        cpu = mk_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0
                  ? mk_kvm_create_vcpu(vm, 0, &ignored)
                  : -1;
    }
    if (cpu >= 0) {
        stops = ask(kvm, cpu);
        close(cpu);
    }
    if (vm >= 0)
        close(vm);
    if (page != MAP_FAILED)
        munmap(page, MK_PAGE);
    return stops;
}

bool probe_hardware(const struct mk_kvm *kvm)
{
    pthread_mutex_lock(&answers.lock);
    if (!answers.known)
        answers.hardware = ask_in_vm(kvm);
    answers.known = true;
    pthread_mutex_unlock(&answers.lock);
    return answers.hardware;
}
