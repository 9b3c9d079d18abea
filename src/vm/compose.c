/* compose.c - where machines are composed: which devices a VM has, and how they are wired.
 *
 * A device is one line here (dev.h). Their order is that in which they are restored: first what
 * others print to or interrupt through. See vm.h. */
#include "vm/vm.h"

/* A line of the PIC; of a VM that has none, of nothing. */
static struct mk_irq line(struct mk_vm *vm, unsigned number)
{
    return vm->has_pic ? mk_pic_line(&vm->pic, number) : (struct mk_irq){ 0 };
}

static void init_parts(struct mk_vm *vm)
{
    mk_bus_init(&vm->bus, MK_SPACE_PORTS);
    mk_bus_init(&vm->mmio, MK_SPACE_MMIO);
    mk_bus_init(&vm->msrs, MK_SPACE_MSRS);
    mk_clock_init(&vm->clock);
    mk_console_init(&vm->console);
}

int mk_vm_compose(struct mk_vm *vm, const struct mk_vm_config *config, struct mk_err *err)
{
    struct mk_devs *list = &vm->devices;
    struct mk_console *con = &vm->console;
    struct mk_mem *mem = &vm->mem;
    init_parts(vm);
    vm->has_pic = config->pic;
    int rc = mk_vm_make_cpus(vm, config->cpus, err);
    mk_vm_share_console(vm);
    rc |= mk_fsbox_init(&vm->fsbox, vm->name, config->files, err);
    mk_devs_add(list, mk_debugcon_init(&vm->debugcon, con), &mk_debugcon_dev);
    if (config->pic) {
        mk_devs_add(list, mk_pic_init(&vm->pic), &mk_pic_dev);
        mk_devs_add(list, mk_pit_init(&vm->pit, &vm->clock, line(vm, 0)), &mk_pit_dev);
        mk_devs_add(list, mk_i8042_init(&vm->keyboard, line(vm, 1), line(vm, 12)), &mk_i8042_dev);
        vm->pit.masked = mk_pic_masked;
        vm->pit.masked_ctx = &vm->pic;
    }
    mk_devs_add(list, mk_pci_init(&vm->pci), &mk_pci_dev);
    vm->pci.ports = &vm->bus;
    vm->pci.mmio = &vm->mmio;
    vm->pci.mem = mem;
    vm->pci.doorbells = &vm->doorbells;
    vm->pci.pic = vm->has_pic ? &vm->pic : NULL;
    mk_devs_add(list, mk_uart_init(&vm->uart, con, line(vm, 4)), &mk_uart_dev);
    mk_devs_add(list, &vm->exit_port, &mk_exit_dev);
    mk_devs_add(list, mk_hypercall_init(&vm->hypercall, con, mem), &mk_hypercall_dev);
    mk_devs_add(list, mk_file_init(&vm->file, &vm->fsbox, mem), &mk_file_dev);
    mk_devs_add(list, &vm->bus.dev, &mk_bus_dev);
    mk_devs_add(list, &vm->mmio.dev, &mk_bus_dev);
    mk_devs_add(list, &vm->msrs.dev, &mk_bus_dev);
    return rc < 0 ? -1 : mk_devs_grow(list, vm->cpus, err);
}

void mk_vm_dismantle(struct mk_vm *vm)
{
    mk_devs_free(&vm->devices);
    mk_console_free(&vm->console);
    mk_fsbox_free(&vm->fsbox);
    mk_clock_free(&vm->clock);
}
