/* vm.c - what a VM is made of: its parts, how they are wired, and its life. See vm.h. */
#include "vm/vm.h"

#include "base/abi.h"
#include "dev/debugcon.h"
#include "dev/exit.h"
#include "kvm/interrupt.h"
#include "vm/ram.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KVM_TSS_ADDRESS 0xfffbd000 /* three pages that VMX wants for real mode */
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

static const struct mk_vcpu_ops vcpu_ops = { .kicked = kicked, .end_others = end_others,
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
        mk_vm_ticked(vm);
}

/* PIC, PIT and keyboard, wired as in a PC. */
static void init_interrupts(struct mk_vm *vm)
{
    mk_pic_init(&vm->pic);
    mk_pit_init(&vm->pit, &vm->m.clock, (struct mk_irq){ mk_pic_set_line, &vm->pic, 0 });
    mk_i8042_init(&vm->keyboard, (struct mk_irq){ mk_pic_set_line, &vm->pic, 1 },
                  (struct mk_irq){ mk_pic_set_line, &vm->pic, 12 });
    vm->uart.irq = (struct mk_irq){ mk_pic_set_line, &vm->pic, 4 };
    vm->pic.on_int = interrupt_first;
    vm->pic.int_ctx = vm;
    vm->pic.on_ack = acknowledged;
    vm->pic.ack_ctx = vm;
    vm->pit.masked = mk_pic_masked;
    vm->pit.masked_ctx = &vm->pic;
    vm->m.pic = &vm->pic;
    vm->has_pic = true;
}

static int attach_interrupts(struct mk_vm *vm, struct mk_err *err)
{
    if (!vm->has_pic)
        return 0;
    struct mk_bus *bus = &vm->m.bus;
    return mk_pic_attach(&vm->pic, bus, err) < 0 || mk_pit_attach(&vm->pit, bus, err) < 0 ||
                   mk_i8042_attach(&vm->keyboard, bus, err) < 0 ? -1 : 0;
}

static void free_interrupts(struct mk_vm *vm)
{
    if (!vm->has_pic)
        return;
    mk_pit_free(&vm->pit);
    mk_i8042_free(&vm->keyboard);
    mk_pic_free(&vm->pic);
}

static int attach_devices(struct mk_vm *vm, struct mk_err *err)
{
    const struct { uint16_t first, last; const struct mk_io_ops *ops; void *self; } map[] = {
        { MK_PORT_DEBUGCON, MK_PORT_DEBUGCON, &mk_debugcon_ops, &vm->m.console },
        { MK_PORT_EXIT, MK_PORT_EXIT, &mk_exit_ops, vm },
        { MK_PORT_UART, MK_PORT_UART, &mk_uart_data_ops, &vm->uart },
        { MK_PORT_UART + 1, MK_PORT_UART + 7, &mk_uart_ops, &vm->uart },
        { MK_PORT_HYPERCALL, MK_PORT_HYPERCALL, &mk_hypercall_ops, &vm->hypercall },
        { MK_PORT_FILE, MK_PORT_FILE, &mk_file_byte_ops, &vm->file },
        { MK_PORT_FILE_BLOCK, MK_PORT_FILE_BLOCK, &mk_file_block_ops, &vm->file },
    };
    for (unsigned i = 0; i < MK_COUNT(map); i++)
        if (!mk_bus_hook(&vm->m.bus, map[i].first, map[i].last, map[i].ops, map[i].self,
                         NULL))
            return mk_fail_errno(err, ENOMEM, "vm \"%s\": devices", vm->name);
    return attach_interrupts(vm, err);
}

