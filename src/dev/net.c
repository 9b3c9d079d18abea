/* net.c - see net.h. */
#include "dev/net.h"

#include <stdlib.h>

#define FROM_TAP 64u /* frames, then others have their turn */

static unsigned guest_can(const struct mk_net *net)
{
    return (unsigned)mk_net_has(net, MK_NET_GUEST_SUM) << MK_PACKET_SUM |
           (unsigned)mk_net_has(net, MK_NET_GUEST_TCP4) << MK_PACKET_TCP4 |
           (unsigned)mk_net_has(net, MK_NET_GUEST_TCP6) << MK_PACKET_TCP6;
}

/* The driver is told, and what it has is stopped. No lock is held. */
static void broken(struct mk_net *net, struct mk_cpu *cpu, const struct mk_err *err)
{
    mk_virtio_stop(&net->virtio);
    net->virtio.broken(net->virtio.ctx, cpu, err->text);
}

/* --- frames that wait --- */

static void append(struct mk_net *net, struct mk_net_waiting *new)
{
    struct mk_net_waiting **at =
        net->last && net->last->due <= new->due ? &net->last->next : &net->first;
    while (*at && (*at)->due <= new->due)
        at = &(*at)->next;
    new->next = *at;
    *at = new;
    if (!new->next)
        net->last = new;
    net->waiting++;
}

static bool add_waiting(struct mk_net *net, struct mk_packet *frame, uint64_t due)
{
    struct mk_net_waiting *new = net->waiting < MK_NET_WAITING ? malloc(sizeof(*new)) : NULL;
    if (!new) {
        net->dropped++;
        return false;
    }
    *new = (struct mk_net_waiting){ .frame = mk_packet_ref(frame), .due = due };
    append(net, new);
    return true;
}

static void remove_first(struct mk_net *net)
{
    struct mk_net_waiting *old = net->first;
    net->first = old->next;
    if (!net->first)
        net->last = NULL;
    net->waiting--;
    mk_packet_unref(old->frame);
    free(old);
}

static void drop_all(struct mk_net *net)
{
    net->dropped += net->waiting;
    while (net->first)
        remove_first(net);
}

static void kick(struct mk_net *net)
{
    mk_virtio_kick(&net->virtio, 1u << MK_NET_RECEIVE);
}

struct arrival {
    struct mk_net *net;
    uint64_t due;
    bool taken;
};

static bool arrive(void *ctx, struct mk_packet *frame)
{
    struct arrival *a = ctx;
    a->taken = add_waiting(a->net, frame, a->due);
    return a->taken;
}

bool mk_net_receive(struct mk_net *net, struct mk_packet *frame, uint64_t due)
{
    struct arrival a = { .net = net, .due = due };
    pthread_mutex_lock(&net->virtio.lock);
    if (net->virtio.queue[MK_NET_RECEIVE].on)
        a.taken = mk_packet_finish(frame, guest_can(net), arrive, &a) && a.taken;
    else
        net->dropped++;
    pthread_mutex_unlock(&net->virtio.lock);
    if (a.taken)
        kick(net);
    return a.taken;
}

static bool receive_from_hub(struct mk_hub_port *port, struct mk_packet *frame, uint64_t after)
{
    struct mk_net *net = (struct mk_net *)((char *)port - offsetof(struct mk_net, port));
    return mk_net_receive(net, frame, mk_clock_now(net->clock) + after);
}

void mk_net_plug(struct mk_net *net, struct mk_hub *hub)
{
    net->port.receive = receive_from_hub;
    mk_hub_plug(hub, &net->port);
    pthread_mutex_lock(&net->virtio.lock);
    net->hub = hub;
    pthread_mutex_unlock(&net->virtio.lock);
}

bool mk_net_put_waiting(struct mk_net *net, struct mk_packet *frame, uint64_t due)
{
    pthread_mutex_lock(&net->virtio.lock);
    bool there = add_waiting(net, frame, due);
    pthread_mutex_unlock(&net->virtio.lock);
    return there;
}

/* --- into the driver's buffers, with the lock --- */

/* One that comes from the tap, if there is room. */
static void fetch(struct mk_net *net)
{
    uint32_t length;
    const uint8_t *bytes = mk_tap_read(net->tap, &length);
    if (!bytes) {
        net->tap_watched = true;
        mk_tap_watch(net->tap);
        return;
    }
    struct arrival a = { .net = net, .due = mk_clock_now(net->clock) };
    struct mk_packet *frame = mk_packet_new(length);
    if (frame)
        memcpy(frame->bytes, bytes + MK_TAP_HEADER, length);
    if (!frame || !mk_packet_set_header(frame, bytes) ||
        !mk_packet_finish(frame, guest_can(net), arrive, &a))
        net->dropped++;
    mk_packet_unref(frame);
}

