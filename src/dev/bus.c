/* bus.c - see bus.h.
 *
 * Reclamation: a reader stores the current generation in its `inside` slot before it looks a node
 * up and 0 when it is done. Unhooking unlinks the nodes, then advances the generation; a retired
 * hook is freed once no reader's slot holds a generation from before its removal. Both sides use
 * sequentially consistent atomics: either the reader sees the unlinked table, or the remover sees
 * the reader. */
#include "dev/bus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first node from `node` on that lies over the address. */
static struct mk_node *covering(struct mk_node *node, uint64_t address)
{
    while (node && (address < node->hook->first || address > node->hook->last))
        node = atomic_load(&node->next);
    return node;
}

static struct mk_node *lookup(struct mk_bus *bus, uint64_t address)
{
    if (bus->space != MK_SPACE_PORTS)
        return covering(atomic_load(&bus->top), address);
    struct mk_bus_page *page = atomic_load(&bus->pages[(address >> 8) & 0xff]);
    return page ? atomic_load(&page->top[address & 0xff]) : NULL;
}

/* The node that lies beneath the one of this hook. */
static struct mk_node *beneath(struct mk_bus *bus, struct mk_hook *hook, uint64_t address)
{
    if (bus->space != MK_SPACE_PORTS)
        return covering(atomic_load(&hook->nodes[0].next), address);
    return atomic_load(&hook->nodes[address - hook->first].next);
}

void mk_bus_init(struct mk_bus *bus, enum mk_space space)
{
    *bus = (struct mk_bus){ .space = space, .generation = 1 };
    pthread_mutex_init(&bus->lock, NULL);
}

static void release(struct mk_hook *hook)
{
    if (hook->ops->retire)
        hook->ops->retire(hook->self);
    free(hook);
}

static void release_all(struct mk_hook *list)
{
    while (list) {
        struct mk_hook *hook = list;
        list = hook->link;
        release(hook);
    }
}

void mk_bus_free(struct mk_bus *bus)
{
    release_all(bus->hooks);
    release_all(bus->retired);
    for (unsigned i = 0; i < MK_COUNT(bus->pages); i++)
        free(atomic_load(&bus->pages[i]));
    pthread_mutex_destroy(&bus->lock);
}

/* Frees the retired hooks that no reader can still hold. Caller holds the lock. */
static void reclaim(struct mk_bus *bus)
{
    uint64_t oldest = UINT64_MAX;
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        uint64_t seen = atomic_load(&bus->inside[i]);
        if (seen && seen < oldest)
            oldest = seen;
    }
    struct mk_hook **at = &bus->retired;
    while (*at) {
        struct mk_hook *hook = *at;
        if (hook->retired_at < oldest) {
            *at = hook->link;
            release(hook);
        } else {
            at = &hook->link;
        }
    }
}

static bool make_pages(struct mk_bus *bus, uint64_t first, uint64_t last)
{
    for (uint64_t i = first >> 8; i <= last >> 8; i++)
        if (!atomic_load(&bus->pages[i])) {
            struct mk_bus_page *page = calloc(1, sizeof(*page));
            if (!page)
                return false;
            atomic_store(&bus->pages[i], page);
        }
    return true;
}

static void tell(struct mk_bus *bus, uint64_t port)
{
    struct mk_node *node = lookup(bus, port);
    if (bus->on_top)
        bus->on_top(bus->ctx, (uint16_t)port, node ? node->hook->ops : NULL);
}

static void link_node(struct mk_node *_Atomic *top, struct mk_hook *hook, struct mk_node *node)
{
    node->hook = hook;
    atomic_store(&node->next, atomic_load(top));
    atomic_store(top, node);
}

static void link_nodes(struct mk_bus *bus, struct mk_hook *hook)
{
    if (bus->space != MK_SPACE_PORTS) {
        link_node(&bus->top, hook, &hook->nodes[0]);
        return;
    }
    for (uint64_t port = hook->first; port <= hook->last; port++) {
        struct mk_bus_page *page = atomic_load(&bus->pages[port >> 8]);
        link_node(&page->top[port & 0xff], hook, &hook->nodes[port - hook->first]);
        tell(bus, port);
    }
}

struct mk_hook *mk_bus_hook(struct mk_bus *bus, uint64_t first, uint64_t last,
                            const struct mk_io_ops *ops, void *self, const char *owner)
{
    size_t nodes = bus->space == MK_SPACE_PORTS ? last - first + 1 : 1;
    struct mk_hook *hook = calloc(1, sizeof(*hook) + nodes * sizeof(struct mk_node));
    if (!hook)
        return NULL;
    hook->first = first;
    hook->last = last;
    hook->ops = ops;
    hook->self = self;
    snprintf(hook->owner, sizeof(hook->owner), "%s", owner ? owner : ops->name);
    pthread_mutex_lock(&bus->lock);
    reclaim(bus);
    bool made = bus->space != MK_SPACE_PORTS || make_pages(bus, first, last);
    if (made) {
        hook->link = bus->hooks;
        bus->hooks = hook;
        link_nodes(bus, hook);
    }
    pthread_mutex_unlock(&bus->lock);
    if (made)
        return hook;
    free(hook);
    return NULL;
}

