/* bus.h - who answers which port, which address outside RAM, which MSR.
 *
 * A bus is one address space with a list of hooks, the newest first. Those that cover an address
 * are its stack; the topmost answers and may pass the access to what lies beneath. The topmost hook
 * of a port is found by two loads, that of other addresses by a binary search (ranges.h). Passing
 * on does not nest calls, so stacks may be deep.
 *
 * A window shows one bus inside another one, at a place that may change: the registers of a PCI
 * function in its BAR. Its addresses count from 0. It shares the outer bus's lock, readers and
 * retired hooks.
 *
 * Readers take no lock: vCPUs announce that they are inside the bus, and a removed hook is freed
 * only when none of them can still hold it, so hooks may be added and removed while the guest runs,
 * even by the handler that is being called. */
#ifndef MK_BUS_H
#define MK_BUS_H

#include "base/err.h"
#include "dev/dev.h"
#include "dev/ranges.h"

#include <pthread.h>
#include <stdatomic.h>

#define MK_HOOKS_MAX 4096 /* of one bus: an access may have to pass all of them */
/* Bytes that wait for readers to leave: beyond as many no window opens. So a guest that moves
 * windows while an access of another vCPU takes long does not get more memory of the host's. */
#define MK_RETIRED_MAX (16u << 20)

struct mk_hook {
    struct mk_retired retired; /* first */
    uint64_t first, last;
    struct mk_hook *_Atomic link; /* the next older one; stays when it is retired */
    const struct mk_io_ops *ops;
    void *self;
    char owner[64];             /* for messages and statistics */
    _Atomic uint64_t hits;      /* accesses served */
    _Atomic uint64_t coalesced; /* of these, those that cost no exit */
    _Atomic uint64_t ns;        /* spent in it, and in what its next() called, while bus->timing */
};

struct mk_bus_page {
    struct mk_hook *_Atomic top[256];
};

/* A vCPU that may be inside the bus. */
struct mk_bus_reader {
    _Atomic uint64_t inside; /* generation at entry, 0 when outside */
    unsigned hit;            /* its last place in the map of ranges */
};

/* Accesses that nobody served, by address; more than fit are only counted. */
#define MK_UNHANDLED 64
struct mk_unhandled {
    uint64_t address, count;
};

struct mk_bus {
    struct mk_dev dev; /* of which a snapshot keeps what its hooks hold (bus_save.c) */
    enum mk_space space;
    struct mk_bus *outer;                   /* of a window; else NULL */
    struct mk_hook *_Atomic window;         /* where it is open; NULL: nowhere */
    _Atomic uint64_t base;                  /* where it is, or was last */
    struct mk_bus_page *_Atomic pages[256]; /* ports */
    /* Memory and MSRs. NULL while there was no memory for it: then the topmost hook is looked for
     * in the list. */
    struct mk_bus_ranges *_Atomic ranges;
    struct mk_hook *_Atomic hooks; /* the newest first */
    unsigned hook_count;
    struct mk_retired *retired;
    size_t retired_bytes;
    pthread_mutex_t lock; /* writers */
    _Atomic uint64_t generation;
    struct mk_bus_reader reader[MK_MAX_CPUS];
    _Atomic bool timing;
    struct mk_unhandled unhandled[MK_UNHANDLED]; /* under the lock */
    unsigned unhandled_count;
    /* An access that nobody serves: true when it did what was to be done, for IN with the answer.
     * May be NULL. `script`: whether it was done in Lua. */
    bool (*on_unhandled)(void *ctx, struct mk_io *io, bool in, uint64_t *value, bool *script);
    void *unhandled_ctx;
    /* Told, under the lock, that another hook (or none) is now on top of port `port`. */
    void (*on_top)(void *ctx, uint16_t port, const struct mk_io_ops *top);
    void *ctx;
};

/* What came of an access. */
struct mk_served {
    uint8_t c, lua, none;  /* parts of it answered by C, by Lua, by nobody */
    bool coalesced;        /* set by the caller: it cost no exit */
    bool collectable;      /* a write that KVM may collect (mk_io_ops.coalesce) */
    uint64_t unhandled_at; /* address of the first part that nobody answered */
};

void mk_bus_init(struct mk_bus *bus, enum mk_space space);
/* No vCPU may be running. Retires every hook. */
void mk_bus_free(void *bus);

