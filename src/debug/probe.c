/* probe.c - do this host's debug registers tell of execution? See engine.h.
 *
 * Found out once a process, by a guest of three instructions: KVM_CAP_SET_GUEST_DEBUG2 is the same
 * where they do and where they do not. */
#include "debug/engine.h"

#include <stdlib.h>

#define ROUNDS 16 /* an emulated processor may stop at some of them */

static const uint8_t code[] = { 0x90, 0x90, HLT }; /* nop, nop, hlt: at 0 */

static struct {
    pthread_mutex_t lock;
    bool known, hardware;
} answers = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool exits_with(struct mk_vcpu *c, struct kvm_guest_debug debug, unsigned reason)
{
    struct kvm_regs from_0 = { .rflags = 2 };
    return mk_ioctl(c->fd, KVM_SET_GUEST_DEBUG, &debug) == 0 && mk_vcpu_set_regs(c, &from_0) == 0 &&
           mk_vcpu_enter(c, false) == 0 && c->run->exit_reason == reason;
}

/* Stops at the second instruction, in code that has run before? */
static bool ask(struct mk_vm *vm)
{
    struct mk_entry entry = { 0 };
    struct mk_err ignored;
    struct kvm_guest_debug none = { 0 },
                           at_1 = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP };
    at_1.arch.debugreg[0] = 1;
    at_1.arch.debugreg[7] = 1;
    struct mk_vcpu *c = &vm->cpu[0]->c;
    bool stops =
        mk_mem_write(&vm->mem, 0, code, sizeof(code)) && mk_vm_set_entry(vm, &entry, &ignored) == 0;
    for (int i = 0; i < ROUNDS && stops; i++)
        stops = exits_with(c, none, KVM_EXIT_HLT) && exits_with(c, at_1, KVM_EXIT_DEBUG);
    return stops;
}

static bool ask_in_vm(const struct mk_kvm *kvm)
{
    struct mk_vm_config config = { .mode = MK_MODE_REAL, .memory = 16 * MK_PAGE, .cpus = 1 };
    struct mk_vm *vm = calloc(1, sizeof(*vm));
    struct mk_err ignored;
    bool open = vm && mk_vm_open(vm, kvm, &config, &ignored) == 0;
    bool stops = open && ask(vm);
    if (open)
        mk_vm_close(vm);
    free(vm);
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
