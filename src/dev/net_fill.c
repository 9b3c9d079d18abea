/* net_fill.c - a frame on its way into a driver's buffers: into one, or, when the driver merges
 * them, into several (Virtual I/O Device 1.2, 5.1.6.3.2). See net.h. With the card's lock. */
#include "dev/net.h"

/* A frame on its way into one buffer, or several. */
struct filling {
    struct mk_net *net;
    const struct mk_packet *frame;
    uint64_t done, total;
    unsigned count;
    uint64_t count_at[2]; /* where the two bytes of the count of buffers are */
};

/* The address of byte `i` of what is to be written. */
static uint64_t address_of(const struct mk_virtq_chain *chain, uint64_t i)
{
    unsigned part = chain->readable;
    while (i >= chain->part[part].length)
        i -= chain->part[part++].length;
    return chain->part[part].at + i;
}

/* As much as goes into the chain. */
static bool fill_chain(struct filling *f, uint32_t *written)
{
    const struct mk_virtq_chain *chain = &f->net->chain;
    const struct mk_mem *mem = f->net->virtio.mem;
    uint64_t left = f->total - f->done, at = 0;
    uint64_t bytes = left < chain->write_bytes ? left : chain->write_bytes;
    bool there = true;
    if (f->done == 0) {
        at = MK_PACKET_HEADER;
        there = mk_virtq_write(mem, chain, 0, f->frame->header, at);
        for (unsigned i = 0; i < 2; i++)
            f->count_at[i] = address_of(chain, MK_PACKET_HEADER - 2 + i);
    }
    const uint8_t *from = f->frame->bytes + f->done + at - MK_PACKET_HEADER;
    there = there && mk_virtq_write(mem, chain, at, from, bytes - at);
    f->done += bytes;
    *written = (uint32_t)bytes;
    return there;
}

static enum mk_filled check_chain(const struct filling *f, struct mk_err *err)
{
    const struct mk_virtq_chain *chain = &f->net->chain;
    if (chain->write_bytes >= f->total - f->done)
        return MK_FILLED;
    if (!mk_net_has(f->net, MK_NET_MERGED))
        return MK_TOO_LONG;
    if (chain->write_bytes >= (f->done ? 1 : MK_PACKET_HEADER))
        return MK_FILLED;
    mk_fail(err, 0, "a buffer has no room for the header of a frame");
    return MK_BROKEN;
}

static enum mk_filled add_buffer(struct filling *f, struct mk_err *err)
{
    struct mk_virtio *v = &f->net->virtio;
    const struct mk_virtio_queue *queue = &v->queue[MK_NET_RECEIVE];
    uint16_t head, more = (uint16_t)f->count;
    int rc = mk_virtio_next(v, MK_NET_RECEIVE, (uint16_t)(queue->taken + more), &head, err);
    if (rc == 0) /* not even all of them together may be large enough */
        return f->count < queue->q.size ? MK_NO_BUFFER : MK_TOO_LONG;
    if (rc < 0)
        return MK_BROKEN;
    if (mk_virtq_walk(v->mem, &queue->q, head, &f->net->chain, err) < 0)
        return MK_BROKEN;
    enum mk_filled fits = check_chain(f, err);
    if (fits != MK_FILLED)
        return fits;
    uint32_t bytes;
    if (!fill_chain(f, &bytes)) {
        mk_fail(err, 0, "a buffer is not in RAM any more");
        return MK_BROKEN;
    }
    f->count++;
    return mk_virtq_put(v->mem, &queue->q, (uint16_t)(queue->used + more), head, bytes, err) < 0
               ? MK_BROKEN
               : MK_FILLED;
}

/* Nothing is given to the driver before all of the frame is there. */
enum mk_filled mk_net_fill(struct mk_net *net, const struct mk_packet *frame, struct mk_err *err)
{
    struct mk_virtio_queue *queue = &net->virtio.queue[MK_NET_RECEIVE];
    struct filling f = { .net = net, .frame = frame, .total = MK_PACKET_HEADER + frame->length };
    while (f.done < f.total) {
        enum mk_filled filled = add_buffer(&f, err);
        if (filled != MK_FILLED)
            return filled;
    }
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t byte = (uint8_t)(f.count >> 8 * i);
        mk_mem_write(net->virtio.mem, f.count_at[i], &byte, 1);
    }
    queue->taken = (uint16_t)(queue->taken + f.count);
    queue->used = (uint16_t)(queue->used + f.count);
    return mk_virtq_publish(net->virtio.mem, &queue->q, queue->used, err) < 0 ? MK_BROKEN
                                                                              : MK_FILLED;
}
