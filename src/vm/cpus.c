/* cpus.c - the vCPUs of a VM: how many there may be, making them, one more of them. See vm.h.
 *
 * Each has memory of its own, which stays where it is while others are added. */
#include "vm/trace.h"
#include "vm/vm.h"

#include "base/abi.h"

#include <errno.h>
#include <stdlib.h>

typedef unsigned long long ull;

/* --- what they ask of their VM --- */

static void end_others(struct mk_vcpu *cause)
{
    struct mk_vm *vm = cause->vm;
    for (unsigned i = 0; i < vm->cpus; i++)
        if (&vm->cpu[i]->c != cause)
            mk_vcpu_stop(&vm->cpu[i]->c, MK_STOPPED);
}

static void kicked(struct mk_vcpu *c)
{
    const struct mk_vm *vm = c->vm;
    if (vm->ops && vm->ops->kicked)
        vm->ops->kicked(vm->ctx, c);
}

static int acknowledge(struct mk_vcpu *c)
{
    return mk_pic_ack(&c->vm->pic);
}

static void delivered(struct mk_vcpu *c, uint8_t vector)
{
    if (c->vm->tracing)
        mk_trace(c, &(struct mk_trace){ .kind = MK_TRACE_INTERRUPT, .value = vector });
}

static const struct mk_vcpu_ops vcpu_ops = {
    .kicked = kicked, .end_others = end_others, .delivered = delivered, .acknowledge = acknowledge
};

/* --- how many --- */

/* Each has a window in real mode, and a stack in the others. */
static int check_room(enum mk_mode mode, uint64_t memory, unsigned cpus, struct mk_err *err)
{
    bool real = mode == MK_MODE_REAL;
    uint64_t each = real ? mk_real_window(cpus) : MK_CPU_STACK;
    uint64_t need = real ? cpus * each : 2 * cpus * each;
    if (memory >= need)
        return 0;
    return mk_fail(err, EINVAL, "memory of %llu bytes: %u vCPUs need %llu (%s of %u KiB each%s)",
                   (ull)memory, cpus, (ull)need, real ? "a window" : "a stack",
                   (unsigned)(each / 1024), real ? "" : ", and as much for the rest");
}

int mk_vm_check_cpus(const struct mk_kvm *kvm, enum mk_mode mode, uint64_t memory, unsigned cpus,
                     struct mk_err *err)
{
    if (cpus < 1 || cpus > MK_MAX_CPUS)
        return mk_fail(err, EINVAL, "cpus = %u: a VM has 1 to %d", cpus, MK_MAX_CPUS);
    unsigned most = cpus > 1 ? mk_kvm_most_cpus(kvm) : 1;
    if (cpus > most)
        return mk_fail(err, ENOTSUP,
                       "cpus = %u: this host's KVM takes %u for a VM (KVM_CAP_MAX_VCPUS)", cpus,
                       most);
    return cpus > 1 ? check_room(mode, memory, cpus, err) : 0;
}

void mk_vm_share_console(struct mk_vm *vm)
{
    mk_console_set_streams(&vm->console, vm->mode == MK_MODE_REAL ? vm->cpus : 1);
}

/* --- life --- */

int mk_vm_make_cpus(struct mk_vm *vm, unsigned cpus, struct mk_err *err)
{
    while (vm->cpus < cpus) {
        struct mk_vm_cpu *cpu = calloc(1, sizeof(*cpu));
        if (!cpu)
            return mk_fail_errno(err, ENOMEM, "vCPU %u", vm->cpus);
        cpu->c.fd = cpu->c.vm_fd = -1;
        vm->cpu[vm->cpus++] = cpu;
    }
    return 0;
}

void mk_vm_free_cpus(struct mk_vm *vm)
{
    while (vm->cpus)
        free(vm->cpu[--vm->cpus]);
}

void mk_vm_set_ready(struct mk_vm *vm, unsigned cpu)
{
    vm->cpu[cpu]->ready = true;
}