static bool is_due(const struct mk_net *net)
{
    return net->first && net->first->due <= mk_clock_now(net->clock);
}

/* The first frame that is due; NULL: none. */
static const struct mk_packet *next_frame(struct mk_net *net, unsigned *fetched)
{
    while (!is_due(net) && net->tap && !net->tap_watched && (*fetched)++ < FROM_TAP)
        fetch(net);
    return is_due(net) ? net->first->frame : NULL;
}

/* As many as there are buffers for, at most as many as may wait. */
static enum mk_filled fill_all(struct mk_net *net, struct mk_err *err)
{
    const struct mk_packet *frame;
    unsigned fetched = 0;
    for (unsigned i = 0; i < MK_NET_WAITING && (frame = next_frame(net, &fetched)); i++) {
        enum mk_filled filled = mk_net_fill(net, frame, err);
        if (filled == MK_BROKEN || filled == MK_NO_BUFFER)
            return filled;
        *(filled == MK_FILLED ? &net->received : &net->dropped) += 1;
        remove_first(net);
    }
    if (fetched > FROM_TAP)
        kick(net);
    return MK_FILLED;
}

static void hand_on(struct mk_net *net, struct mk_cpu *cpu)
{
    struct mk_virtio *v = &net->virtio;
    struct mk_err err;
    enum mk_filled filled = MK_FILLED;
    pthread_mutex_lock(&v->lock);
    uint16_t before = v->queue[MK_NET_RECEIVE].used;
    if (v->queue[MK_NET_RECEIVE].on) {
        filled = fill_all(net, &err);
        if (mk_virtio_used(v, MK_NET_RECEIVE, before))
            net->owed = false;
    }
    pthread_mutex_unlock(&v->lock);
    if (filled == MK_BROKEN)
        broken(net, cpu, &err);
}

/* --- frames of the guest --- */

/* The next one; NULL: there is none, or *rc is -1. One that is none is dropped. */
static struct mk_packet *read_frame(struct mk_net *net, int *rc, struct mk_err *err)
{
    struct mk_virtio *v = &net->virtio;
    struct mk_virtio_queue *queue = &v->queue[MK_NET_TRANSMIT];
    uint8_t header[MK_PACKET_HEADER];
    uint16_t head;
    *rc = queue->on ? mk_virtio_next(v, MK_NET_TRANSMIT, queue->taken, &head, err) : 0;
    if (*rc > 0 && mk_virtq_walk(v->mem, &queue->q, head, &net->chain, err) < 0)
        *rc = -1;
    if (*rc > 0 && net->chain.read_bytes < MK_PACKET_HEADER)
        *rc = mk_fail(err, 0, "a frame has a header of 12 bytes");
    if (*rc <= 0)
        return NULL;
    uint64_t length = net->chain.read_bytes - MK_PACKET_HEADER;
    struct mk_packet *frame = length <= MK_PACKET_LARGE ? mk_packet_new((uint32_t)length) : NULL;
    bool sound = frame && mk_virtq_read(v->mem, &net->chain, 0, header, sizeof(header)) &&
                 mk_virtq_read(v->mem, &net->chain, sizeof(header), frame->bytes, length) &&
                 mk_packet_set_header(frame, header);
    queue->taken++;
    if (mk_virtq_push(v->mem, &queue->q, queue->used++, head, 0, err) < 0)
        *rc = -1;
    *(sound ? &net->sent : &net->dropped) += 1;
    if (sound)
        return frame;
    mk_packet_unref(frame);
    return NULL;
}

static void count_dropped(struct mk_net *net)
{
    pthread_mutex_lock(&net->virtio.lock);
    net->dropped++;
    pthread_mutex_unlock(&net->virtio.lock);
}

struct telling {
    struct mk_net *net;
    struct mk_cpu *cpu;
};

static bool tell(void *ctx, struct mk_packet *frame)
{
    const struct telling *t = ctx;
    t->net->script(t->net->virtio.ctx, t->cpu, frame->bytes, frame->length);
    return t->cpu->ops->may_continue(t->cpu);
}

/* Where the guest's frames go. */
static void send(struct mk_net *net, struct mk_cpu *cpu, struct mk_packet *frame)
{
    pthread_mutex_lock(&net->virtio.lock);
    bool script = net->scripted;
    struct mk_hub *hub = script || !net->hub ? NULL : mk_hub_ref(net->hub);
    if (!script && !hub)
        net->dropped +=
            !net->tap || !mk_tap_write(net->tap, frame->header, frame->bytes, frame->length);
    pthread_mutex_unlock(&net->virtio.lock);
    if (hub)
        mk_hub_send(hub, frame, &net->port, 0);
    mk_hub_unref(hub);
    struct telling t = { net, cpu };
    if (script && !mk_packet_finish(frame, 0, tell, &t))
        count_dropped(net);
}

