/* packet.h - Ethernet frames on their way between network cards, and the work that a card leaves to
 * another one: a checksum that is not there yet, a TCP segment larger than the wire takes (Virtual
 * I/O Device 1.2, 5.1.6). Where a receiver does not do it, it is done here.
 *
 * A frame does not change once others know it. On any thread. */
#ifndef MK_PACKET_H
#define MK_PACKET_H

#include "base/util.h"

#include <stdatomic.h>

#define MK_PACKET_MIN 14u
#define MK_PACKET_MAX 65535u /* of one that is whole */
#define MK_PACKET_LARGE                                                                            \
    (65535u + 18u)           /* of one to be cut: an IP packet behind two addresses, a tag */
#define MK_PACKET_HEADER 12u /* bytes before it in a virtqueue, at a tap */

#define MK_PACKET_NEEDS_SUM 1u /* flags */
#define MK_PACKET_TCP4 1u      /* kind */
#define MK_PACKET_TCP6 4u

struct mk_packet {
    _Atomic unsigned references;
    union { /* what is to be done: all zero when there is nothing */
        struct {
            uint8_t flags, kind; /* kind: 0, or what it is to be cut as */
            uint16_t headers;    /* bytes before the first one of the payload */
            uint16_t segment;    /* of the payload, bytes in each */
            uint16_t sum_from;   /* the checksum is over the bytes from here on */
            uint16_t sum_at;     /* and lies so many behind that */
            uint16_t buffers;    /* 0 */
        };
        uint8_t header[MK_PACKET_HEADER]; /* the same as struct virtio_net_hdr (5.1.6) */
    };
    uint32_t length;
    uint8_t bytes[];
};

/* Room for so many bytes; NULL when memory ran out. Its maker has a reference. */
struct mk_packet *mk_packet_new(uint32_t length);
struct mk_packet *mk_packet_ref(struct mk_packet *frame);
void mk_packet_unref(struct mk_packet *frame);

/* What is to be done, of a struct virtio_net_hdr of somebody's: false when the frame, whose bytes
 * are there, is none for which that can be done. */
bool mk_packet_set_header(struct mk_packet *frame, const uint8_t *header);

/* Calls `each` with frames that need no work but that in `can`, a set of 1 << kind, and 1 <<
 * MK_PACKET_SUM for checksums, in their order, until it says false; with the frame itself when that
 * is one. It takes a reference if it keeps it. False when memory ran out. */
#define MK_PACKET_SUM 7
bool mk_packet_finish(struct mk_packet *frame, unsigned can,
                      bool (*each)(void *ctx, struct mk_packet *frame), void *ctx);

#endif
