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

/* The first hook from `hook` on that lies over the address. */
static struct mk_hook *covering(struct mk_hook *hook, uint64_t address)
{
    while (hook && (address < hook->first || address > hook->last))
        hook = atomic_load(&hook->link);
    return hook;
}

static struct mk_hook *port_top(const struct mk_bus *bus, uint64_t port)
{
    struct mk_bus_page *page = atomic_load(&bus->pages[(port >> 8) & 0xff]);
    return page ? atomic_load(&page->top[port & 0xff]) : NULL;
}

/* The range of an address of memory or an MSR; NULL while there is no map of them. */
static const struct mk_bus_range *range_of(struct mk_bus *bus, const struct mk_cpu *cpu,
                                           uint64_t address)
{
    const struct mk_bus_ranges *map = atomic_load(&bus->ranges);
    return map ? mk_bus_ranges_find(map, address, &bus->reader[cpu->index].hit) : NULL;
}

static struct mk_hook *lookup(struct mk_bus *bus, const struct mk_cpu *cpu, uint64_t address)
{
    if (bus->space == MK_SPACE_PORTS)
        return port_top(bus, address);
    const struct mk_bus_range *range = range_of(bus, cpu, address);
    return range ? range->top : covering(atomic_load(&bus->hooks), address);
}

static MK_COLD struct mk_hook *beneath(struct mk_hook *hook, uint64_t address)
{
    return covering(atomic_load(&hook->link), address);
}

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
    *bus = (struct mk_bus){ .space = space, .generation = 1 };
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
}

