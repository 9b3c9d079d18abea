/* virtq.c - see virtq.h. Numbers in the rings are little-endian, like the host's. */
#include "dev/virtq.h"

#include <errno.h>
#include <stdatomic.h>

#define DESCRIPTOR 16u
#define USED_ELEMENT 8u
#define RING 4u /* of both rings: flags and index come first */
#define NEXT 1u
#define WRITE 2u
#define INDIRECT 4u
#define NO_INTERRUPT 1u

typedef unsigned long long ull;

static int malformed(struct mk_err *err, const char *what, ull number)
{
    return mk_fail(err, EBADMSG, "%s (%llu)", what, number);
}

static bool get16(const struct mk_mem *mem, uint64_t at, uint16_t *value)
{
    return mk_mem_read(mem, at, value, sizeof(*value));
}

static bool put16(const struct mk_mem *mem, uint64_t at, uint16_t value)
{
    return mk_mem_write(mem, at, &value, sizeof(value));
}

/* Also of a queue that was checked: its size is a register, which scripts and snapshots can change.
 */
static int check_size(const struct mk_virtq *q, struct mk_err *err)
{
    if (q->size == 0 || q->size > MK_VIRTQ_MAX || q->size & (q->size - 1))
        return malformed(err, "the size of a queue is a power of two, 1024 at most", q->size);
    return 0;
}

int mk_virtq_check(const struct mk_mem *mem, const struct mk_virtq *q, struct mk_err *err)
{
    uint64_t size = q->size;
    if (check_size(q, err) < 0)
        return -1;
    if (q->desc % DESCRIPTOR || q->driver % 2 || q->device % 4)
        return malformed(err, "a ring is not aligned", q->size);
    if (!mk_mem_has(mem, q->desc, size * DESCRIPTOR, false) ||
        !mk_mem_has(mem, q->driver, RING + 2 * size + 2, false) ||
        !mk_mem_has(mem, q->device, RING + USED_ELEMENT * size + 2, true))
        return malformed(err, "a ring is not all in RAM", q->size);
    return 0;
}

int mk_virtq_next(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t last, uint16_t *head,
                  struct mk_err *err)
{
    uint16_t index;
    if (check_size(q, err) < 0)
        return -1;
    if (!get16(mem, q->driver + 2, &index))
        return malformed(err, "the available ring is not in RAM", 0);
    uint16_t waiting = (uint16_t)(index - last);
    if (waiting == 0)
        return 0;
    if (waiting > q->size)
        return malformed(err, "more buffers are available than the queue has entries", waiting);
    atomic_thread_fence(memory_order_acquire); /* the entry was written before the index */
    if (!get16(mem, q->driver + RING + 2 * (uint64_t)(last % q->size), head))
        return malformed(err, "the available ring is not in RAM", 0);
    if (*head >= q->size)
        return malformed(err, "a buffer begins behind the descriptor table", *head);
    return 1;
}

/* One, as it lies in memory; it is read once. */
struct descriptor {
    uint64_t at;
    uint32_t length;
    uint16_t flags, next;
};
_Static_assert(sizeof(struct descriptor) == DESCRIPTOR, "2.7.5");

static int read_descriptor(const struct mk_mem *mem, uint64_t table, unsigned i,
                           struct descriptor *d, struct mk_err *err)
{
    return mk_mem_read(mem, table + (uint64_t)i * DESCRIPTOR, d, sizeof(*d))
               ? 0
               : malformed(err, "a descriptor is not in RAM", i);
}

static int add_part(const struct mk_mem *mem, struct mk_virtq_chain *chain,
                    const struct descriptor *d, struct mk_err *err)
{
    bool write = d->flags & WRITE;
    if (!write && chain->readable < chain->count)
        return malformed(err, "a part to read follows one to write", chain->count);
    if (d->length && !mk_mem_has(mem, d->at, d->length, write))
        return mk_fail(err, EBADMSG, "%u bytes at 0x%llx are not all in RAM", d->length,
                       (ull)d->at);
    chain->part[chain->count++] = (struct mk_virtq_part){ d->at, d->length };
    chain->readable += !write;
    *(write ? &chain->write_bytes : &chain->read_bytes) += d->length;
    return 0;
}

