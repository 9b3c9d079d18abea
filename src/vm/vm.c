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

static void interrupt_first(void *ctx)
{
    struct mk_vm *vm = ctx;
    mk_interrupt_notify(&vm->cpu[0]->c);
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

/* The part of a VM that KVM holds; made anew by a reset, so that nothing can be left over. */
static int open_hardware(struct mk_vm *vm, struct mk_err *err)
{
    vm->fd = mk_kvm_create_vm(vm->kvm, err);
    if (vm->fd < 0)
        return -1;
    mk_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &(uint64_t){ MK_KVM_PAGES });
    mk_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)(unsigned long)(MK_KVM_PAGES + MK_PAGE));
    if (!vm->slots_later && mk_mem_register(&vm->mem, vm->fd, err) < 0)
        return -1;
    if (mk_vm_open_cpus(vm, err) < 0)
        return -1;
    mk_vm_attach_assist(vm);
    mk_zones_register(&vm->zones, vm->fd);
    mk_doorbells_register(&vm->doorbells, vm->fd);
    mk_pci_register(&vm->pci, vm->fd);
    vm->msr_exits = false; /* the KVM VM is new */
    return mk_vm_filter_msrs(vm, err);
}

static void close_hardware(struct mk_vm *vm)
{
    mk_vm_close_cpus(vm);
    if (vm->fd >= 0)
        close(vm->fd);
    vm->fd = -1;
    mk_zones_register(&vm->zones, -1);
    mk_doorbells_register(&vm->doorbells, -1);
    mk_pci_register(&vm->pci, -1);
}

static int check_config(const struct mk_kvm *kvm, const struct mk_vm_config *config,
                        struct mk_err *err)
{
    if (mk_vm_check_cpus(kvm, config->mode, config->memory, config->cpus, err) < 0 ||
        mk_mapping_check(config->mode, &config->mapping, config->memory, err) < 0)
        return -1;
    const struct mk_mapping *map = &config->mapping;
    bool low = mk_mem_is_own(config->memory, map->io) ||
               (config->mode == MK_MODE_PAGED && map->io > UINT32_MAX);
    if (map->io && (low || (config->mode != MK_MODE_LONG && config->mode != MK_MODE_PAGED)))
        return mk_fail(err, EINVAL,
                       "map_io = 0x%llx: it is for paged and long mode, and lies outside "
                       "RAM",
                       (unsigned long long)map->io);
    return 0;
}

static void init_config(struct mk_vm *vm, const struct mk_kvm *kvm,
                        const struct mk_vm_config *config)
{
    *vm = (struct mk_vm){ .mode = config->mode,
                          .places = config->places,
                          .mode_open = config->mode_open,
                          .memory_open = config->memory_open,
                          .slots_later = config->slots_later,
                          .may_assist = config->assist };
    snprintf(vm->name, sizeof(vm->name), "%s", config->name ? config->name : "vm");
    snprintf(vm->command_line, sizeof(vm->command_line), "%s",
             config->command_line ? config->command_line : "");
    vm->boot_features = config->boot_features | (config->pic ? MK_BOOT_PIC : 0) |
                        (config->coalesce ? MK_BOOT_DEBUGCON : 0);
    vm->mapping = config->mapping;
    vm->kvm = kvm;
    vm->fd = -1;
    vm->unhandled_fault = config->unhandled_fault;
    pthread_mutex_init(&vm->lock, NULL);
}

/* What its parts tell the VM. */
static void connect_parts(struct mk_vm *vm, const struct mk_vm_config *config)
{
    vm->msrs.on_unhandled = mk_vm_msr;
    vm->msrs.unhandled_ctx = vm;
    mk_zones_init(&vm->zones, &vm->bus,
                  config->coalesce && config->cpus == 1 && vm->kvm->coalesced_pio);
    mk_doorbells_init(&vm->doorbells, &vm->bus, &vm->mmio, mk_vm_wake, vm);
    mk_blks_init(&vm->blks, &vm->doorbells, mk_vm_wake, vm);
    vm->console.on_input = vm->console.on_output = mk_vm_wake;
    vm->console.on_leave = leave;
    vm->console.ctx = vm;
    vm->pic.on_int = interrupt_first;
    vm->pic.on_ack = acknowledged;
    vm->pic.int_ctx = vm->pic.ack_ctx = vm;
    vm->console.on_watch = mk_vm_notify;
    mk_vm_init_monitor(vm);
}

static int attach_devices(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_bus *const bus[MK_SPACES] = { &vm->bus, &vm->mmio, &vm->msrs };
    return mk_devs_attach(&vm->devices, bus, err);
}

static int open_memory(struct mk_vm *vm, const struct mk_vm_config *config, struct mk_err *err)
{
    if (!config->ram)
        return mk_mem_open(&vm->mem, config->memory, err);
    vm->base = mk_ram_ref(config->ram);
    return mk_mem_open_copy(&vm->mem, config->regions, config->region_count, config->ram->fd, err);
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
    if (check_config(kvm, config, err) < 0 || mk_kick_init(err) < 0 || mk_io_ref(err) < 0)
        return -1;
    init_config(vm, kvm, config);
    int rc = mk_vm_compose(vm, config, err); /* all of it, whatever it returns */
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
    mk_io_disarm(&vm->blocked);
    mk_blks_free(&vm->blks);
    if (vm->debug)
        vm->debug->ops->free(vm);
    mk_doorbells_free(&vm->doorbells);
    free(vm->cpuid);
    free(vm->default_cpuid);
    close_hardware(vm);
    mk_vm_dismantle(vm);
    mk_vm_free_cpus(vm);
    mk_mem_close(&vm->mem);
    mk_ram_unref(vm->base);
    mk_vm_free_assist(vm);
    if (vm->profiler)
        vm->profiler->free(vm);
    pthread_mutex_destroy(&vm->lock);
    mk_io_unref();
}

static int reset(struct mk_vm *vm, struct mk_err *err)
{
    mk_mem_reset(&vm->mem);
    mk_ram_unref(vm->base);
    vm->base = NULL;
    mk_devs_reset(&vm->devices);
    mk_vm_reset_assist(vm);
    mk_vm_set_state(vm, MK_VM_IDLE);
    if (open_hardware(vm, err) < 0 || mk_vm_prepare_memory(vm, err) < 0)
        return -1;
    for (unsigned i = 0; i < vm->cpus; i++)
        if (vm->cpu[i]->has_entry && mk_vm_set_entry(vm, &vm->cpu[i]->entry, err) < 0)
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
