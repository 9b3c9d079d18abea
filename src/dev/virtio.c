/* virtio.c - see virtio.h. */
#include "dev/virtio.h"

#include <errno.h>
#include <stdlib.h>

/* --- the ISR --- */

void mk_virtio_set_isr(struct mk_virtio *v, uint8_t isr)
{
    uint16_t control;
    v->isr = isr;
    mk_pci_set_irq(v->fn, isr != 0, &control);
}

void mk_virtio_interrupt(struct mk_virtio *v, uint8_t isr)
{
    mk_virtio_set_isr(v, v->isr | isr);
}

uint8_t mk_virtio_read_isr(struct mk_virtio *v)
{
    pthread_mutex_lock(&v->lock);
    uint8_t isr = v->isr;
    mk_virtio_set_isr(v, 0);
    pthread_mutex_unlock(&v->lock);
    return isr;
}

static uint64_t isr_in(void *self, struct mk_io *io)
{
    (void)io;
    return mk_virtio_read_isr(self);
}

/* --- queues --- */

bool mk_virtio_wants(const struct mk_virtio *v, unsigned i, uint16_t before)
{
    const struct mk_virtio_queue *queue = &v->queue[i];
    return queue->used != before && mk_virtq_wants_irq(v->mem, &queue->q, before, queue->used);
}

bool mk_virtio_used(struct mk_virtio *v, unsigned i, uint16_t before)
{
    bool wanted = mk_virtio_wants(v, i, before);
    if (wanted)
        mk_virtio_interrupt(v, MK_ISR_QUEUE);
    return wanted;
}

int mk_virtio_next(struct mk_virtio *v, unsigned i, uint16_t taken, uint16_t *head,
                   struct mk_err *err)
{
    const struct mk_virtq *q = &v->queue[i].q;
    int rc = mk_virtq_next(v->mem, q, taken, head, err);
    if (rc != 0)
        return rc;
    mk_virtq_want_notify(v->mem, q, taken);
    return mk_virtq_next(v->mem, q, taken, head, err);
}

void mk_virtio_start(struct mk_virtio *v, unsigned i, const struct mk_virtio_queue *queue)
{
    pthread_mutex_lock(&v->lock);
    if (!v->queue[i].on)
        v->queue[i] = *queue;
    v->queue[i].on = true;
    pthread_mutex_unlock(&v->lock);
    mk_virtio_kick(v, UINT64_C(1) << i);
}

void mk_virtio_stop(struct mk_virtio *v)
{
    pthread_mutex_lock(&v->lock);
    for (unsigned i = 0; i < MK_VIRTIO_QUEUES; i++)
        v->queue[i].on = false;
    if (v->ops->stopped)
        v->ops->stopped(v);
    pthread_mutex_unlock(&v->lock);
}

void mk_virtio_kick(struct mk_virtio *v, uint64_t mask)
{
    atomic_fetch_or(&v->kicked, mask);
    mk_doorbell_ring(&v->bell);
}

/* On the thread of the first vCPU. */
static void answer_kick(void *ctx, struct mk_cpu *cpu, uint64_t count)
{
    struct mk_virtio *v = ctx;
    uint64_t mask = atomic_exchange(&v->kicked, 0);
    (void)count;
    for (unsigned i = 0; mask && i < MK_VIRTIO_QUEUES; i++, mask >>= 1)
        if (mask & 1)
            v->ops->notify(v, i, cpu);
}

static void notify_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_virtio *v = self;
    (void)value;
    v->ops->notify(v, (unsigned)((io->address - MK_VIRTIO_NOTIFY) / 4), io->cpu);
}

/* --- life --- */

void mk_virtio_unref(struct mk_virtio *v)
{
    if (atomic_fetch_sub(&v->references, 1) > 1)
        return;
    pthread_mutex_destroy(&v->lock);
    free(v->ctx);
    v->ops->free(v);
}

static void let_go(void *self)
{
    mk_virtio_unref(self);
}

static const struct mk_io_ops isr_ops = {
    .name = "virtio ISR", .in = isr_in, .width = 1, .retire = let_go
};
static const struct mk_io_ops notify_ops = {
    .name = "virtio notify", .out = notify_out, .width = 4, .retire = let_go
};

/* A hook is one more user. */
static struct mk_hook *hook(struct mk_virtio *v, uint64_t first, uint64_t length,
                            const struct mk_io_ops *ops)
{
    struct mk_bus *bus = mk_pci_window(v->fn, 1);
    struct mk_hook *new = mk_bus_hook(bus, first, first + length - 1, ops, v, v->fn->name);
    if (new)
        atomic_fetch_add(&v->references, 1);
    return new;
}

int mk_virtio_open(struct mk_virtio *v, struct mk_pci_fn *fn, unsigned queues, struct mk_err *err)
{
    v->fn = fn;
    v->mem = fn->pci->mem;
    v->open = true;
    v->bell.ring = answer_kick;
    v->bell.ctx = v;
    atomic_store(&v->references, 1);
    pthread_mutex_init(&v->lock, NULL);
    mk_doorbell_connect(fn->pci->doorbells, &v->bell);
    atomic_fetch_add(&v->references, 1);
    v->isr_hook = hook(v, MK_VIRTIO_ISR, 1, &isr_ops);
    if (v->isr_hook && v->ops->notify)
        v->notify_hook = hook(v, MK_VIRTIO_NOTIFY, 4 * (uint64_t)queues, &notify_ops);
    if (v->isr_hook && (v->notify_hook || !v->ops->notify))
        return 0;
    mk_virtio_close(v);
    return mk_fail_errno(err, ENOMEM, "virtio");
}

static void release(struct mk_retired *retired)
{
    mk_virtio_unref(MK_CONTAINER(retired, struct mk_virtio, retired));
}

void mk_virtio_close(struct mk_virtio *v)
{
    if (!v->open)
        return;
    v->open = false;
    mk_virtio_stop(v);
    struct mk_bus *bus = mk_pci_window(v->fn, 1);
    if (v->isr_hook)
        mk_bus_unhook(bus, v->isr_hook);
    if (v->notify_hook)
        mk_bus_unhook(bus, v->notify_hook);
    mk_doorbell_remove(&v->bell);
    v->retired.release = release;
    mk_bus_retire(bus, &v->retired);
}