void mk_vm_restart_cpu(struct mk_vm *vm, unsigned cpu)
{
    vm->cpu[cpu]->ready = vm->cpu[cpu]->restarted = true;
}

/* The first one gets the PIC's interrupts. */
static int open_vcpu(struct mk_vm *vm, unsigned index, struct mk_err *err)
{
    struct mk_vcpu *c = &vm->cpu[index]->c;
    *c = (struct mk_vcpu){ .cpu = { .index = index, .ops = &mk_device_ops },
                           .kvm = vm->kvm,
                           .vm_fd = vm->fd,
                           .mem = &vm->mem,
                           .vm = vm,
                           .ops = &vcpu_ops,
                           .debug = vm->debug,
                           .intr = vm->has_pic && index == 0 ? &vm->pic.intr : NULL };
    return mk_vcpu_open(c, err);
}

int mk_vm_open_cpus(struct mk_vm *vm, struct mk_err *err)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        if (open_vcpu(vm, i, err) < 0 || mk_vm_init_cpuid(vm, i, err) < 0)
            return -1;
    return 0;
}

void mk_vm_attach_debugger(struct mk_vm *vm, struct mk_debugger *debug)
{
    vm->debug = debug;
    for (unsigned i = 0; i < vm->cpus; i++)
        vm->cpu[i]->c.debug = debug;
}

void mk_vm_close_cpus(struct mk_vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        mk_vcpu_close(&vm->cpu[i]->c);
}

/* --- one more --- */

static bool has_run(const struct mk_vm *vm)
{
    bool entered = false;
    for (unsigned i = 0; i < vm->cpus; i++)
        entered |= vm->cpu[i]->c.counters.entries > 0;
    return entered;
}

static bool is_loaded(const struct mk_vm *vm)
{
    bool loaded = false;
    for (unsigned i = 0; i < vm->cpus; i++)
        loaded |= vm->cpu[i]->has_entry;
    return loaded;
}

/* KVM takes no other CPUID for a vCPU that has run; and images lie in their windows. */
static int check_add(const struct mk_vm *vm, struct mk_err *err)
{
    unsigned cpus = vm->cpus + 1;
    if (has_run(vm))
        return mk_fail(err, EBUSY,
                       "vm \"%s\" has run, and its vCPUs know how many they are: reset() it first",
                       vm->name);
    if (vm->cpuid)
        return mk_fail(err, EBUSY,
                       "vm \"%s\": its CPUID was changed for %u vCPUs: add vCPUs before that",
                       vm->name, vm->cpus);
    if (vm->mode == MK_MODE_REAL && mk_real_window(cpus) < mk_real_window(vm->cpus) &&
        is_loaded(vm))
        return mk_fail(err, EBUSY,
                       "vm \"%s\": windows of %u vCPUs are smaller than those that images were "
                       "loaded into: add vCPUs before vm:load",
                       vm->name, cpus);
    return mk_vm_check_cpus(vm->kvm, vm->mode, vm->mem.size, cpus, err);
}

static void undo_add(struct mk_vm *vm)
{
    struct mk_err ignored;
    struct mk_vm_cpu *last = vm->cpu[--vm->cpus];
    mk_vcpu_close(&last->c);
    free(last);
    mk_vm_update_cpuid(vm, &ignored);
}

int mk_vm_add_cpu(struct mk_vm *vm, struct mk_err *err)
{
    unsigned index = vm->cpus;
    if (check_add(vm, err) < 0 || mk_devs_grow(&vm->devices, index + 1, err) < 0 ||
        mk_vm_make_cpus(vm, index + 1, err) < 0)
        return -1;
    if (open_vcpu(vm, index, err) < 0 || mk_vm_init_cpuid(vm, index, err) < 0 ||
        mk_vm_update_cpuid(vm, err) < 0 || mk_vm_probe_native(vm, err) < 0) {
        undo_add(vm);
        return -1;
    }
    mk_vm_share_console(vm);
    mk_zones_disable(&vm->zones);
    return 0;
}
