/* virtq.h - split virtqueues in guest memory: what a driver has made available, and what a device
 * has used (Virtual I/O Device 1.2, 2.7).
 *
 * All of it is read from memory that a hostile guest writes to meanwhile: every index, address and
 * length is read once and checked, and a chain has at most as many descriptors as its queue.
 * Nothing is kept here, so a queue is what its owner says it is. On any thread. */
#ifndef MK_VIRTQ_H
#define MK_VIRTQ_H

#include "base/err.h"
#include "kvm/mem.h"

#define MK_VIRTQ_MAX 1024u /* entries of a queue */

struct mk_virtq {
    uint16_t size;                 /* a power of two, MK_VIRTQ_MAX at most */
    uint64_t desc, driver, device; /* where the table, the available and the used ring are */
    bool indirect, event;          /* VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX: negotiated */
};

/* A part of a buffer: memory all of it, to write to if it is among those. */
struct mk_virtq_part {
    uint64_t at;
    uint32_t length;
};

/* A buffer: what the device reads comes before what it writes. */
struct mk_virtq_chain {
    unsigned count, readable; /* parts; so many of them are to be read */
    uint64_t read_bytes, write_bytes;
    struct mk_virtq_part part[MK_VIRTQ_MAX];
};

/* The rings lie in memory, aligned, the used one where it can be written. */
int mk_virtq_check(const struct mk_mem *mem, const struct mk_virtq *q, struct mk_err *err);
/* The head of the next buffer behind `last`, the count of those that were taken: 1; 0: there is
 * none. -1: the driver says what cannot be. */
int mk_virtq_next(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t last, uint16_t *head,
                  struct mk_err *err);
/* The buffer that begins with descriptor `head`. */
int mk_virtq_walk(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t head,
                  struct mk_virtq_chain *chain, struct mk_err *err);
/* Gives a buffer back with so many bytes written; `used` is the count of those given back before.
 */
int mk_virtq_push(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t used, uint16_t head,
                  uint32_t written, struct mk_err *err);
/* The same in two steps, for several that belong together: the driver sees none before the count
 * says so. */
int mk_virtq_put(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t used, uint16_t head,
                 uint32_t written, struct mk_err *err);
int mk_virtq_publish(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t used,
                     struct mk_err *err);
/* Bytes of what is to be read, or written, from the one at `from` on. They are there. */
bool mk_virtq_read(const struct mk_mem *mem, const struct mk_virtq_chain *chain, uint64_t from,
                   void *to, uint64_t length);
bool mk_virtq_write(const struct mk_mem *mem, const struct mk_virtq_chain *chain, uint64_t at,
                    const void *from, uint64_t length);
/* Whether the driver wants to be told that the count went from `before` to `used`. */
bool mk_virtq_wants_irq(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t before,
                        uint16_t used);
/* Asks the driver to notify once it has made more than `last` buffers available. */
void mk_virtq_want_notify(const struct mk_mem *mem, const struct mk_virtq *q, uint16_t last);

#endif
