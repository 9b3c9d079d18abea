/* bus.c - see bus.h.
 *
 * Reclamation: a reader stores the current generation in its `inside` slot before it looks a hook
 * up and 0 when it is done. Unhooking unlinks the hook, then advances the generation; a retired
 * hook is freed once no reader's slot holds a generation from before its removal. Both sides use
 * sequentially consistent atomics: either the reader sees the unlinked table, or the remover sees
 * the reader. */
#include "dev/bus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void lock(struct mk_bus *bus)
{
    pthread_mutex_lock(&mk_bus_root(bus)->lock);
}

static void unlock(struct mk_bus *bus)
{
    pthread_mutex_unlock(&mk_bus_root(bus)->lock);
}

void mk_bus_init(struct mk_bus *bus, enum mk_space space)
{
    *bus = (struct mk_bus){ .space = space, .generation = 1, .ranges = &mk_bus_no_ranges };
    pthread_mutex_init(&bus->lock, NULL);
}

void mk_bus_init_window(struct mk_bus *bus, enum mk_space space, struct mk_bus *outer)
{
    mk_bus_init(bus, space);
    bus->outer = outer;
}

static void release(struct mk_retired *retired)
{
    struct mk_hook *hook = (struct mk_hook *)retired;
    if (hook->ops->retire)
        hook->ops->retire(hook->self);
    free(hook);
}

static void free_retired(struct mk_retired *what)
{
    for (struct mk_retired *next; what; what = next) {
        next = what->next;
        what->release(what);
    }
}

void mk_bus_free(void *self)
{
    struct mk_bus *bus = self;
    for (struct mk_hook *h = bus->hooks, *next; h; h = next) {
        next = h->link;
        release(&h->retired);
    }
    free_retired(bus->retired);
    if (atomic_load(&bus->ranges) != &mk_bus_no_ranges)
        free(atomic_load(&bus->ranges));
    for (unsigned i = 0; i < MK_COUNT(bus->pages); i++)
        free(atomic_load(&bus->pages[i]));
    pthread_mutex_destroy(&bus->lock);
}

/* Frees what was retired and no reader can hold any more. Caller holds the lock. */
static void reclaim(struct mk_bus *bus)
{
    bus = mk_bus_root(bus);
    uint64_t oldest = UINT64_MAX;
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        uint64_t seen = atomic_load(&bus->reader[i].inside);
        if (seen && seen < oldest)
            oldest = seen;
    }
    struct mk_retired **at = &bus->retired;
    while (*at) {
        struct mk_retired *what = *at;
        if (what->at < oldest) {
            *at = what->next;
            bus->retired_bytes -= what->size;
            what->release(what);
        } else {
            at = &what->next;
        }
    }
}

/* Readers do not find it any more, but may hold it. Caller holds the lock. */
static void retire(struct mk_bus *bus, struct mk_retired *what)
{
    bus = mk_bus_root(bus);
    what->at = atomic_fetch_add(&bus->generation, 1);
    what->next = bus->retired;
    bus->retired = what;
    bus->retired_bytes += what->size;
}