/* node->next stays: a vCPU that is in the handler may still ask for what lies beneath. */
static void unlink_node(struct mk_node *_Atomic *at, struct mk_node *node)
{
    while (atomic_load(at) != node)
        at = &atomic_load(at)->next;
    atomic_store(at, atomic_load(&node->next));
}

static void unlink_nodes(struct mk_bus *bus, struct mk_hook *hook)
{
    if (bus->space != MK_SPACE_PORTS) {
        unlink_node(&bus->top, &hook->nodes[0]);
        return;
    }
    for (uint64_t port = hook->first; port <= hook->last; port++) {
        struct mk_bus_page *page = atomic_load(&bus->pages[port >> 8]);
        unlink_node(&page->top[port & 0xff], &hook->nodes[port - hook->first]);
        tell(bus, port);
    }
}

void mk_bus_unhook(struct mk_bus *bus, struct mk_hook *hook)
{
    pthread_mutex_lock(&bus->lock);
    unlink_nodes(bus, hook);
    struct mk_hook **at = &bus->hooks;
    while (*at != hook)
        at = &(*at)->link;
    *at = hook->link;
    hook->retired_at = atomic_fetch_add(&bus->generation, 1);
    hook->link = bus->retired;
    bus->retired = hook;
    reclaim(bus);
    pthread_mutex_unlock(&bus->lock);
}

void mk_bus_reset(struct mk_bus *bus)
{
    pthread_mutex_lock(&bus->lock);
    for (struct mk_hook *h = bus->hooks; h; h = h->link)
        if (h->ops->reset)
            h->ops->reset(h->self);
    pthread_mutex_unlock(&bus->lock);
}

bool mk_bus_owned(struct mk_bus *bus, uint64_t first, uint64_t last, uint64_t *where, char *owner)
{
    const struct mk_hook *found = NULL;
    pthread_mutex_lock(&bus->lock);
    for (const struct mk_hook *h = bus->hooks; h; h = h->link)
        if (h->first <= last && h->last >= first && (!found || h->first < found->first))
            found = h;
    if (found) {
        *where = found->first > first ? found->first : first;
        memcpy(owner, found->owner, sizeof(found->owner));
    }
    pthread_mutex_unlock(&bus->lock);
    return found != NULL;
}

/* The node that answers beneath the one whose turn it was, or from the top. */
static struct mk_node *node_at(const struct mk_io *from, uint64_t address)
{
    struct mk_hook *above = from->node ? from->node->hook : NULL;
    if (above && address >= above->first && address <= above->last)
        return beneath(from->bus, above, address);
    return lookup(from->bus, address);
}

/* Handlers without a function for this direction leave it to what lies beneath. */
static struct mk_node *reader(const struct mk_io *from, uint64_t address)
{
    struct mk_node *node = node_at(from, address);
    while (node && !node->hook->ops->in)
        node = beneath(from->bus, node->hook, address);
    return node;
}

static struct mk_node *writer(const struct mk_io *from, uint64_t address)
{
    struct mk_node *node = node_at(from, address);
    while (node && !node->hook->ops->out)
        node = beneath(from->bus, node->hook, address);
    return node;
}

/* An access to memory must lie within its hook; the width of a port or an MSR is its own. */
static bool takes_whole(const struct mk_bus *bus, const struct mk_node *node, uint64_t address,
                        uint8_t size)
{
    return node && node->hook->ops->width >= size &&
           (bus->space != MK_SPACE_MMIO || node->hook->last - address >= size - 1u);
}

/* Byte i of an access: ports come round at 64 KiB. */
static uint64_t byte_at(const struct mk_io *io, unsigned i)
{
    return io->bus->space == MK_SPACE_PORTS ? (io->address + i) & 0xffff : io->address + i;
}

/* Whether the access is served in one piece by `node`, or by nobody at all. */
static bool in_one_piece(const struct mk_io *io, const struct mk_node *node,
                         struct mk_node *(*find)(const struct mk_io *, uint64_t))
{
    bool whole = takes_whole(io->bus, node, io->address, io->size);
    if (whole || node)
        return whole;
    for (unsigned i = 1; i < io->size; i++)
        if (find(io, byte_at(io, i)))
            return false;
    return true;
}

