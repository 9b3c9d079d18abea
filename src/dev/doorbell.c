/* doorbell.c - see doorbell.h. Follows Documentation/virt/kvm/api.rst, KVM_IOEVENTFD. */
#include "dev/doorbell.h"

#include "kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Between two calls for one bell, so that a guest that rings all the time goes on; the same for one
 * that has rung many times since the last. */
#define BELL_NS 100000u
#define MANY 16
#define MANY_NS 2000000u

static int register_bell(const struct mk_doorbell *bell, bool on)
{
    struct kvm_ioeventfd event = { .datamatch = bell->value,
                                   .addr = bell->base + bell->address,
                                   .len = bell->size,
                                   .fd = bell->source.fd,
                                   .flags =
                                       (bell->mmio ? 0 : (unsigned)KVM_IOEVENTFD_FLAG_PIO) |
                                       (bell->any ? 0 : (unsigned)KVM_IOEVENTFD_FLAG_DATAMATCH) |
                                       (on ? 0 : (unsigned)KVM_IOEVENTFD_FLAG_DEASSIGN) };
    return mk_ioctl(bell->list->vm_fd, KVM_IOEVENTFD, &event);
}

/* What KVM does not catch is an exit. */
static void register_new(struct mk_doorbell *bell)
{
    bell->exits = !bell->bus || bell->shut || bell->moves > MK_DOORBELL_MOVES ||
                  register_bell(bell, true) < 0;
}

void mk_doorbell_ring(struct mk_doorbell *bell)
{
    uint64_t before = atomic_fetch_add(&bell->rung, 1);
    if (bell->on_ring)
        bell->on_ring(bell->ctx);
    else if (before == 0)
        bell->list->wake(bell->list->ctx);
}

static void bell_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_doorbell *bell = self;
    if (bell->any || value == bell->value)
        mk_doorbell_ring(bell);
    else
        io->passed = true;
}

/* On the I/O thread, as the next one. */
static void rearm(void *ctx)
{
    mk_io_watch(&((struct mk_doorbell *)ctx)->source);
}

static void bell_rings(void *ctx)
{
    struct mk_doorbell *bell = ctx;
    if (bell->on_ring)
        bell->on_ring(bell->ctx);
    else
        bell->list->wake(bell->list->ctx);
}

static void bell_retire(void *self)
{
    free(self);
}

static const struct mk_io_ops bell_ops = {
    .name = "doorbell", .out = bell_out, .width = 8, .retire = bell_retire
};

