/* rsp.c - see rsp.h. */
#include "codec/rsp.h"

#include <string.h>

#define INTERRUPT 3
#define ESCAPE '}'
#define ESCAPED 0x20 /* an escaped byte is xored with it */
#define RUN '*'
#define RUN_BASE 29 /* a run's count is a character: so much above it */
#define LONGEST_RUN (126 - RUN_BASE)
#define SHORTEST_RUN 3 /* repetitions of a byte that is there already */

static int digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- what comes --- */

static void begin(struct mk_rsp *in)
{
    in->state = MK_RSP_INSIDE;
    in->escaped = in->too_long = in->no_sum = false;
    in->sum = in->expected = 0;
    in->length = 0;
}

static enum mk_rsp_event outside(struct mk_rsp *in, uint8_t byte)
{
    switch (byte) {
    case '$': begin(in); return MK_RSP_MORE;
    case '+': return MK_RSP_ACK;
    case '-': return MK_RSP_AGAIN;
    case INTERRUPT: return MK_RSP_INTERRUPT;
    default: return MK_RSP_MORE; /* noise between packets */
    }
}

static enum mk_rsp_event inside(struct mk_rsp *in, uint8_t byte)
{
    if (byte == '$') { /* the rest of the one before was lost */
        begin(in);
        return MK_RSP_MORE;
    }
    if (byte == '#') {
        in->state = MK_RSP_SUM;
        return MK_RSP_MORE;
    }
    in->sum = (uint8_t)(in->sum + byte);
    if (byte == ESCAPE && !in->escaped) {
        in->escaped = true;
    } else if (in->length == MK_RSP_MOST) {
        in->too_long = true;
    } else {
        in->data[in->length++] = in->escaped ? byte ^ ESCAPED : byte;
        in->escaped = false;
    }
    return MK_RSP_MORE;
}

static enum mk_rsp_event complete(struct mk_rsp *in)
{
    in->state = MK_RSP_OUTSIDE;
    if (in->no_sum || in->expected != in->sum)
        return MK_RSP_DAMAGED;
    return in->too_long ? MK_RSP_TOO_LONG : MK_RSP_PACKET;
}

enum mk_rsp_event mk_rsp_take(struct mk_rsp *in, uint8_t byte)
{
    int value;
    switch (in->state) {
    case MK_RSP_OUTSIDE: return outside(in, byte);
    case MK_RSP_INSIDE: return inside(in, byte);
    default: break;
    }
    if (byte == '$') { /* as inside */
        begin(in);
        return MK_RSP_MORE;
    }
    value = digit(byte);
    in->no_sum |= value < 0;
    in->expected = (uint8_t)(in->expected << 4 | (value & 0xf));
    if (in->state == MK_RSP_SUM_LOW)
        return complete(in);
    in->state = MK_RSP_SUM_LOW;
    return MK_RSP_MORE;
}

/* --- what goes --- */

void mk_rsp_hex(char *to, const uint8_t *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        to[2 * i] = digits[bytes[i] >> 4];
        to[2 * i + 1] = digits[bytes[i] & 0xf];
    }
}

static bool is_special(uint8_t byte)
{
    return byte == '$' || byte == '#' || byte == ESCAPE || byte == RUN;
}

/* How often a byte is repeated; a count that would be '#' or '$' is not to be sent. */
static size_t run_length(const uint8_t *data, size_t left)
{
    size_t n = 0;
    while (n + 1 < left && n < LONGEST_RUN && data[n + 1] == data[0])
        n++;
    if (n + RUN_BASE == '#' || n + RUN_BASE == '$')
        n = '#' - RUN_BASE - 1;
    return n >= SHORTEST_RUN ? n : 0;
}

/* How many bytes from here on go as they are. */
static size_t plain(const uint8_t *data, size_t left)
{
    size_t n = 0;
    while (n < left && !is_special(data[n]) &&
           !(n + 1 < left && data[n + 1] == data[n] && run_length(data + n, left - n)))
        n++;
    return n;
}

static void encode_one(struct mk_bytes *out, const uint8_t *data, size_t run)
{
    if (is_special(*data)) {
        mk_bytes_u8(out, ESCAPE);
        mk_bytes_u8(out, *data ^ ESCAPED);
        return;
    }
    mk_bytes_u8(out, *data);
    mk_bytes_u8(out, RUN);
    mk_bytes_u8(out, (uint8_t)(run + RUN_BASE));
}

void mk_rsp_encode(struct mk_bytes *out, const uint8_t *data, size_t length)
{
    size_t from = out->length + 1;
    uint8_t sum = 0;
    char digits[2];
    mk_bytes_u8(out, '$');
    for (size_t i = 0; i < length;) {
        size_t n = plain(data + i, length - i);
        mk_bytes_add(out, data + i, n);
        i += n;
        if (i < length) {
            size_t run = is_special(data[i]) ? 0 : run_length(data + i, length - i);
            encode_one(out, data + i, run);
            i += run + 1;
        }
    }
    for (size_t i = from; i < out->length && !out->failed; i++)
        sum = (uint8_t)(sum + out->data[i]);
    mk_bytes_u8(out, '#');
    mk_rsp_hex(digits, &sum, 1);
    mk_bytes_add(out, digits, sizeof(digits));
}

bool mk_rsp_unhex(uint8_t *to, const char *digits, size_t length)
{
    for (size_t i = 0; i + 1 < length; i += 2) {
        int high = digit((uint8_t)digits[i]), low = digit((uint8_t)digits[i + 1]);
        if (high < 0 || low < 0)
            return false;
        to[i / 2] = (uint8_t)(high << 4 | low);
    }
    return length % 2 == 0;
}
