/* vm.c - what a VM is made of: its parts, how they are wired, and its life. See vm.h. */
#include "vm/vm.h"

#include "base/abi.h"
#include "files/ram.h"
#include "kvm/interrupt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REKICK_NS 20000000u

static void end_others(struct mk_vcpu *cause)
{
    struct mk_vm *vm = mk_vm_of(cause);
    for (unsigned i = 0; i < vm->cpus; i++)
        if (&vm->cpu[i] != cause)
            mk_vcpu_stop(&vm->cpu[i], MK_STOPPED);
}

static void kicked(struct mk_vcpu *c)
{
    const struct mk_machine *m = c->machine;
    if (m->ops && m->ops->kicked)
        m->ops->kicked(m->ctx, c);
}

static int acknowledge(struct mk_vcpu *c)
{
    return mk_pic_ack(c->machine->pic);
}

static const struct mk_vcpu_ops vcpu_ops = { .kicked = kicked,
                                             .end_others = end_others,
                                             .acknowledge = acknowledge };

static void interrupt_first(void *ctx)
{
    struct mk_vm *vm = ctx;
    mk_interrupt_notify(&vm->cpu[0]);
}

static void leave(void *ctx)
{
    mk_vm_stop(ctx, MK_STOPPED);
}

static void acknowledged(void *ctx, unsigned line)
{
    struct mk_vm *vm = ctx;
    mk_pit_on_ack(&vm->pit, line);
    if (line == 0)
        mk_vm_timer_tick(vm);
}

/* The first one gets the PIC's interrupts. */
static int open_vcpu(struct mk_vm *vm, unsigned index, struct mk_err *err)
{
    struct mk_vcpu_parts parts = { .kvm = vm->m.kvm,
                                   .vm_fd = vm->m.fd,
                                   .mem = &vm->m.mem,
                                   .device_ops = &mk_device_ops,
                                   .ops = &vcpu_ops,
                                   .intr = vm->has_pic && index == 0 ? &vm->pic.intr : NULL,
                                   .machine = &vm->m };
    return mk_vcpu_open(&vm->cpu[index], &parts, index, err);
}

/* The part of a VM that KVM holds; made anew by a reset, so that nothing can be left over. */
static int open_hardware(struct mk_vm *vm, struct mk_err *err)
{
    vm->m.fd = mk_kvm_create_vm(vm->m.kvm, err);
    if (vm->m.fd < 0)
        return -1;
    mk_ioctl(vm->m.fd, KVM_SET_IDENTITY_MAP_ADDR, &(uint64_t){ MK_KVM_PAGES });
    mk_ioctl(vm->m.fd, KVM_SET_TSS_ADDR, (void *)(unsigned long)(MK_KVM_PAGES + MK_PAGE));
    if (mk_mem_register(&vm->m.mem, vm->m.fd, err) < 0)
        return -1;
    for (unsigned i = 0; i < vm->cpus; i++) {
        if (open_vcpu(vm, i, err) < 0 || mk_vm_init_cpuid(vm, i, err) < 0)
            return -1;
    }
    mk_vm_attach_assist(vm);
    mk_zones_register(&vm->zones, vm->m.fd);
    mk_doorbells_register(&vm->doorbells, vm->m.fd);
    return mk_vm_hooks_apply(vm, err);
}

static void close_hardware(struct mk_vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        mk_vcpu_close(&vm->cpu[i]);
    if (vm->m.fd >= 0)
        close(vm->m.fd);
    vm->m.fd = -1;
    mk_zones_register(&vm->zones, -1);
    mk_doorbells_register(&vm->doorbells, -1);
}

static int check_config(const struct mk_vm_config *config, struct mk_err *err)
{
    if (config->cpus < 1 || config->cpus > MK_MAX_CPUS)
        return mk_fail(err, EINVAL, "cpus = %u: a VM has 1 to %d", config->cpus, MK_MAX_CPUS);
    if (config->mode != MK_MODE_REAL && config->cpus > 1)
        return mk_fail(err, EINVAL, "cpus = %u: several vCPUs are for real mode", config->cpus);
    if (mk_mapping_check(config->mode, &config->mapping, config->memory, err) < 0)
        return -1;
    const struct mk_mapping *map = &config->mapping;
    bool low = mk_mem_is_own(config->memory, map->io) ||
               (config->mode == MK_MODE_PAGED && map->io > UINT32_MAX);
    if (map->io && (low || (config->mode != MK_MODE_LONG && config->mode != MK_MODE_PAGED)))
        return mk_fail(err, EINVAL,
                       "map_io = 0x%llx: it is for paged and long mode, and lies outside "
                       "RAM",
                       (unsigned long long)map->io);
    uint64_t windows = (uint64_t)config->cpus * MK_REAL_WINDOW;
    if (config->mode == MK_MODE_REAL && config->memory < windows && config->cpus > 1)
        return mk_fail(err, EINVAL,
                       "memory of %llu bytes: %u real-mode vCPUs need %llu "
                       "(256 KiB each)",
                       (unsigned long long)config->memory, config->cpus,
                       (unsigned long long)windows);
    return 0;
}

