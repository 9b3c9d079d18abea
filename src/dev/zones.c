/* zones.c - see zones.h. */
#include "dev/zones.h"

#include "kvm/kvm.h"

#include <linux/kvm.h>

static bool set_zone(const struct mk_zones *z, uint16_t port, bool on)
{
    struct kvm_coalesced_mmio_zone zone = { .addr = port, .size = 1, .pio = 1 };
    return mk_ioctl(z->vm_fd, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO,
                    &zone) == 0;
}

static struct mk_zone *find_zone(struct mk_zones *z, uint16_t port)
{
    for (unsigned i = 0; i < z->count; i++)
        if (z->zone[i].port == port)
            return &z->zone[i];
    return NULL;
}

/* The bus's on_top: whether this port may be collected depends on who is on top of it. */
static void choose(void *ctx, uint16_t port, const struct mk_io_ops *top)
{
    struct mk_zones *z = ctx;
    bool want = z->wanted && top && (top->coalesce || (top->patient && z->patient));
    struct mk_zone *zone = find_zone(z, port);
    if (want && !zone && z->count < MK_COALESCED_PORTS) {
        z->zone[z->count++] = (struct mk_zone){ .port = port };
    } else if (!want && zone && (!zone->on || set_zone(z, port, false))) {
        *zone = z->zone[--z->count];
    }
}

void mk_zones_init(struct mk_zones *z, struct mk_bus *ports, bool wanted)
{
    *z = (struct mk_zones){ .bus = ports, .vm_fd = -1, .wanted = wanted };
    ports->on_top = choose;
    ports->ctx = z;
}

void mk_zones_be_patient(struct mk_zones *z, uint16_t first, uint16_t last)
{
    pthread_mutex_lock(&z->bus->lock);
    z->patient = true;
    for (unsigned port = first; port <= last; port++) {
        const struct mk_hook *top = mk_bus_port_top(z->bus, port);
        choose(z, (uint16_t)port, top ? top->ops : NULL);
    }
    pthread_mutex_unlock(&z->bus->lock);
}

static void clear_zone(struct mk_zone *zone)
{
    *zone = (struct mk_zone){ .port = zone->port };
}

void mk_zones_register(struct mk_zones *z, int vm_fd)
{
    z->vm_fd = vm_fd;
    for (unsigned i = 0; i < z->count; i++)
        clear_zone(&z->zone[i]);
}

void mk_zones_disable(struct mk_zones *z)
{
    mk_zones_exact(z, true);
    pthread_mutex_lock(&z->bus->lock);
    z->wanted = false;
    z->count = 0;
    pthread_mutex_unlock(&z->bus->lock);
}

MK_HOT void mk_zones_count_out(struct mk_zones *z, uint16_t port)
{
    if (!z->wanted)
        return;
    pthread_mutex_lock(&z->bus->lock);
    struct mk_zone *zone = find_zone(z, port);
    if (zone && !zone->on && !z->exact && ++zone->outs >= MK_ZONE_OUTS)
        zone->on = set_zone(z, port, true);
    pthread_mutex_unlock(&z->bus->lock);
}

void mk_zones_exact(struct mk_zones *z, bool on)
{
    pthread_mutex_lock(&z->bus->lock);
    z->exact = on;
    for (unsigned i = 0; on && i < z->count; i++)
        if (z->zone[i].on && set_zone(z, z->zone[i].port, false))
            clear_zone(&z->zone[i]);
    pthread_mutex_unlock(&z->bus->lock);
}