/* Of a window: with the lock, generation and readers that are its outer bus's. */
static inline struct mk_bus *mk_bus_root(struct mk_bus *bus)
{
    return bus->outer ? bus->outer : bus;
}

/* A bus to be shown inside `outer`, which knows nothing of it yet; freed with mk_bus_free(). */
void mk_bus_init_window(struct mk_bus *bus, enum mk_space space, struct mk_bus *outer);
/* Shows its first `size` addresses from `base` on, beneath all hooks that are there. It is closed
 * before. -1: out of memory, or too much is retired. */
int mk_bus_open_window(struct mk_bus *bus, uint64_t base, uint64_t size, const char *owner);
void mk_bus_close_window(struct mk_bus *bus);
/* The bus that is shown there, when the hook is that of a window; else NULL. */
struct mk_bus *mk_bus_window_of(const struct mk_hook *hook);
/* Calls what->release() when no vCPU can hold anything any more that it could reach before now. */
void mk_bus_retire(struct mk_bus *bus, struct mk_retired *what);

/* Puts a hook on top of [first, last]; `owner` NULL: ops->name. NULL when memory ran out. */
struct mk_hook *mk_bus_hook(struct mk_bus *bus, uint64_t first, uint64_t last,
                            const struct mk_io_ops *ops, void *self, const char *owner);
/* -1 when there are as many hooks as there may be. */
int mk_bus_check_room(const struct mk_bus *bus, struct mk_err *err);
/* Takes it off again; the memory lives until no vCPU can hold it. Call once. */
void mk_bus_unhook(struct mk_bus *bus, struct mk_hook *hook);
/* The VM is reset: tells every hook. No vCPU may be running. */
void mk_bus_reset(void *bus);
/* What hooks hold is saved, and goes back as far as the same hooks are there. */
extern const struct mk_dev_ops mk_bus_dev;
/* The first address of [first, last] that somebody serves; false when there is none. `owner`, of
 * MK_COUNT(hook->owner) bytes, gets the name of who does. */
bool mk_bus_owned(struct mk_bus *bus, uint64_t first, uint64_t last, uint64_t *where, char *owner);
/* The first hook from `hook` on that lies over the address; the next one beneath `hook` that does.
 */
static inline struct mk_hook *mk_hook_covering(struct mk_hook *hook, uint64_t address)
{
    while (hook && (address < hook->first || address > hook->last))
        hook = atomic_load(&hook->link);
    return hook;
}

static inline struct mk_hook *mk_hook_beneath(struct mk_hook *hook, uint64_t address)
{
    return mk_hook_covering(atomic_load(&hook->link), address);
}

static inline struct mk_hook *mk_bus_port_top(const struct mk_bus *bus, uint64_t port)
{
    struct mk_bus_page *page = atomic_load(&bus->pages[(port >> 8) & 0xff]);
    return page ? atomic_load(&page->top[port & 0xff]) : NULL;
}

/* Of the hook that shows a window. */
extern const struct mk_io_ops mk_bus_window_ops;

/* --- bus_serve.c --- */

/* One access by vCPU cpu->index. IN of what nobody serves reads all ones. */
uint64_t mk_bus_in(struct mk_bus *bus, struct mk_cpu *cpu, uint64_t address, uint8_t size,
                   struct mk_served *served);
void mk_bus_out(struct mk_bus *bus, struct mk_cpu *cpu, uint64_t address, uint8_t size,
                uint64_t value, struct mk_served *served);

/* A vCPU that uses what hooks own, outside an access: what is unhooked meanwhile is not freed. */
void mk_bus_enter(struct mk_bus *bus, struct mk_cpu *cpu);
void mk_bus_leave(struct mk_bus *bus, struct mk_cpu *cpu);

/* Hands an access on to a window that is shown nowhere. */
uint64_t mk_bus_window_in(const struct mk_io *io, struct mk_bus *bus, uint64_t address);
void mk_bus_window_out(const struct mk_io *io, struct mk_bus *bus, uint64_t address,
                       uint64_t value);
/* The same for the hook beneath `io`'s: what `next` of an override calls. */
uint64_t mk_bus_next_in(struct mk_io *io);
void mk_bus_next_out(struct mk_io *io, uint64_t value);

#endif
