/* virtio.h - what is hot of a virtio device over PCI (Virtual I/O Device 1.2, 2.7 and 4.1): its
 * ISR, and for a device in C the notifications and the state of its queues.
 *
 * The rest of the transport is Lua's (lua/minikvm/device/virtio.lua), which starts the queues when
 * the driver is ready, and stops them. A device in C serves its queues on the threads of vCPUs: the
 * one that notifies, or the first one when another thread has kicked it; so what a driver shares
 * with it changes only while a vCPU is in the run loop. (One with threads of its own sees to that
 * itself: blk.h.) Its lock is over the queues' state and the
 * ISR, and is held while the interrupt's line is set, which never calls back. */
#ifndef MK_VIRTIO_H
#define MK_VIRTIO_H

#include "dev/doorbell.h"
#include "dev/pci.h"
#include "dev/virtq.h"

#define MK_VIRTIO_QUEUES 64
#define MK_VIRTIO_OPEN 4
#define MK_VIRTIO_ISR 0x1000u    /* in BAR 0 */
#define MK_VIRTIO_NOTIFY 0x3000u /* four bytes for each queue */
#define MK_ISR_QUEUE 1u          /* 4.1.4.5 */
#define MK_ISR_CONFIG 2u

struct mk_virtio;

struct mk_virtio_ops {
    /* Looks at a queue; also at one that is off, or has nothing new. No lock is held. */
    void (*notify)(struct mk_virtio *v, unsigned queue, struct mk_cpu *cpu);
    /* The queues were stopped: forgets what belongs to them. With the lock; may be NULL. */
    void (*stopped)(struct mk_virtio *v);
    /* Buffers of before they were stopped are in use: the driver's reset is not over. With the
     * lock; may be NULL. */
    bool (*busy)(struct mk_virtio *v);
    void (*free)(struct mk_virtio *v); /* nobody knows it any more */
};

struct mk_virtio_queue {
    struct mk_virtq q;
    bool on;
    uint16_t taken, used;          /* buffers taken and given back, modulo 65536 */
    uint16_t open[MK_VIRTIO_OPEN]; /* heads of those that were taken and are to be begun (again) */
    unsigned open_count;
};

struct mk_virtio {
    const struct mk_virtio_ops *ops; /* `notify` NULL: a device in Lua */
    struct mk_pci_fn *fn;
    const struct mk_mem *mem;
    pthread_mutex_t lock;
    uint8_t isr;
    uint64_t features; /* that were negotiated */
    struct mk_virtio_queue queue[MK_VIRTIO_QUEUES];
    _Atomic uint64_t kicked; /* queues that the first vCPU shall look at */
    struct mk_doorbell bell;
    struct mk_hook *isr_hook, *notify_hook;
    _Atomic unsigned references;
    struct mk_retired retired;
    bool open;
    /* The driver has said what cannot be. On the vCPU's thread, without a lock. */
    void (*broken)(void *ctx, struct mk_cpu *cpu, const char *why);
    void *ctx; /* from malloc(): it goes with it */
};

/* Hooks it into BAR 0 of a function with so many queues; ops, broken and ctx are filled in. It has
 * two users then: its maker and the bus. */
int mk_virtio_open(struct mk_virtio *v, struct mk_pci_fn *fn, unsigned queues, struct mk_err *err);
/* Nothing reaches it any more; vCPUs may still be inside. Also twice. */
void mk_virtio_close(struct mk_virtio *v);
void mk_virtio_unref(struct mk_virtio *v);

/* A queue is on from now on, and looked at; all of them are off. */
void mk_virtio_start(struct mk_virtio *v, unsigned i, const struct mk_virtio_queue *queue);
void mk_virtio_stop(struct mk_virtio *v);
/* The first vCPU looks at the queues in `mask`, at its next trip. On any thread. */
void mk_virtio_kick(struct mk_virtio *v, uint64_t mask);
/* Bits of the ISR, and the interrupt: added; and as in a snapshot. With the lock. */
void mk_virtio_interrupt(struct mk_virtio *v, uint8_t isr);
void mk_virtio_set_isr(struct mk_virtio *v, uint8_t isr);
/* Whether the driver wants an interrupt, now that `used` of a queue has grown from `before`; the
 * same, and it has it. */
bool mk_virtio_wants(const struct mk_virtio *v, unsigned i, uint16_t before);
bool mk_virtio_used(struct mk_virtio *v, unsigned i, uint16_t before);
/* Looks for a buffer, and asks for a notification if there is none, as mk_virtq_next(). With the
 * lock. */
int mk_virtio_next(struct mk_virtio *v, unsigned i, uint16_t taken, uint16_t *head,
                   struct mk_err *err);
/* As the driver reads it, which clears it. */
uint8_t mk_virtio_read_isr(struct mk_virtio *v);

#endif
