/* bus.c - see bus.h.
 *
 * Reclamation: a reader stores the current generation in its `inside` slot before it looks a node
 * up and 0 when it is done. Unhooking unlinks the nodes, then advances the generation; a retired
 * hook is freed once no reader's slot holds a generation from before its removal. Both sides use
 * sequentially consistent atomics: either the reader sees the unlinked table, or the remover sees
 * the reader. */
#include "bus.h"

#include <stdlib.h>

static struct mk_node *lookup(struct mk_bus *bus, uint16_t port)
{
    struct mk_bus_page *page = atomic_load(&bus->pages[port >> 8]);
    return page ? atomic_load(&page->top[port & 0xff]) : NULL;
}

void mk_bus_init(struct mk_bus *bus)
{
    *bus = (struct mk_bus){ .generation = 1 };
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

static bool make_pages(struct mk_bus *bus, uint16_t first, uint16_t last)
{
    for (unsigned i = first >> 8; i <= last >> 8; i++)
        if (!atomic_load(&bus->pages[i])) {
            struct mk_bus_page *page = calloc(1, sizeof(*page));
            if (!page)
                return false;
            atomic_store(&bus->pages[i], page);
        }
    return true;
}

static const struct mk_port_ops *top_of(struct mk_bus *bus, uint16_t port)
{
    struct mk_node *node = lookup(bus, port);
    return node ? node->hook->ops : NULL;
}

static void tell(struct mk_bus *bus, uint16_t port)
{
    if (bus->on_top)
        bus->on_top(bus->ctx, port, top_of(bus, port));
}

static void link_nodes(struct mk_bus *bus, struct mk_hook *hook)
{
    for (uint32_t port = hook->first; port <= hook->last; port++) {
        struct mk_node *node = &hook->nodes[port - hook->first];
        struct mk_bus_page *page = atomic_load(&bus->pages[port >> 8]);
        node->hook = hook;
        atomic_store(&node->next, atomic_load(&page->top[port & 0xff]));
        atomic_store(&page->top[port & 0xff], node);
        tell(bus, (uint16_t)port);
    }
}

struct mk_hook *mk_bus_hook(struct mk_bus *bus, uint16_t first, uint16_t last,
                            const struct mk_port_ops *ops, void *self)
{
    size_t ports = (size_t)last - first + 1;
    struct mk_hook *hook = calloc(1, sizeof(*hook) + ports * sizeof(struct mk_node));
    if (!hook)
        return NULL;
    hook->first = first;
    hook->last = last;
    hook->ops = ops;
    hook->self = self;
    pthread_mutex_lock(&bus->lock);
    reclaim(bus);
    bool made = make_pages(bus, first, last);
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

static void unlink_node(struct mk_bus *bus, uint16_t port, struct mk_node *node)
{
    struct mk_bus_page *page = atomic_load(&bus->pages[port >> 8]);
    struct mk_node *_Atomic *at = &page->top[port & 0xff];
    while (atomic_load(at) != node)
        at = &atomic_load(at)->next;
    /* node->next stays: a vCPU that is in the handler may still ask for what lies beneath. */
    atomic_store(at, atomic_load(&node->next));
    tell(bus, port);
}

void mk_bus_unhook(struct mk_bus *bus, struct mk_hook *hook)
{
    pthread_mutex_lock(&bus->lock);
    atomic_store(&hook->removed, true);
    for (uint32_t port = hook->first; port <= hook->last; port++)
        unlink_node(bus, (uint16_t)port, &hook->nodes[port - hook->first]);
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

int mk_bus_owned(struct mk_bus *bus, uint16_t first, uint16_t last, const char **owner)
{
    for (uint32_t port = first; port <= last; port++) {
        const struct mk_port_ops *ops = top_of(bus, (uint16_t)port);
        if (ops) {
            *owner = ops->name;
            return (int)port;
        }
    }
    return -1;
}

static void count(struct mk_served *served, const struct mk_node *node)
{
    if (!served)
        return;
    if (!node)
        served->none++;
    else if (node->hook->ops->script)
        served->lua++;
    else
        served->c++;
}

/* The node that answers `port` beneath the one whose turn it was, or from the top. */
static struct mk_node *node_at(const struct mk_io *from, uint16_t port)
{
    struct mk_hook *above = from->node ? from->node->hook : NULL;
    if (above && port >= above->first && port <= above->last)
        return atomic_load(&above->nodes[port - above->first].next);
    return lookup(from->bus, port);
}

/* Handlers without a function for this direction leave it to what lies beneath. */
static struct mk_node *reader(struct mk_node *node)
{
    while (node && !node->hook->ops->in)
        node = atomic_load(&node->next);
    return node;
}

static struct mk_node *writer(struct mk_node *node)
{
    while (node && !node->hook->ops->out)
        node = atomic_load(&node->next);
    return node;
}

static bool takes_whole(const struct mk_node *node, uint8_t size)
{
    return size == 1 || (node && node->hook->ops->width >= size);
}

static uint32_t node_in(struct mk_node *node, struct mk_io io, struct mk_served *served)
{
    count(served, node);
    if (!node)
        return (uint32_t)mk_mask(io.size);
    io.node = node;
    atomic_fetch_add_explicit(&node->hook->hits, 1, memory_order_relaxed);
    return node->hook->ops->in(node->hook->self, &io) & (uint32_t)mk_mask(io.size);
}

static void node_out(struct mk_node *node, struct mk_io io, uint32_t value,
                     struct mk_served *served)
{
    count(served, node);
    if (!node)
        return;
    io.node = node;
    atomic_fetch_add_explicit(&node->hook->hits, 1, memory_order_relaxed);
    node->hook->ops->out(node->hook->self, &io, value & (uint32_t)mk_mask(io.size));
}

static uint32_t serve_in(const struct mk_io *from, struct mk_served *served)
{
    struct mk_io io = *from;
    struct mk_node *node = reader(node_at(from, from->port));
    if (takes_whole(node, io.size))
        return node_in(node, io, served);
    uint32_t value = 0;
    for (unsigned i = 0; i < from->size; i++) {
        io.size = 1;
        io.port = (uint16_t)(from->port + i);
        value |= node_in(reader(node_at(from, io.port)), io, served) << (8 * i);
    }
    return value;
}

static void serve_out(const struct mk_io *from, uint32_t value, struct mk_served *served)
{
    struct mk_io io = *from;
    struct mk_node *node = writer(node_at(from, from->port));
    if (takes_whole(node, io.size)) {
        node_out(node, io, value, served);
        return;
    }
    for (unsigned i = 0; i < from->size; i++) {
        io.size = 1;
        io.port = (uint16_t)(from->port + i);
        node_out(writer(node_at(from, io.port)), io, value >> (8 * i), served);
    }
}

static void enter(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store(&bus->inside[cpu->index], atomic_load(&bus->generation));
}

static void leave(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store_explicit(&bus->inside[cpu->index], 0, memory_order_release);
}

uint32_t mk_bus_in(struct mk_bus *bus, struct mk_cpu *cpu, uint16_t port, uint8_t size,
                   struct mk_served *served)
{
    struct mk_io io = { .cpu = cpu, .bus = bus, .port = port, .size = size };
    enter(bus, cpu);
    uint32_t value = serve_in(&io, served);
    leave(bus, cpu);
    return value;
}

void mk_bus_out(struct mk_bus *bus, struct mk_cpu *cpu, uint16_t port, uint8_t size,
                uint32_t value, struct mk_served *served)
{
    struct mk_io io = { .cpu = cpu, .bus = bus, .port = port, .size = size };
    enter(bus, cpu);
    serve_out(&io, value, served);
    leave(bus, cpu);
}

uint32_t mk_bus_next_in(struct mk_io *io)
{
    return serve_in(io, NULL);
}

void mk_bus_next_out(struct mk_io *io, uint32_t value)
{
    serve_out(io, value, NULL);
}
