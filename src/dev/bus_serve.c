/* bus_serve.c - an access on its way through a bus: who answers it, what is passed on. See bus.h.
 *
 * On the thread of the vCPU that makes it. Nearly all accesses are of one piece, and the topmost
 * hook answers them: that way is straight, what is seldom is in functions beside it (MK_COLD).
 * `in` says whether it reads; what a write is said to answer means nothing. On the straight way it
 * is known where it is compiled (STRAIGHT). */
#include "dev/bus.h"

#define STRAIGHT static inline __attribute__((always_inline))

/* The range of an address of memory or an MSR; NULL while there is no map of them. */
static const struct mk_bus_range *range_of(const struct mk_io *io, uint64_t address)
{
    return io->map ? mk_bus_ranges_find(io->map, address, &io->bus->reader[io->cpu->index].hit)
                   : NULL;
}

static struct mk_hook *lookup(const struct mk_io *io, uint64_t address)
{
    struct mk_bus *bus = io->bus;
    if (bus->space == MK_SPACE_PORTS)
        return mk_bus_port_top(bus, address);
    const struct mk_bus_range *range = range_of(io, address);
    return range ? range->top : mk_hook_covering(atomic_load(&bus->hooks), address);
}

static MK_COLD struct mk_hook *beneath(struct mk_hook *hook, uint64_t address)
{
    return mk_hook_beneath(hook, address);
}

/* The hook that answers beneath the one whose turn it was, or from the top. Handlers without a
 * function for this direction leave it to what lies beneath. */
STRAIGHT struct mk_hook *find(const struct mk_io *from, uint64_t address, bool in)
{
    struct mk_hook *above = from->hook, *hook;
    if (above && address >= above->first && address <= above->last)
        hook = beneath(above, address);
    else
        hook = lookup(from, address);
    while (hook && !(in ? hook->ops->in != NULL : hook->ops->out != NULL))
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
        const struct mk_bus_range *range = range_of(io, first);
        return range && range->top == hook && last <= range->last;
    }
    h = atomic_load(&above->link);
    while (h && h != hook && (last < h->first || first > h->last))
        h = atomic_load(&h->link);
    return h == hook;
}

/* Of an access of several bytes: a register that is one port takes any width. */
static bool bytes_in_one(const struct mk_io *io, const struct mk_hook *hook, bool in)
{
    if (hook && hook->ops->width < io->size)
        return false;
    if (hook && hook->first == hook->last && io->bus->space == MK_SPACE_PORTS)
        return true;
    if (all_in(io, hook))
        return true;
    for (unsigned i = 1; i < io->size; i++)
        if (find(io, byte_at(io, i), in) != hook)
            return false;
    return true;
}

/* Whether an access is served in one piece by `hook`, or by nobody at all: whether all of its bytes
 * are, and of an MSR they are. */
