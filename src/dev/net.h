/* net.h - virtio's network card (Virtual I/O Device 1.2, 5.1).
 *
 * What a guest sends is read on the thread of its vCPU, and goes to a hub, to a tap of the host's,
 * or to a script. A frame for a guest waits in its card until the guest's own first vCPU puts it
 * into the driver's buffers; so no thread touches another VM's memory, and a snapshot of a VM that
 * does not run has either the frame that waits, or the buffer with it. MK_NET_WAITING wait at most;
 * those of the host's wait there while the driver has no buffers. */
#ifndef MK_NET_H
#define MK_NET_H

#include "dev/hub.h"
#include "dev/packet.h"
#include "dev/virtio.h"
#include "io/clock.h"
#include "io/tap.h"

#define MK_NET_WAITING 256u
#define MK_NET_OWED_NS 500000u
#define MK_NET_RECEIVE 0u /* queues */
#define MK_NET_TRANSMIT 1u
#define MK_NET_GUEST_SUM 1u /* features, 5.1.3 */
#define MK_NET_GUEST_TCP4 7u
#define MK_NET_GUEST_TCP6 8u
#define MK_NET_MERGED 15u
#define MK_NET_FEATURES                                                                            \
    (1u << 0 | 1u << 1 | 1u << 7 | 1u << 8 | 1u << 11 | 1u << 12 | 1u << 15) /* 5.1.3 */

struct mk_net_waiting {
    struct mk_packet *frame;
    uint64_t due; /* by the VM's clock */
    struct mk_net_waiting *next;
};

struct mk_net {
    struct mk_virtio virtio; /* first; its lock is over all of it */
    const struct mk_clock *clock;
    struct mk_net_waiting *first, *last; /* the earliest first */
    unsigned waiting;
    uint64_t sent, received, dropped;
    struct mk_hub *hub;      /* on which it is; NULL: none */
    struct mk_hub_port port; /* its end of that */
    struct mk_tap *tap;      /* NULL: none */
    bool tap_watched;
    bool scripted; /* the script has what the guest sends, not hub or tap */
    /* It gets a frame that needs no more work, on the vCPU's thread without a lock. */
    void (*script)(void *ctx, struct mk_cpu *cpu, const uint8_t *bytes, uint32_t length);
    struct mk_virtq_chain chain;
    bool owed, owed_due; /* an interrupt for what was sent; it is time for it */
    bool closed;         /* nothing of it is on the I/O thread any more */
    struct mk_io_timer owed_timer;
};

extern const struct mk_virtio_ops mk_net_ops;

/* After mk_virtio_open(). */
void mk_net_init(struct mk_net *net);
/* A frame for the guest, at a time by its VM's clock; the reference stays the caller's. False when
 * it was dropped. On any thread, while the card is open. */
bool mk_net_receive(struct mk_net *net, struct mk_packet *frame, uint64_t due);
/* As in a snapshot, whatever the driver can do. */
bool mk_net_put_waiting(struct mk_net *net, struct mk_packet *frame, uint64_t due);
/* It is on a hub; after mk_net_unplug(). */
void mk_net_plug(struct mk_net *net, struct mk_hub *hub);
/* It is on no hub and no tap any more; the same before mk_virtio_close(), when a vCPU may be
 * inside.
 */
void mk_net_unplug(struct mk_net *net);
void mk_net_close(struct mk_net *net);
/* Opens a tap for it. */
int mk_net_open_tap(struct mk_net *net, const char *name, struct mk_err *err);

static inline bool mk_net_has(const struct mk_net *net, unsigned feature)
{
    return net->virtio.features >> feature & 1;
}

/* net_fill.c: puts a frame into the driver's buffers. Nothing has happened when there are too few
 * of them yet, they are too small for it, or what they are cannot be (*err). */
enum mk_filled { MK_FILLED, MK_NO_BUFFER, MK_TOO_LONG, MK_BROKEN };
enum mk_filled mk_net_fill(struct mk_net *net, const struct mk_packet *frame, struct mk_err *err);

#endif