static void init_config(struct mk_vm *vm, const struct mk_kvm *kvm,
                        const struct mk_vm_config *config)
{
    *vm = (struct mk_vm){ .mode = config->mode,
                          .cpus = config->cpus,
                          .places = config->places,
                          .mode_open = config->mode_open,
                          .memory_open = config->memory_open,
                          .may_assist = config->assist };
    snprintf(vm->name, sizeof(vm->name), "%s", config->name ? config->name : "vm");
    snprintf(vm->command_line, sizeof(vm->command_line), "%s",
             config->command_line ? config->command_line : "");
    vm->boot_features = config->boot_features | (config->pic ? MK_BOOT_PIC : 0) |
                        (config->coalesce ? MK_BOOT_DEBUGCON : 0);
    vm->mapping = config->mapping;
    vm->m.kvm = kvm;
    vm->m.fd = -1;
    vm->m.unhandled_fault = config->unhandled_fault;
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        vm->cpu[i].fd = vm->cpu[i].vm_fd = -1;
    pthread_mutex_init(&vm->lock, NULL);
    mk_assist_reset(&vm->assist);
}

/* What its parts tell the VM. */
static void connect_parts(struct mk_vm *vm, const struct mk_vm_config *config)
{
    vm->m.msrs.on_unhandled = mk_vm_msr;
    vm->m.msrs.unhandled_ctx = vm;
    mk_zones_init(&vm->zones, &vm->m.bus,
                  config->coalesce && vm->cpus == 1 && vm->m.kvm->coalesced_pio);
    mk_doorbells_init(&vm->doorbells, &vm->m.bus, &vm->m.mmio, mk_vm_wake, vm);
    vm->m.console.on_input = vm->m.console.on_output = mk_vm_wake;
    vm->m.console.on_leave = leave;
    vm->m.console.ctx = vm;
    vm->pic.on_int = interrupt_first;
    vm->pic.on_ack = acknowledged;
    vm->pic.int_ctx = vm->pic.ack_ctx = vm;
    mk_vm_watch_init(vm);
    mk_vm_init_monitor(vm);
}

static int attach_devices(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_bus *const bus[MK_SPACES] = { &vm->m.bus, &vm->m.mmio, &vm->m.msrs };
    return mk_devs_attach(&vm->devices, bus, err);
}

static int open_memory(struct mk_vm *vm, const struct mk_vm_config *config, struct mk_err *err)
{
    if (!config->ram)
        return mk_mem_open(&vm->m.mem, config->memory, err);
    vm->base = mk_ram_ref(config->ram);
    return mk_mem_open_copy(&vm->m.mem, config->regions, config->region_count, config->ram->fd,
                            err);
}

/* A vCPU waits for the copy of a file; NULL: somebody else does. */
static bool copy_may_continue(void *caller)
{
    struct mk_cpu *cpu = caller;
    return !cpu || cpu->ops->may_continue(cpu);
}

int mk_vm_open(struct mk_vm *vm, const struct mk_kvm *kvm, const struct mk_vm_config *config,
               struct mk_err *err)
{
    if (check_config(config, err) < 0 || mk_kick_init(err) < 0 || mk_io_ref(err) < 0)
        return -1;
    init_config(vm, kvm, config);
    int rc = mk_vm_compose(vm, config, err);
    connect_parts(vm, config);
    if (rc < 0 || open_memory(vm, config, err) < 0 || open_hardware(vm, err) < 0 ||
        mk_vm_probe_native(vm, err) < 0 || attach_devices(vm, err) < 0 ||
        (!config->ram && mk_vm_prepare_memory(vm, err) < 0)) {
        mk_vm_close(vm);
        return -1;
    }
    vm->fsbox.may_continue = copy_may_continue;
    return 0;
}

void mk_vm_close(struct mk_vm *vm)
{
    while (!mk_vm_wait(vm, 0)) {
        mk_vm_stop(vm, MK_STOPPED);
        mk_vm_wait(vm, REKICK_NS);
    }
    mk_vm_join(vm);
    mk_doorbells_free(&vm->doorbells);
    mk_vm_hooks_free(vm);
    mk_vm_dismantle(vm);
    close_hardware(vm);
    mk_mem_close(&vm->m.mem);
    mk_ram_unref(vm->base);
    mk_assist_reset(&vm->assist);
    pthread_mutex_destroy(&vm->lock);
    mk_io_unref();
}

void mk_vm_set_ready(struct mk_vm *vm, unsigned cpu)
{
    vm->ready[cpu] = true;
}

static int reset(struct mk_vm *vm, struct mk_err *err)
{
    mk_mem_reset(&vm->m.mem);
    mk_ram_unref(vm->base);
    vm->base = NULL;
    mk_devs_reset(&vm->devices);
    mk_assist_reset(&vm->assist);
    vm->state = MK_VM_IDLE;
    if (open_hardware(vm, err) < 0 || mk_vm_prepare_memory(vm, err) < 0)
        return -1;
    for (unsigned i = 0; i < vm->cpus; i++)
        if (vm->has_entry[i] && mk_vm_set_entry(vm, &vm->entry[i], err) < 0)
            return -1;
    return 0;
}

int mk_vm_reset(struct mk_vm *vm, struct mk_err *err)
{
    mk_vm_join(vm);
    close_hardware(vm);
    if (reset(vm, err) == 0)
        return 0;
    close_hardware(vm);
    mk_vm_disable(vm, "reset", err->text);
    return -1;
}
