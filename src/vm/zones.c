/* zones.c - which ports KVM collects bytes of (Documentation/virt/kvm/api.rst,
 * KVM_REGISTER_COALESCED_MMIO). All under the bus lock. */
#include "vm/vm.h"

#include <linux/kvm.h>

static bool set_zone(struct mk_vm *vm, uint16_t port, bool on)
{
    struct kvm_coalesced_mmio_zone zone = { .addr = port, .size = 1, .pio = 1 };
    return mk_ioctl(vm->m.fd, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO,
                    &zone) == 0;
}

static struct mk_zone *find_zone(struct mk_vm *vm, uint16_t port)
{
    for (unsigned i = 0; i < vm->zone_count; i++)
        if (vm->zones[i].port == port)
            return &vm->zones[i];
    return NULL;
}

/* Bus callback: whether bytes written to this port may be collected by KVM depends on who is on top
 * of it. With several vCPUs the ring would mix their output, so each byte exits. */
void mk_vm_choose_coalescing(void *ctx, uint16_t port, const struct mk_io_ops *top)
{
    struct mk_vm *vm = ctx;
    bool want = vm->coalesce && vm->cpus == 1 && vm->m.kvm->coalesced_pio && top && top->coalesce;
    struct mk_zone *zone = find_zone(vm, port);
    if (want && !zone && vm->zone_count < MK_COALESCED_PORTS) {
        vm->zones[vm->zone_count++] = (struct mk_zone){ .port = port };
    } else if (!want && zone && (!zone->on || set_zone(vm, port, false))) {
        *zone = vm->zones[--vm->zone_count];
    }
}

void mk_vm_note_out(struct mk_vm *vm, uint16_t port)
{
    struct mk_bus *bus = &vm->m.bus;
    if (!vm->coalesce || vm->cpus != 1)
        return;
    pthread_mutex_lock(&bus->lock);
    struct mk_zone *zone = find_zone(vm, port);
    if (zone && !zone->on && !vm->exact && ++zone->outs >= MK_ZONE_OUTS)
        zone->on = set_zone(vm, port, true);
    pthread_mutex_unlock(&bus->lock);
}

void mk_vm_exact(struct mk_vm *vm, bool on)
{
    pthread_mutex_lock(&vm->m.bus.lock);
    vm->exact = on;
    for (unsigned i = 0; on && i < vm->zone_count; i++)
        if (vm->zones[i].on && set_zone(vm, vm->zones[i].port, false))
            vm->zones[i] = (struct mk_zone){ .port = vm->zones[i].port };
    pthread_mutex_unlock(&vm->m.bus.lock);
}

/* KVM forgot the zones; ports must earn them again. */
void mk_vm_forget_zones(struct mk_vm *vm)
{
    for (unsigned i = 0; i < vm->zone_count; i++)
        vm->zones[i] = (struct mk_zone){ .port = vm->zones[i].port };
}
