/* rsp.h - packets of gdb's remote serial protocol: "$data#sum" as bytes come, and for sending.
 * Debugging with GDB, appendix E.1: escapes ('}'), sums, run lengths ('*', in what we send).
 *
 * What comes is a stranger's: a packet has room for MK_RSP_MOST bytes, a longer one is dropped to
 * its end and reported. Belongs to one thread at a time. */
#ifndef MK_RSP_H
#define MK_RSP_H

#include "codec/bytes.h"

#define MK_RSP_MOST (256u << 10) /* bytes between '$' and '#', escapes undone */

enum mk_rsp_event {
    MK_RSP_MORE,      /* nothing is complete yet */
    MK_RSP_PACKET,    /* data[0..length) */
    MK_RSP_INTERRUPT, /* the byte 3 outside a packet: Ctrl-C */
    MK_RSP_ACK,       /* '+' */
    MK_RSP_AGAIN,     /* '-': the other side did not get the last packet */
    MK_RSP_DAMAGED,   /* a packet whose sum is wrong or no sum */
    MK_RSP_TOO_LONG,
};

enum mk_rsp_state { MK_RSP_OUTSIDE, MK_RSP_INSIDE, MK_RSP_SUM, MK_RSP_SUM_LOW };

struct mk_rsp {
    enum mk_rsp_state state;
    bool escaped, too_long, no_sum;
    uint8_t sum, expected; /* of what came; as its sender says */
    size_t length;
    uint8_t data[MK_RSP_MOST];
};

/* The next byte. After PACKET the data stays until the next '$'. */
enum mk_rsp_event mk_rsp_take(struct mk_rsp *in, uint8_t byte);

/* Adds `data` to `out` as a packet, repetitions as run lengths. */
void mk_rsp_encode(struct mk_bytes *out, const uint8_t *data, size_t length);

/* Bytes as hexadecimal digits, two for each; and back: false when they are none, or an odd number.
 */
void mk_rsp_hex(char *to, const uint8_t *bytes, size_t length);
bool mk_rsp_unhex(uint8_t *to, const char *digits, size_t length);

#endif
