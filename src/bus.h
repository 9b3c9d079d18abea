/* bus.h - who answers which port.
 *
 * Every port has a stack of nodes; the topmost answers and may pass the access to node->next. A
 * hook puts one node on each port of its range. Lookup is two loads, without a lock: vCPUs announce
 * that they are inside the bus, and a removed hook is freed only when none of them can still hold
 * it, so hooks may be added and removed while the guest runs, even by the handler that is being
 * called. */
#ifndef MK_BUS_H
#define MK_BUS_H

#include "dev.h"

#include <pthread.h>
#include <stdatomic.h>

struct mk_hook;

struct mk_node {
    struct mk_hook *hook;
    struct mk_node *_Atomic next;
};

struct mk_hook {
    uint16_t first, last;
    const struct mk_port_ops *ops;
    void *self;
    _Atomic uint64_t hits;
    _Atomic bool removed;
    uint64_t retired_at;      /* bus generation of its removal */
    struct mk_hook *link;     /* all hooks, or the retired ones */
    struct mk_node nodes[];   /* one a port */
};

struct mk_bus_page {
    struct mk_node *_Atomic top[256];
};

struct mk_bus {
    struct mk_bus_page *_Atomic pages[256];
    pthread_mutex_t lock; /* writers */
    struct mk_hook *hooks, *retired;
    _Atomic uint64_t generation;
    _Atomic uint64_t inside[MK_MAX_CPUS]; /* generation at entry, 0 when outside */
    /* Told, under the lock, that another node (or none) is now on top of `port`. */
    void (*on_top)(void *ctx, uint16_t port, const struct mk_port_ops *top);
    void *ctx;
};

/* What came of an access. */
struct mk_served {
    uint8_t c, lua, none; /* parts of it answered by C, by Lua, by nobody */
};

void mk_bus_init(struct mk_bus *bus);
/* No vCPU may be running. Retires every hook. */
void mk_bus_free(struct mk_bus *bus);

/* Puts a hook on top of [first, last]. NULL with ENOMEM when memory ran out. */
struct mk_hook *mk_bus_hook(struct mk_bus *bus, uint16_t first, uint16_t last,
                            const struct mk_port_ops *ops, void *self);
/* Takes it off again; the memory lives until no vCPU can hold it. Call once. */
void mk_bus_unhook(struct mk_bus *bus, struct mk_hook *hook);
/* The lowest port of [first, last] that somebody serves, or -1. */
int mk_bus_owned(struct mk_bus *bus, uint16_t first, uint16_t last, const char **owner);
/* One access by vCPU cpu->index. IN of an unserved port reads all ones. */
uint32_t mk_bus_in(struct mk_bus *bus, struct mk_cpu *cpu, uint16_t port, uint8_t size,
                   struct mk_served *served);
void mk_bus_out(struct mk_bus *bus, struct mk_cpu *cpu, uint16_t port, uint8_t size,
                uint32_t value, struct mk_served *served);

/* The same for the node beneath `io`'s: what `next` of an override calls. */
uint32_t mk_bus_next_in(struct mk_io *io);
void mk_bus_next_out(struct mk_io *io, uint32_t value);

#endif