static void note_unclaimed(struct mk_bus *bus, uint64_t address)
{
    unsigned i = 0;
    pthread_mutex_lock(&bus->lock);
    while (i < bus->unclaimed_count && bus->unclaimed[i].address != address)
        i++;
    if (i < MK_UNCLAIMED)
        bus->unclaimed[i].address = address;
    if (i < MK_UNCLAIMED && i == bus->unclaimed_count)
        bus->unclaimed_count++;
    if (i < MK_UNCLAIMED)
        bus->unclaimed[i].count++;
    pthread_mutex_unlock(&bus->lock);
}

/* Nobody serves it: reads see all ones, writes go nowhere, unless the script wants to know. */
static uint64_t nobody(struct mk_io *io, bool in, uint64_t value, struct mk_served *served)
{
    struct mk_bus *bus = io->bus;
    note_unclaimed(bus, io->address);
    io->node = NULL;
    bool script = false;
    if (bus->on_none && bus->on_none(bus->none_ctx, io, in, &value, &script)) {
        if (served)
            *(script ? &served->lua : &served->c) += 1;
        return value & mk_mask(io->size);
    }
    if (served)
        served->none++;
    return mk_mask(io->size);
}

static void account(struct mk_hook *hook, struct mk_served *served)
{
    atomic_fetch_add_explicit(&hook->hits, 1, memory_order_relaxed);
    if (!served)
        return;
    if (served->quiet)
        atomic_fetch_add_explicit(&hook->quiet, 1, memory_order_relaxed);
    if (hook->ops->script)
        served->lua++;
    else
        served->c++;
}

static uint64_t start_time(struct mk_bus *bus)
{
    return atomic_load_explicit(&bus->timing, memory_order_relaxed) ? mk_now() : 0;
}

static void stop_time(struct mk_hook *hook, uint64_t began)
{
    if (began)
        atomic_fetch_add_explicit(&hook->ns, mk_now() - began, memory_order_relaxed);
}

static uint64_t node_in(struct mk_node *node, struct mk_io io, struct mk_served *served)
{
    if (!node)
        return nobody(&io, true, 0, served);
    struct mk_hook *hook = node->hook;
    io.node = node;
    account(hook, served);
    uint64_t began = start_time(io.bus);
    uint64_t value = hook->ops->in(hook->self, &io) & mk_mask(io.size);
    stop_time(hook, began);
    return value;
}

static void node_out(struct mk_node *node, struct mk_io io, uint64_t value,
                     struct mk_served *served)
{
    value &= mk_mask(io.size);
    if (!node) {
        nobody(&io, false, value, served);
        return;
    }
    struct mk_hook *hook = node->hook;
    io.node = node;
    account(hook, served);
    uint64_t began = start_time(io.bus);
    hook->ops->out(hook->self, &io, value);
    stop_time(hook, began);
}

static uint64_t serve_in(const struct mk_io *from, struct mk_served *served)
{
    struct mk_io io = *from;
    struct mk_node *node = reader(from, from->address);
    if (in_one_piece(from, node, reader))
        return node_in(node, io, served);
    uint64_t value = 0;
    io.size = 1;
    for (unsigned i = 0; i < from->size; i++) {
        io.address = byte_at(from, i);
        value |= node_in(reader(from, io.address), io, served) << (8 * i);
    }
    return value;
}

static void serve_out(const struct mk_io *from, uint64_t value, struct mk_served *served)
{
    struct mk_io io = *from;
    struct mk_node *node = writer(from, from->address);
    if (in_one_piece(from, node, writer)) {
        node_out(node, io, value, served);
        return;
    }
    io.size = 1;
    for (unsigned i = 0; i < from->size; i++) {
        io.address = byte_at(from, i);
        node_out(writer(from, io.address), io, value >> (8 * i), served);
    }
}

void mk_bus_enter(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store(&bus->inside[cpu->index], atomic_load(&bus->generation));
}

void mk_bus_leave(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store_explicit(&bus->inside[cpu->index], 0, memory_order_release);
}

uint64_t mk_bus_in(struct mk_bus *bus, struct mk_cpu *cpu, uint64_t address, uint8_t size,
                   struct mk_served *served)
{
    struct mk_io io = { .cpu = cpu, .bus = bus, .address = address, .size = size };
    mk_bus_enter(bus, cpu);
    uint64_t value = serve_in(&io, served);
    mk_bus_leave(bus, cpu);
    return value;
}

void mk_bus_out(struct mk_bus *bus, struct mk_cpu *cpu, uint64_t address, uint8_t size,
                uint64_t value, struct mk_served *served)
{
    struct mk_io io = { .cpu = cpu, .bus = bus, .address = address, .size = size };
    mk_bus_enter(bus, cpu);
    serve_out(&io, value, served);
    mk_bus_leave(bus, cpu);
}

uint64_t mk_bus_next_in(struct mk_io *io)
{
    return serve_in(io, NULL);
}

void mk_bus_next_out(struct mk_io *io, uint64_t value)
{
    serve_out(io, value, NULL);
}