/* Descriptors of one table, up to the last of the chain, or to one that leads to another table. */
static int walk_table(const struct mk_mem *mem, uint64_t table, unsigned entries, unsigned i,
                      unsigned most, struct mk_virtq_chain *chain, struct descriptor *d,
                      struct mk_err *err)
{
    for (;;) {
        if (i >= entries)
            return malformed(err, "a descriptor lies behind its table", i);
        if (chain->count >= most)
            return malformed(err, "a buffer has more descriptors than its queue", most);
        if (read_descriptor(mem, table, i, d, err) < 0)
            return -1;
        if (d->flags & INDIRECT)
            return d->flags & NEXT ? malformed(err, "an indirect descriptor has a next one", i) : 0;
        if (add_part(mem, chain, d, err) < 0)
            return -1;
        if (!(d->flags & NEXT))
            return 0;
        i = d->next;
    }
}

int mk_virtq_walk(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t head,
                  struct mk_virtq_chain *chain, struct mk_err *err)
{
    struct descriptor d;
    chain->count = chain->readable = 0;
    chain->read_bytes = chain->write_bytes = 0;
    if (check_size(q, err) < 0 ||
        walk_table(mem, q->desc, q->size, head, q->size, chain, &d, err) < 0)
        return -1;
    if (!(d.flags & INDIRECT))
        return 0;
    if (!q->indirect)
        return malformed(err, "an indirect descriptor was not negotiated", head);
    if (d.length == 0 || d.length % DESCRIPTOR)
        return malformed(err, "an indirect table has no whole descriptors", d.length);
    if (walk_table(mem, d.at, d.length / DESCRIPTOR, 0, q->size, chain, &d, err) < 0)
        return -1;
    return d.flags & INDIRECT ? malformed(err, "an indirect descriptor in an indirect table", head)
                              : 0;
}

int mk_virtq_put(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t used, uint16_t head,
                 uint32_t written, struct mk_err *err)
{
    const uint32_t element[] = { head, written };
    if (check_size(q, err) < 0)
        return -1;
    uint64_t at = q->device + RING + USED_ELEMENT * (uint64_t)(used % q->size);
    return mk_mem_write(mem, at, element, sizeof(element))
               ? 0
               : malformed(err, "the used ring is not in RAM", used);
}

int mk_virtq_publish(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t used,
                     struct mk_err *err)
{
    atomic_thread_fence(memory_order_release); /* after what it tells of */
    return put16(mem, q->device + 2, used) ? 0
                                           : malformed(err, "the used ring is not in RAM", used);
}

int mk_virtq_push(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t used, uint16_t head,
                  uint32_t written, struct mk_err *err)
{
    if (mk_virtq_put(mem, q, used, head, written, err) < 0)
        return -1;
    return mk_virtq_publish(mem, q, (uint16_t)(used + 1), err);
}

/* --- the bytes of a buffer --- */

/* The bytes of a part from *skip on, `left` at most; their address. */
static uint64_t piece_of(const struct mk_virtq_part *part, uint64_t *skip, uint64_t left,
                         uint64_t *at)
{
    uint64_t skipped = *skip < part->length ? *skip : part->length;
    uint64_t n = part->length - skipped;
    *skip -= skipped;
    *at = part->at + skipped;
    return n < left ? n : left;
}

bool mk_virtq_read(const struct mk_mem *mem, const struct mk_virtq_chain *chain, uint64_t from,
                   void *to, uint64_t length)
{
    for (unsigned i = 0; i < chain->readable && length; i++) {
        uint64_t at, n = piece_of(&chain->part[i], &from, length, &at);
        if (n && !mk_mem_read(mem, at, to, n))
            return false;
        to = (char *)to + n;
        length -= n;
    }
    return length == 0;
}

bool mk_virtq_write(const struct mk_mem *mem, const struct mk_virtq_chain *chain, uint64_t at,
                    const void *from, uint64_t length)
{
    for (unsigned i = chain->readable; i < chain->count && length; i++) {
        uint64_t to, n = piece_of(&chain->part[i], &at, length, &to);
        if (n && !mk_mem_write(mem, to, from, n))
            return false;
        from = (const char *)from + n;
        length -= n;
    }
    return length == 0;
}

bool mk_virtq_wants_irq(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t before,
                        uint16_t used)
{
    uint16_t value;
    atomic_thread_fence(memory_order_seq_cst); /* after the index was written */
    if (!q->event)
        return get16(mem, q->driver, &value) && !(value & NO_INTERRUPT);
    return get16(mem, q->driver + RING + 2 * (uint64_t)q->size, &value) &&
           (uint16_t)(used - value - 1) < (uint16_t)(used - before);
}

void mk_virtq_want_notify(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t last)
{
    if (q->event)
        put16(mem, q->device + RING + USED_ELEMENT * (uint64_t)q->size, last);
    atomic_thread_fence(memory_order_seq_cst); /* before the available index is looked at again */
}