/* The list of hooks has changed in [first, last]. */
static void update_ranges(struct mk_bus *bus, uint64_t first, uint64_t last)
{
    struct mk_bus_ranges *old = atomic_load(&bus->ranges);
    struct mk_hook *hooks = atomic_load(&bus->hooks);
    atomic_store(&bus->ranges, mk_bus_ranges_make(old, hooks, bus->hook_count, first, last));
    if (old && old != &mk_bus_no_ranges)
        retire(bus, &old->retired);
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

static bool coalesces(const struct mk_hook *hook)
{
    return hook && (hook->ops->coalesce || hook->ops->patient);
}

/* Port `port` has another topmost hook. */
static void set_top(struct mk_bus *bus, uint64_t port, struct mk_hook *hook)
{
    struct mk_hook *_Atomic *top = &atomic_load(&bus->pages[port >> 8])->top[port & 0xff];
    bool before = coalesces(atomic_load(top));
    atomic_store(top, hook);
    if (bus->on_top && coalesces(hook) != before)
        bus->on_top(bus->ctx, (uint16_t)port, hook ? hook->ops : NULL);
}

/* On top of all others, or beneath them. */
static void link_hook(struct mk_bus *bus, struct mk_hook *hook, bool on_top)
{
    struct mk_hook *_Atomic *at = &bus->hooks;
    while (!on_top && atomic_load(at))
        at = &atomic_load(at)->link;
    atomic_store(&hook->link, atomic_load(at));
    atomic_store(at, hook);
    bus->hook_count++;
    if (bus->space != MK_SPACE_PORTS)
        update_ranges(bus, hook->first, hook->last);
    for (uint64_t port = hook->first; bus->space == MK_SPACE_PORTS && port <= hook->last; port++)
        if (on_top || !mk_bus_port_top(bus, port))
            set_top(bus, port, hook);
}

int mk_bus_check_room(const struct mk_bus *bus, struct mk_err *err)
{
    static const char *const kinds[] = { "ports", "memory", "MSRs" };
    if (bus->hook_count < MK_HOOKS_MAX)
        return 0;
    return mk_fail(err, E2BIG,
                   "%d handlers of %s are the most there may be: remove() some, or let "
                   "one serve more",
                   MK_HOOKS_MAX, kinds[bus->space]);
}

static struct mk_hook *add_hook(struct mk_bus *bus, uint64_t first, uint64_t last,
                                const struct mk_io_ops *ops, void *self, const char *owner,
                                bool on_top)
{
    struct mk_hook *hook = calloc(1, sizeof(*hook));
    if (!hook)
        return NULL;
    hook->retired = (struct mk_retired){ .release = release, .size = sizeof(*hook) };
    hook->first = first;
    hook->last = last;
    hook->ops = ops;
    hook->self = self;
    snprintf(hook->owner, sizeof(hook->owner), "%s", owner ? owner : ops->name);
    lock(bus);
    reclaim(bus);
    bool made = (on_top || mk_bus_root(bus)->retired_bytes < MK_RETIRED_MAX) &&
                (bus->space != MK_SPACE_PORTS || make_pages(bus, first, last));
    if (made)
        link_hook(bus, hook, on_top);
    unlock(bus);
    if (made)
        return hook;
    free(hook);
    return NULL;
}

struct mk_hook *mk_bus_hook(struct mk_bus *bus, uint64_t first, uint64_t last,
                            const struct mk_io_ops *ops, void *self, const char *owner)
{
    return add_hook(bus, first, last, ops, self, owner, true);
}

/* hook->link stays: a vCPU that is in the handler may still ask for what lies beneath. */
static void unlink_hook(struct mk_bus *bus, struct mk_hook *hook)
{
    struct mk_hook *_Atomic *at = &bus->hooks;
    while (atomic_load(at) != hook)
        at = &atomic_load(at)->link;
    atomic_store(at, atomic_load(&hook->link));
    bus->hook_count--;
    if (bus->space != MK_SPACE_PORTS)
        update_ranges(bus, hook->first, hook->last);
    for (uint64_t port = hook->first; bus->space == MK_SPACE_PORTS && port <= hook->last; port++)
        if (mk_bus_port_top(bus, port) == hook)
            set_top(bus, port, mk_hook_beneath(hook, port));
}

void mk_bus_unhook(struct mk_bus *bus, struct mk_hook *hook)
{
    lock(bus);
    unlink_hook(bus, hook);
    retire(bus, &hook->retired);
    reclaim(bus);
    unlock(bus);
}

void mk_bus_retire(struct mk_bus *bus, struct mk_retired *what)
{
    lock(bus);
    retire(bus, what);
    reclaim(bus);
    unlock(bus);
}

void mk_bus_reset(void *self)
{
    struct mk_bus *bus = self;
    lock(bus);
    for (struct mk_hook *h = bus->hooks; h; h = h->link)
        if (h->ops->reset)
            h->ops->reset(h->self);
    unlock(bus);
}

bool mk_bus_owned(struct mk_bus *bus, uint64_t first, uint64_t last, uint64_t *where, char *owner)
{
    const struct mk_hook *found = NULL;
    lock(bus);
    for (const struct mk_hook *h = bus->hooks; h; h = h->link)
        if (h->first <= last && h->last >= first && (!found || h->first < found->first))
            found = h;
    if (found) {
        *where = found->first > first ? found->first : first;
        memcpy(owner, found->owner, sizeof(found->owner));
    }
    unlock(bus);
    return found != NULL;
}

/* --- windows --- */

struct mk_bus *mk_bus_window_of(const struct mk_hook *hook)
{
    return hook->ops == &mk_bus_window_ops ? hook->self : NULL;
}

int mk_bus_open_window(struct mk_bus *bus, uint64_t base, uint64_t size, const char *owner)
{
    atomic_store(&bus->base, base);
    struct mk_hook *hook =
        add_hook(bus->outer, base, base + size - 1, &mk_bus_window_ops, bus, owner, false);
    atomic_store(&bus->window, hook);
    return hook ? 0 : -1;
}

void mk_bus_close_window(struct mk_bus *bus)
{
    struct mk_hook *hook = atomic_exchange(&bus->window, NULL);
    if (hook)
        mk_bus_unhook(bus->outer, hook);
}