int mk_doorbell_add(struct mk_doorbells *list, struct mk_doorbell *bell, const char *owner,
                    struct mk_err *err)
{
    bell->list = list;
    bell->rearm_timer = (struct mk_io_timer){ .fire = rearm, .ctx = bell };
    bell->source = (struct mk_io_source){ .ready = bell_rings,
                                          .ctx = bell,
                                          .events = EPOLLIN,
                                          .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
    if (bell->source.fd < 0)
        return mk_fail_errno(err, errno, "eventfd for a doorbell");
    bell->hook = mk_bus_hook(bell->bus, bell->address, bell->address, &bell_ops, bell, owner);
    if (!bell->hook) {
        close(bell->source.fd);
        return mk_fail_errno(err, ENOMEM, "doorbell");
    }
    mk_io_watch(&bell->source);
    pthread_mutex_lock(&list->lock);
    bell->shut = bell->bus->outer && !atomic_load(&bell->bus->window);
    bell->base = bell->bus->outer ? atomic_load(&bell->bus->base) : 0;
    register_new(bell);
    bell->next = list->first;
    list->first = bell;
    pthread_mutex_unlock(&list->lock);
    return 0;
}

void mk_doorbell_connect(struct mk_doorbells *list, struct mk_doorbell *bell)
{
    *bell = (struct mk_doorbell){
        .list = list, .exits = true, .source.fd = -1, .ring = bell->ring, .ctx = bell->ctx
    };
    pthread_mutex_lock(&list->lock);
    bell->next = list->first;
    list->first = bell;
    pthread_mutex_unlock(&list->lock);
}

static void stop_watching(struct mk_doorbell *bell)
{
    mk_io_disarm(&bell->rearm_timer);
    mk_io_unwatch(&bell->source);
    close(bell->source.fd);
}

void mk_doorbell_remove(struct mk_doorbell *bell)
{
    struct mk_doorbells *list = bell->list;
    pthread_mutex_lock(&list->lock);
    struct mk_doorbell **at = &list->first;
    while (*at && *at != bell)
        at = &(*at)->next;
    if (*at)
        *at = bell->next;
    pthread_mutex_unlock(&list->lock);
    if (!bell->bus)
        return;
    if (!bell->exits)
        register_bell(bell, false);
    stop_watching(bell);
    mk_bus_unhook(bell->bus, bell->hook); /* frees it when no vCPU uses it any more */
}

/* Those that KVM has counted. */
static uint64_t drain_counted(struct mk_doorbell *bell)
{
    uint64_t count = 0;
    ssize_t n;
    do
        n = read(bell->source.fd, &count, sizeof(count));
    while (n < 0 && errno == EINTR);
    if (n != sizeof(count))
        return 0;
    atomic_fetch_add_explicit(&bell->hook->hits, count, memory_order_relaxed);
    atomic_fetch_add_explicit(&bell->hook->coalesced, count, memory_order_relaxed);
    return count;
}

uint64_t mk_doorbell_count(struct mk_doorbell *bell)
{
    return drain_counted(bell) + atomic_exchange(&bell->rung, 0);
}

void mk_doorbell_rearm(struct mk_doorbell *bell, uint64_t at)
{
    if (at)
        mk_io_arm(&bell->rearm_timer, at);
    else
        mk_io_watch(&bell->source);
}

static uint64_t collect(struct mk_doorbell *bell)
{
    uint64_t count = bell->bus ? drain_counted(bell) : 0;
    if (count)
        mk_io_arm(&bell->rearm_timer, mk_now() + (count > MANY ? MANY_NS : BELL_NS));
    return count + atomic_exchange(&bell->rung, 0);
}

/* One that was not looked at in this round. */
static struct mk_doorbell *next_rung(struct mk_doorbells *list, uint64_t round, uint64_t *count)
{
    pthread_mutex_lock(&list->lock);
    struct mk_doorbell *bell = list->first;
    for (; bell; bell = bell->next) {
        bool seen = bell->round == round;
        bell->round = round;
        if (!seen && !bell->on_ring && (*count = collect(bell)))
            break;
    }
    pthread_mutex_unlock(&list->lock);
    return bell;
}

/* False when the vCPU is in there already: a handler waits in the middle of an access. */
static bool enter_bus(struct mk_bus *bus, struct mk_cpu *cpu)
{
    bool outside = !atomic_load(&bus->reader[cpu->index].inside);
    if (outside)
        mk_bus_enter(bus, cpu);
    return outside;
}

void mk_doorbells_serve(struct mk_doorbells *list, struct mk_cpu *cpu)
{
    struct mk_doorbell *bell;
    uint64_t count;
    pthread_mutex_lock(&list->lock);
    bool any = list->first != NULL;
    uint64_t round = ++list->round;
    pthread_mutex_unlock(&list->lock);
    if (!any)
        return;
    bool ports = enter_bus(list->ports, cpu), memory = enter_bus(list->mmio, cpu);
    while ((bell = next_rung(list, round, &count)))
        bell->ring(bell->ctx, cpu, count);
    if (memory)
        mk_bus_leave(list->mmio, cpu);
    if (ports)
        mk_bus_leave(list->ports, cpu);
}

void mk_doorbells_init(struct mk_doorbells *list, struct mk_bus *ports, struct mk_bus *mmio,
                       void (*wake)(void *ctx), void *ctx)
{
    *list = (struct mk_doorbells){
        .vm_fd = -1, .ports = ports, .mmio = mmio, .wake = wake, .ctx = ctx
    };
    pthread_mutex_init(&list->lock, NULL);
}

void mk_doorbells_register(struct mk_doorbells *list, int vm_fd)
{
    list->vm_fd = vm_fd;
    for (struct mk_doorbell *bell = list->first; bell; bell = bell->next) {
        if (bell->bus && !bell->on_ring)
            collect(bell); /* of before the reset */
        bell->moves = 0;
        register_new(bell);
    }
}

void mk_doorbells_move(struct mk_doorbells *list, const struct mk_bus *window, bool open,
                       uint64_t base)
{
    pthread_mutex_lock(&list->lock);
    for (struct mk_doorbell *bell = list->first; bell; bell = bell->next) {
        if (bell->bus != window)
            continue;
        if (!bell->exits)
            register_bell(bell, false);
        bell->shut = !open;
        bell->base = base;
        bell->moves += bell->moves <= MK_DOORBELL_MOVES;
        register_new(bell);
    }
    pthread_mutex_unlock(&list->lock);
}

void mk_doorbells_free(struct mk_doorbells *list)
{
    for (struct mk_doorbell *bell = list->first; bell; bell = bell->next)
        if (bell->bus)
            stop_watching(bell);
    list->first = NULL; /* the bus frees them */
    pthread_mutex_destroy(&list->lock);
}