/* The first one gets the PIC's interrupts. */
static int open_vcpu(struct mk_vm *vm, unsigned index, struct mk_err *err)
{
    struct mk_vcpu_parts parts = { .kvm = vm->m.kvm, .vm_fd = vm->m.fd, .mem = &vm->m.mem,
                                   .device_ops = &mk_device_ops, .ops = &vcpu_ops,
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
    mk_ioctl(vm->m.fd, KVM_SET_TSS_ADDR, (void *)(unsigned long)KVM_TSS_ADDRESS);
    if (mk_mem_register(&vm->m.mem, vm->m.fd, err) < 0)
        return -1;
    for (unsigned i = 0; i < vm->cpus; i++) {
        if (open_vcpu(vm, i, err) < 0 ||
            mk_vm_init_cpuid(vm, i, err) < 0)
            return -1;
    }
    mk_vm_hook_assist(vm);
    mk_zones_renew(&vm->zones, vm->m.fd);
    mk_doorbells_renew(&vm->doorbells, vm->m.fd);
    return mk_vm_hooks_apply(vm, err);
}

static void close_hardware(struct mk_vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        mk_vcpu_close(&vm->cpu[i]);
    if (vm->m.fd >= 0)
        close(vm->m.fd);
    vm->m.fd = -1;
    mk_zones_renew(&vm->zones, -1);
    mk_doorbells_renew(&vm->doorbells, -1);
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
    bool low = map->io < config->memory || (config->mode == MK_MODE_PAGED && map->io > UINT32_MAX);
    if (map->io && (low || (config->mode != MK_MODE_LONG && config->mode != MK_MODE_PAGED)))
        return mk_fail(err, EINVAL, "map_io = 0x%llx: it is for paged and long mode, and lies outside "
                       "RAM", (unsigned long long)map->io);
    uint64_t windows = (uint64_t)config->cpus * MK_REAL_WINDOW;
    if (config->mode == MK_MODE_REAL && config->memory < windows && config->cpus > 1)
        return mk_fail(err, EINVAL, "memory of %llu bytes: %u real-mode vCPUs need %llu "
                       "(256 KiB each)", (unsigned long long)config->memory, config->cpus,
                       (unsigned long long)windows);
    return 0;
}

static void init_parts(struct mk_vm *vm, const struct mk_kvm *kvm,
                       const struct mk_vm_config *config)
{
    *vm = (struct mk_vm){ .mode = config->mode, .cpus = config->cpus, .places = config->places,
                          .mode_open = config->mode_open, .memory_open = config->memory_open,
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
    mk_bus_init(&vm->m.bus, MK_SPACE_PORTS);
    mk_bus_init(&vm->m.mmio, MK_SPACE_MMIO);
    mk_bus_init(&vm->m.msrs, MK_SPACE_MSRS);
    vm->m.msrs.on_none = mk_vm_msr;
    vm->m.msrs.none_ctx = vm;
    mk_zones_init(&vm->zones, &vm->m.bus,
                  config->coalesce && config->cpus == 1 && kvm->coalesced_pio);
    mk_doorbells_init(&vm->doorbells, &vm->m.bus, &vm->m.mmio, mk_vm_wake, vm);
    mk_clock_init(&vm->m.clock);
    mk_console_init(&vm->m.console);
    vm->m.console.on_input = vm->m.console.on_output = mk_vm_wake;
    vm->m.console.on_leave = leave;
    vm->m.console.ctx = vm;
    mk_vm_watch_init(vm);
    mk_vm_attend_init(vm);
    mk_uart_init(&vm->uart, &vm->m.console);
    mk_hypercall_init(&vm->hypercall, &vm->m.console, &vm->m.mem);
    mk_file_init(&vm->file, &vm->fsbox, &vm->m.mem);
    mk_assist_forget(&vm->assist);
    if (config->pic)
        init_interrupts(vm);
}

static int open_memory(struct mk_vm *vm, const struct mk_vm_config *config, struct mk_err *err)
{
    if (!config->ram)
        return mk_mem_open(&vm->m.mem, config->memory, err);
    vm->base = mk_ram_hold(config->ram);
    return mk_ram_open(config->ram, &vm->m.mem, err);
}

/* A vCPU waits for the copy of a file; NULL: somebody else does. */
static bool copy_goes_on(void *caller)
{
    struct mk_cpu *cpu = caller;
    return !cpu || cpu->ops->more(cpu);
}

int mk_vm_open(struct mk_vm *vm, const struct mk_kvm *kvm, const struct mk_vm_config *config,
               struct mk_err *err)
{
    if (check_config(config, err) < 0 || mk_kick_setup(err) < 0 || mk_io_hold(err) < 0)
        return -1;
    init_parts(vm, kvm, config);
    if (mk_fsbox_init(&vm->fsbox, vm->name, config->files, err) < 0 ||
        open_memory(vm, config, err) < 0 || open_hardware(vm, err) < 0 ||
        mk_vm_find_native(vm, err) < 0 ||
        attach_devices(vm, err) < 0 || (!config->ram && mk_vm_prepare_memory(vm, err) < 0)) {
        mk_vm_close(vm);
        return -1;
    }
    vm->fsbox.more = copy_goes_on;
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
    mk_bus_free(&vm->m.bus);
    mk_bus_free(&vm->m.mmio);
    mk_bus_free(&vm->m.msrs);
    close_hardware(vm);
    mk_mem_close(&vm->m.mem);
    mk_ram_drop(vm->base);
    mk_console_free(&vm->m.console);
    mk_uart_free(&vm->uart);
    mk_file_free(&vm->file);
    mk_fsbox_free(&vm->fsbox);
    free_interrupts(vm);
    mk_assist_forget(&vm->assist);
    mk_clock_free(&vm->m.clock);
    pthread_mutex_destroy(&vm->lock);
    mk_io_drop();
}

void mk_vm_touch(struct mk_vm *vm, unsigned cpu)
{
    vm->ready[cpu] = true;
}

static void reset_devices(struct mk_vm *vm)
{
    mk_uart_reset(&vm->uart);
    mk_hypercall_reset(&vm->hypercall);
    mk_file_reset(&vm->file);
    mk_fsbox_reset(&vm->fsbox);
    mk_bus_reset(&vm->m.bus);
    mk_bus_reset(&vm->m.mmio);
    mk_bus_reset(&vm->m.msrs);
    if (vm->has_pic) {
        mk_pit_reset(&vm->pit);
        mk_i8042_reset(&vm->keyboard);
        mk_pic_reset(&vm->pic);
    }
}

static int reset(struct mk_vm *vm, struct mk_err *err)
{
    mk_mem_clear(&vm->m.mem);
    mk_console_reset(&vm->m.console);
    reset_devices(vm);
    mk_assist_forget(&vm->assist);
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