STRAIGHT bool in_one_piece(const struct mk_io *io, const struct mk_hook *hook, bool in)
{
    return io->size == 1 || (hook && io->bus->space == MK_SPACE_MSRS) || bytes_in_one(io, hook, in);
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

/* Beneath io->hook, or from the top. Only the first hook to get the access is accounted for in
 * `served`. */
static uint64_t serve(struct mk_io *io, bool in, uint64_t value, struct mk_served *served);

/* --- windows --- */

/* An access to the outer bus as one to the window's, which is accounted for if `served` is there.
 */
static uint64_t inside(const struct mk_io *io, struct mk_bus *bus, uint64_t address, bool in,
                       uint64_t value, struct mk_served *served)
{
    struct mk_io inner = { .cpu = io->cpu, .bus = bus, .address = address, .size = io->size };
    return serve(&inner, in, value, served);
}

uint64_t mk_bus_window_in(const struct mk_io *io, struct mk_bus *bus, uint64_t address)
{
    return inside(io, bus, address, true, 0, NULL);
}

void mk_bus_window_out(const struct mk_io *io, struct mk_bus *bus, uint64_t address, uint64_t value)
{
    inside(io, bus, address, false, value, NULL);
}

static uint64_t window_in(void *self, struct mk_io *io)
{
    return mk_bus_window_in(io, self, io->address - io->hook->first);
}

static void window_out(void *self, struct mk_io *io, uint64_t value)
{
    mk_bus_window_out(io, self, io->address - io->hook->first, value);
}

const struct mk_io_ops mk_bus_window_ops = {
    .name = "window", .in = window_in, .out = window_out, .width = 8
};

/* --- serving --- */

/* A hook in a window is accounted for, not the window. */
static __attribute__((noinline)) uint64_t shown(const struct mk_hook *hook, const struct mk_io *io,
                                                bool in, uint64_t value, struct mk_served *served)
{
    return inside(io, hook->self, io->address - hook->first, in, value, served);
}

STRAIGHT uint64_t answer(struct mk_hook *hook, struct mk_io *io, bool in, uint64_t value,
                         struct mk_served *served)
{
    value &= mk_mask(io->size);
    if (!hook)
        return serve_unhandled(io, in, value, served);
    if (hook->ops == &mk_bus_window_ops)
        return shown(hook, io, in, value, served);
    io->hook = hook;
    account(hook, served);
    if (!in && served)
        served->collectable = hook->ops->coalesce || hook->ops->patient;
    uint64_t began = start_time(io->bus);
    if (in)
        value = hook->ops->in(hook->self, io) & mk_mask(io->size);
    else
        hook->ops->out(hook->self, io, value);
    stop_time(hook, began);
    return value;
}

static MK_COLD uint64_t by_bytes(const struct mk_io *from, bool in, uint64_t value,
                                 struct mk_served *served)
{
    uint64_t read = 0;
    for (unsigned i = 0; i < from->size; i++) {
        struct mk_io io = *from;
        io.size = 1;
        io.address = byte_at(from, i);
        read |= serve(&io, in, value >> (8 * i), served) << (8 * i);
    }
    return read;
}

/* What was passed on from beneath `above` until `end` answered: taps want to know the value. */
static void notify_taps(struct mk_io io, struct mk_hook *above, const struct mk_hook *end,
                        uint64_t value)
{
    io.hook = above;
    for (struct mk_hook *h; (h = find(&io, io.address, true)) && h != end;) {
        io.hook = h;
        if (h->ops->tap)
            h->ops->tap(h->self, &io, value);
    }
}

/* What hooks have passed on, taps mostly, until one answers. */
static MK_COLD uint64_t passed(struct mk_io *io, struct mk_hook *above, bool in, uint64_t value)
{
    struct mk_hook *hook;
    uint64_t read;
    do {
        io->passed = false;
        io->map = atomic_load(&io->bus->ranges);
        hook = find(io, io->address, in);
        read = in_one_piece(io, hook, in) ? answer(hook, io, in, value, NULL)
                                          : by_bytes(io, in, value, NULL);
    } while (io->passed);
    if (in)
        notify_taps(*io, above, hook, read);
    return read;
}

STRAIGHT uint64_t serve_straight(struct mk_io *io, bool in, uint64_t value,
                                 struct mk_served *served)
{
    struct mk_hook *above = io->hook;
    io->map = atomic_load(&io->bus->ranges);
    struct mk_hook *hook = find(io, io->address, in);
    if (!in_one_piece(io, hook, in))
        return by_bytes(io, in, value, served);
    uint64_t read = answer(hook, io, in, value, served);
    return io->passed ? passed(io, above, in, value) : read;
}

static MK_HOT uint64_t serve(struct mk_io *io, bool in, uint64_t value, struct mk_served *served)
{
    return in ? serve_straight(io, true, 0, served) : serve_straight(io, false, value, served);
}

void mk_bus_enter(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store(&bus->reader[cpu->index].inside, atomic_load(&bus->generation));
}

void mk_bus_leave(struct mk_bus *bus, struct mk_cpu *cpu)
{
    atomic_store_explicit(&bus->reader[cpu->index].inside, 0, memory_order_release);
}

MK_HOT uint64_t mk_bus_in(struct mk_bus *bus, struct mk_cpu *cpu, uint64_t address, uint8_t size,
                          struct mk_served *served)
{
    struct mk_io io = { .cpu = cpu, .bus = bus, .address = address, .size = size };
    mk_bus_enter(bus, cpu);
    uint64_t value = serve_straight(&io, true, 0, served);
    mk_bus_leave(bus, cpu);
    return value;
}

MK_HOT void mk_bus_out(struct mk_bus *bus, struct mk_cpu *cpu, uint64_t address, uint8_t size,
                       uint64_t value, struct mk_served *served)
{
    struct mk_io io = { .cpu = cpu, .bus = bus, .address = address, .size = size };
    mk_bus_enter(bus, cpu);
    serve_straight(&io, false, value, served);
    mk_bus_leave(bus, cpu);
}

uint64_t mk_bus_next_in(struct mk_io *io)
{
    struct mk_io next = *io;
    return serve(&next, true, 0, NULL);
}

void mk_bus_next_out(struct mk_io *io, uint64_t value)
{
    struct mk_io next = *io;
    serve(&next, false, value, NULL);
}