/* The list of hooks has changed in [first, last]. */
static void update_ranges(struct mk_bus *bus, uint64_t first, uint64_t last)
{
    struct mk_bus_ranges *old = atomic_load(&bus->ranges);
    struct mk_hook *hooks = atomic_load(&bus->hooks);
    atomic_store(&bus->ranges,
                 hooks ? mk_bus_ranges_make(old, hooks, bus->hook_count, first, last) : NULL);
    if (old)
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
    return hook && hook->ops->coalesce;
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
        if (on_top || !port_top(bus, port))
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
    hook->retired.release = release;
    hook->first = first;
    hook->last = last;
    hook->ops = ops;
    hook->self = self;
    snprintf(hook->owner, sizeof(hook->owner), "%s", owner ? owner : ops->name);
    lock(bus);
    reclaim(bus);
    bool made = bus->space != MK_SPACE_PORTS || make_pages(bus, first, last);
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
        if (port_top(bus, port) == hook)
            set_top(bus, port, beneath(hook, port));
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

/* The hook that answers beneath the one whose turn it was, or from the top. */
static inline struct mk_hook *hook_at(const struct mk_io *from, uint64_t address)
{
    struct mk_hook *above = from->hook;
    if (above && address >= above->first && address <= above->last)
        return beneath(above, address);
    return lookup(from->bus, from->cpu, address);
}

/* Handlers without a function for this direction leave it to what lies beneath. */
static inline struct mk_hook *reader(const struct mk_io *from, uint64_t address)
{
    struct mk_hook *hook = hook_at(from, address);
    while (hook && !hook->ops->in)
        hook = beneath(hook, address);
    return hook;
}

static inline struct mk_hook *writer(const struct mk_io *from, uint64_t address)
{
    struct mk_hook *hook = hook_at(from, address);
    while (hook && !hook->ops->out)
        hook = beneath(hook, address);
    return hook;
}

/* Byte i of an access: ports come round at 64 KiB. */
static uint64_t byte_at(const struct mk_io *io, unsigned i)
{
    return io->bus->space == MK_SPACE_PORTS ? (io->address + i) & 0xffff : io->address + i;
}

/* Whether an access to memory lies in `hook`, which its first byte found, and in no other's range
 * above: what bytes that are looked up one by one would find, too. */
static bool all_in(const struct mk_io *io, const struct mk_hook *hook)
{
    const struct mk_hook *above = io->hook, *h;
    uint64_t first = io->address, last = first + io->size - 1;
    if (io->bus->space != MK_SPACE_MMIO || !hook || last > hook->last || last < first)
        return false;
    if (!above || first < above->first || first > above->last) {
        const struct mk_bus_range *range = range_of(io->bus, io->cpu, first);
        return range && range->top == hook && last <= range->last;
    }
    h = atomic_load(&above->link);
    while (h && h != hook && (last < h->first || first > h->last))
        h = atomic_load(&h->link);
    return h == hook;
}

/* Of an access of several bytes: a register that is one port takes any width. */
static bool bytes_in_one(const struct mk_io *io, const struct mk_hook *hook,
                         struct mk_hook *(*find)(const struct mk_io *, uint64_t))
{
    if (hook && hook->ops->width < io->size)
        return false;
    if (hook && hook->first == hook->last && io->bus->space == MK_SPACE_PORTS)
        return true;
    if (all_in(io, hook))
        return true;
    for (unsigned i = 1; i < io->size; i++)
        if (find(io, byte_at(io, i)) != hook)
            return false;
    return true;
}

/* Whether an access is served in one piece by `hook`, or by nobody at all: whether all of its bytes
 * are, and of an MSR they are. */
static inline bool in_one_piece(const struct mk_io *io, const struct mk_hook *hook,
                                struct mk_hook *(*find)(const struct mk_io *, uint64_t))
{
    return io->size == 1 || (hook && io->bus->space == MK_SPACE_MSRS) ||
           bytes_in_one(io, hook, find);
}

static void count_unhandled(struct mk_bus *bus, uint64_t address)
{
    unsigned i = 0;
    pthread_mutex_lock(&bus->lock);
    while (i < bus->unhandled_count && bus->unhandled[i].address != address)
        i++;
    if (i < MK_UNHANDLED)
        bus->unhandled[i].address = address;
    if (i < MK_UNHANDLED && i == bus->unhandled_count)
        bus->unhandled_count++;
    if (i < MK_UNHANDLED)
        bus->unhandled[i].count++;
    pthread_mutex_unlock(&bus->lock);
}

/* Nobody serves it: reads see all ones, writes go nowhere, unless the script wants to know. A
 * window has an owner, who has answered so. */
static MK_COLD uint64_t serve_unhandled(struct mk_io *io, bool in, uint64_t value,
                                        struct mk_served *served)
{
    struct mk_bus *bus = io->bus;
    io->hook = NULL;
    if (bus->outer) {
        if (served)
            served->c++;
        return mk_mask(io->size);
    }
    count_unhandled(bus, io->address);
    bool script = false;
    if (bus->on_unhandled && bus->on_unhandled(bus->unhandled_ctx, io, in, &value, &script)) {
        if (served)
            *(script ? &served->lua : &served->c) += 1;
        return value & mk_mask(io->size);
    }
    if (served && served->none++ == 0)
        served->unhandled_at = io->address;
    return mk_mask(io->size);
}

static inline void account(struct mk_hook *hook, struct mk_served *served)
{
    atomic_fetch_add_explicit(&hook->hits, 1, memory_order_relaxed);
    if (!served)
        return;
    if (served->coalesced)
        atomic_fetch_add_explicit(&hook->coalesced, 1, memory_order_relaxed);
    if (hook->ops->script)
        served->lua++;
    else
        served->c++;
}

static uint64_t start_time(struct mk_bus *bus)
{
    return atomic_load_explicit(&mk_bus_root(bus)->timing, memory_order_relaxed) ? mk_now() : 0;
}

static void stop_time(struct mk_hook *hook, uint64_t began)
{
    if (began)
        atomic_fetch_add_explicit(&hook->ns, mk_now() - began, memory_order_relaxed);
}

static uint64_t serve_in(struct mk_io *io, struct mk_served *served);
static void serve_out(struct mk_io *io, uint64_t value, struct mk_served *served);

/* --- windows --- */

/* An access to the outer bus as one to the window's. */
static struct mk_io inside(const struct mk_io *io, struct mk_bus *bus, uint64_t address)
{
    return (struct mk_io){ .cpu = io->cpu, .bus = bus, .address = address, .size = io->size };
}

uint64_t mk_bus_window_in(const struct mk_io *io, struct mk_bus *bus, uint64_t address)
{
    struct mk_io inner = inside(io, bus, address);
    return serve_in(&inner, NULL);
}

void mk_bus_window_out(const struct mk_io *io, struct mk_bus *bus, uint64_t address, uint64_t value)
{
    struct mk_io inner = inside(io, bus, address);
    serve_out(&inner, value, NULL);
}

static uint64_t window_in(void *self, struct mk_io *io)
{
    return mk_bus_window_in(io, self, io->address - io->hook->first);
}

static void window_out(void *self, struct mk_io *io, uint64_t value)
{
    mk_bus_window_out(io, self, io->address - io->hook->first, value);
}

static const struct mk_io_ops window_ops = {
    .name = "window", .in = window_in, .out = window_out, .width = 8
};

struct mk_bus *mk_bus_window_of(const struct mk_hook *hook)
{
    return hook->ops == &window_ops ? hook->self : NULL;
}

int mk_bus_open_window(struct mk_bus *bus, uint64_t base, uint64_t size, const char *owner)
{
    atomic_store(&bus->base, base);
    struct mk_hook *hook =
        add_hook(bus->outer, base, base + size - 1, &window_ops, bus, owner, false);
    atomic_store(&bus->window, hook);
    return hook ? 0 : -1;
}

void mk_bus_close_window(struct mk_bus *bus)
{
    struct mk_hook *hook = atomic_exchange(&bus->window, NULL);
    if (hook)
        mk_bus_unhook(bus->outer, hook);
}

/* --- serving --- */

/* A hook in a window is accounted for, not the window. */
static __attribute__((noinline)) uint64_t shown_in(const struct mk_hook *hook,
                                                   const struct mk_io *io, struct mk_served *served)
{
    struct mk_io inner = inside(io, hook->self, io->address - hook->first);
    return serve_in(&inner, served);
}

static __attribute__((noinline)) void shown_out(const struct mk_hook *hook, const struct mk_io *io,
                                                uint64_t value, struct mk_served *served)
{
    struct mk_io inner = inside(io, hook->self, io->address - hook->first);
    serve_out(&inner, value, served);
}

static inline uint64_t hook_in(struct mk_hook *hook, struct mk_io *io, struct mk_served *served)
{
    if (!hook)
        return serve_unhandled(io, true, 0, served);
    if (hook->ops == &window_ops)
        return shown_in(hook, io, served);
    io->hook = hook;
    account(hook, served);
    uint64_t began = start_time(io->bus);
    uint64_t value = hook->ops->in(hook->self, io) & mk_mask(io->size);
    stop_time(hook, began);
    return value;
}

static inline void hook_out(struct mk_hook *hook, struct mk_io *io, uint64_t value,
                            struct mk_served *served)
{
    value &= mk_mask(io->size);
    if (!hook) {
        serve_unhandled(io, false, value, served);
        return;
    }
    if (hook->ops == &window_ops) {
        shown_out(hook, io, value, served);
        return;
    }
    io->hook = hook;
    account(hook, served);
    if (served)
        served->collectable = hook->ops->coalesce;
    uint64_t began = start_time(io->bus);
    hook->ops->out(hook->self, io, value);
    stop_time(hook, began);
}

static MK_COLD uint64_t in_bytes(const struct mk_io *from, struct mk_served *served)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < from->size; i++) {
        struct mk_io io = *from;
        io.size = 1;
        io.address = byte_at(from, i);
        value |= serve_in(&io, served) << (8 * i);
    }
    return value;
}