/* On the I/O thread. */
static void interrupt_due(void *ctx)
{
    struct mk_net *net = ctx;
    pthread_mutex_lock(&net->virtio.lock);
    net->owed_due = true;
    bool owed = net->owed;
    pthread_mutex_unlock(&net->virtio.lock);
    if (owed)
        mk_virtio_kick(&net->virtio, 1u << MK_NET_TRANSMIT);
}

/* For what was sent since `before`; with the lock. */
static void owe_interrupt(struct mk_net *net, uint16_t before)
{
    if (net->owed && net->owed_due) {
        net->owed = false;
        mk_virtio_interrupt(&net->virtio, MK_ISR_QUEUE);
    } else if (mk_virtio_wants(&net->virtio, MK_NET_TRANSMIT, before)) {
        net->owed = true;
    }
    if (net->owed && net->owed_due && !net->closed) {
        net->owed_due = false;
        mk_io_arm(&net->owed_timer, mk_now() + MK_NET_OWED_NS);
    }
}

/* One after the other, at most as many as the queue has entries; then limits have their turn. */
static void transmit(struct mk_net *net, struct mk_cpu *cpu)
{
    struct mk_virtio *v = &net->virtio;
    struct mk_err err;
    pthread_mutex_lock(&v->lock);
    int rc = v->queue[MK_NET_TRANSMIT].on;
    uint16_t before = v->queue[MK_NET_TRANSMIT].used;
    for (unsigned left = v->queue[MK_NET_TRANSMIT].q.size; left && rc > 0; left--) {
        struct mk_packet *frame = read_frame(net, &rc, &err);
        if (!frame)
            continue;
        pthread_mutex_unlock(&v->lock);
        send(net, cpu, frame);
        mk_packet_unref(frame);
        bool more = cpu->ops->may_continue(cpu);
        pthread_mutex_lock(&v->lock);
        if (!more)
            break;
    }
    if (v->queue[MK_NET_TRANSMIT].on)
        owe_interrupt(net, before);
    pthread_mutex_unlock(&v->lock);
    if (rc > 0)
        mk_virtio_kick(v, 1u << MK_NET_TRANSMIT);
    if (rc < 0)
        broken(net, cpu, &err);
}

/* --- the device --- */

static void notify(struct mk_virtio *v, unsigned queue, struct mk_cpu *cpu)
{
    if (queue == MK_NET_RECEIVE)
        hand_on((struct mk_net *)v, cpu);
    else
        transmit((struct mk_net *)v, cpu);
}

static void stopped(struct mk_virtio *v)
{
    struct mk_net *net = (struct mk_net *)v;
    drop_all(net);
    net->owed = false;
}

static void free_net(struct mk_virtio *v)
{
    struct mk_net *net = (struct mk_net *)v;
    while (net->first)
        remove_first(net);
    free(net);
}

const struct mk_virtio_ops mk_net_ops = { .notify = notify, .stopped = stopped, .free = free_net };

/* On the I/O thread. */
static void tap_ready(void *ctx)
{
    struct mk_net *net = ctx;
    pthread_mutex_lock(&net->virtio.lock);
    net->tap_watched = false;
    pthread_mutex_unlock(&net->virtio.lock);
    kick(net);
}

int mk_net_open_tap(struct mk_net *net, const char *name, struct mk_err *err)
{
    struct mk_tap *tap = mk_tap_open(name, tap_ready, net, err);
    if (!tap)
        return -1;
    pthread_mutex_lock(&net->virtio.lock);
    net->tap = tap;
    net->tap_watched = false;
    pthread_mutex_unlock(&net->virtio.lock);
    kick(net);
    return 0;
}

void mk_net_init(struct mk_net *net)
{
    net->owed_due = true;
    net->owed_timer = (struct mk_io_timer){ .fire = interrupt_due, .ctx = net };
}

void mk_net_close(struct mk_net *net)
{
    mk_net_unplug(net);
    pthread_mutex_lock(&net->virtio.lock);
    net->closed = true;
    pthread_mutex_unlock(&net->virtio.lock);
    mk_io_disarm(&net->owed_timer);
}

/* The I/O thread may be waiting for the lock, in tap_ready(). */
void mk_net_unplug(struct mk_net *net)
{
    pthread_mutex_lock(&net->virtio.lock);
    struct mk_hub *hub = net->hub;
    struct mk_tap *tap = net->tap;
    net->hub = NULL;
    net->tap = NULL;
    pthread_mutex_unlock(&net->virtio.lock);
    if (hub)
        mk_hub_unplug(hub, &net->port);
    mk_tap_close(tap);
}