static MK_COLD void out_bytes(const struct mk_io *from, uint64_t value, struct mk_served *served)
{
    for (unsigned i = 0; i < from->size; i++) {
        struct mk_io io = *from;
        io.size = 1;
        io.address = byte_at(from, i);
        serve_out(&io, value >> (8 * i), served);
    }
}

/* What was passed on from beneath `above` until `end` answered: taps want to know the value. */
static void notify_taps(struct mk_io io, struct mk_hook *above, const struct mk_hook *end,
                        uint64_t value)
{
    io.hook = above;
    for (struct mk_hook *h; (h = reader(&io, io.address)) && h != end;) {
        io.hook = h;
        if (h->ops->tap)
            h->ops->tap(h->self, &io, value);
    }
}

/* What hooks have passed on, taps mostly, until one answers. */
static MK_COLD uint64_t in_passed(struct mk_io *io, struct mk_hook *above)
{
    struct mk_hook *hook;
    uint64_t value;
    do {
        io->passed = false;
        hook = reader(io, io->address);
        value = in_one_piece(io, hook, reader) ? hook_in(hook, io, NULL) : in_bytes(io, NULL);
    } while (io->passed);
    notify_taps(*io, above, hook, value);
    return value;
}

static MK_COLD void out_passed(struct mk_io *io, uint64_t value)
{
    do {
        io->passed = false;
        struct mk_hook *hook = writer(io, io->address);
        if (in_one_piece(io, hook, writer))
            hook_out(hook, io, value, NULL);
        else
            out_bytes(io, value, NULL);
    } while (io->passed);
}

/* Beneath io->hook, or from the top. Only the first hook to get the access is accounted for in
 * `served`. */
static uint64_t serve_in(struct mk_io *io, struct mk_served *served)
{
    struct mk_hook *above = io->hook, *hook = reader(io, io->address);
    if (!in_one_piece(io, hook, reader))
        return in_bytes(io, served);
    uint64_t value = hook_in(hook, io, served);
    return io->passed ? in_passed(io, above) : value;
}

static void serve_out(struct mk_io *io, uint64_t value, struct mk_served *served)
{
    struct mk_hook *hook = writer(io, io->address);
    if (!in_one_piece(io, hook, writer)) {
        out_bytes(io, value, served);
        return;
    }
    hook_out(hook, io, value, served);
    if (io->passed)
        out_passed(io, value);
}

void mk_bus_enter(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store(&bus->reader[cpu->index].inside, atomic_load(&bus->generation));
}

void mk_bus_leave(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store_explicit(&bus->reader[cpu->index].inside, 0, memory_order_release);
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
    struct mk_io next = *io;
    return serve_in(&next, NULL);
}

void mk_bus_next_out(struct mk_io *io, uint64_t value)
{
    struct mk_io next = *io;
    serve_out(&next, value, NULL);
}
