/* packet.c - see packet.h. Checksums: RFC 1071; the headers: RFC 791, 8200, 9293. */
#include "dev/packet.h"

#include <stdlib.h>

#define TAG 4u /* IEEE 802.1Q */
#define IP4_MIN 20u
#define IP6 40u
#define TCP 6u
#define TCP_MIN 20u
#define TCP_SUM 16u /* in its header */
#define FIN 0x01u
#define PSH 0x08u
#define CWR 0x80u

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

/* --- life --- */

struct mk_packet *mk_packet_new(uint32_t length)
{
    struct mk_packet *frame = malloc(sizeof(*frame) + length);
    if (frame)
        *frame = (struct mk_packet){ .references = 1, .length = length };
    return frame;
}

struct mk_packet *mk_packet_ref(struct mk_packet *frame)
{
    atomic_fetch_add(&frame->references, 1);
    return frame;
}

void mk_packet_unref(struct mk_packet *frame)
{
    if (frame && atomic_fetch_sub(&frame->references, 1) == 1)
        free(frame);
}

/* --- what is to be done --- */

/* Where IP begins; the type of what is there. */
static uint32_t network_at(const struct mk_packet *frame, unsigned *type)
{
    uint32_t at = 14;
    *type = get16(frame->bytes + 12);
    if ((*type == 0x8100 || *type == 0x88a8) && frame->length >= at + TAG) {
        *type = get16(frame->bytes + 16);
        at += TAG;
    }
    return at;
}

/* The header of IP is all there, and says that TCP follows where the checksum begins. */
static bool is_tcp(const struct mk_packet *frame, uint8_t kind)
{
    unsigned type;
    uint32_t at = network_at(frame, &type);
    const uint8_t *ip = frame->bytes + at;
    if (kind == MK_PACKET_TCP4)
        return type == 0x0800 && frame->length >= at + IP4_MIN && ip[0] >> 4 == 4 &&
               (ip[0] & 15u) * 4 >= IP4_MIN && ip[9] == TCP &&
               frame->sum_from == at + (ip[0] & 15u) * 4;
    return type == 0x86dd && frame->length >= at + IP6 && ip[0] >> 4 == 6 &&
           frame->sum_from >= at + IP6 && (frame->sum_from > at + IP6 || ip[6] == TCP);
}

static bool can_cut(struct mk_packet *frame)
{
    if (!(frame->flags & MK_PACKET_NEEDS_SUM) || frame->sum_at != TCP_SUM || !frame->segment ||
        !is_tcp(frame, frame->kind) || frame->length < frame->sum_from + TCP_MIN)
        return false;
    uint32_t size = (frame->bytes[frame->sum_from + 12] >> 4) * 4u;
    frame->headers = (uint16_t)(frame->sum_from + size);
    return size >= TCP_MIN && frame->headers < frame->length;
}

bool mk_packet_set_header(struct mk_packet *frame, const uint8_t *header)
{
    memcpy(frame->header, header, sizeof(frame->header));
    frame->flags &= MK_PACKET_NEEDS_SUM;
    frame->headers = frame->buffers = 0;
    if (!frame->flags)
        frame->sum_from = frame->sum_at = 0;
    if (!frame->kind)
        frame->segment = 0;
    if (frame->length < MK_PACKET_MIN)
        return false;
    if (frame->flags && (frame->sum_from < MK_PACKET_MIN ||
                         (uint32_t)frame->sum_from + frame->sum_at + 2 > frame->length))
        return false;
    if (frame->kind == 0)
        return frame->length <= MK_PACKET_MAX;
    return (frame->kind == MK_PACKET_TCP4 || frame->kind == MK_PACKET_TCP6) &&
           frame->length <= MK_PACKET_LARGE && can_cut(frame);
}

/* --- checksums --- */

static uint64_t sum(uint64_t start, const uint8_t *bytes, uint32_t length)
{
    for (; length >= 2; bytes += 2, length -= 2)
        start += get16(bytes);
    return length ? start + ((unsigned)bytes[0] << 8) : start;
}

static unsigned fold(uint64_t value)
{
    while (value >> 16)
        value = (value & 0xffff) + (value >> 16);
    return (unsigned)value ^ 0xffffu;
}

/* In place, from what stands there: the sum of the pseudo header. 0 is written as its other form,
 * which UDP wants (RFC 768) and is as good for others. */
static void complete(struct mk_packet *frame)
{
    uint8_t *at = frame->bytes + frame->sum_from + frame->sum_at;
    unsigned value = fold(sum(0, frame->bytes + frame->sum_from, frame->length - frame->sum_from));
    put16(at, value ? value : 0xffff);
    memset(frame->header, 0, sizeof(frame->header));
}

static struct mk_packet *copy(const struct mk_packet *frame, uint32_t length)
{
    struct mk_packet *new = mk_packet_new(length);
    if (new)
        memcpy(new->header, frame->header, sizeof(new->header));
    return new;
}

/* --- cutting --- */

/* What IP says of its length, which the pseudo header has in its sum, too. */
static void set_lengths(struct mk_packet *part, unsigned number)
{
    unsigned type;
    uint8_t *ip = part->bytes + network_at(part, &type), *tcp = part->bytes + part->sum_from;
    uint32_t length = part->length - part->sum_from;
    uint64_t pseudo = TCP + length;
    if (part->kind == MK_PACKET_TCP4) {
        put16(ip + 2, (unsigned)(part->bytes + part->length - ip));
        put16(ip + 4, get16(ip + 4) + number);
        put16(ip + 10, 0);
        put16(ip + 10, fold(sum(0, ip, (ip[0] & 15u) * 4)));
        pseudo = sum(pseudo, ip + 12, 8);
    } else {
        put16(ip + 4, (unsigned)(part->bytes + part->length - ip) - IP6);
        pseudo = sum(pseudo, ip + 8, 32);
    }
    put16(tcp + TCP_SUM, fold(pseudo) ^ 0xffffu);
}

static struct mk_packet *part_of(const struct mk_packet *frame, uint32_t at, unsigned number)
{
    uint32_t left = frame->length - frame->headers - at;
    uint32_t bytes = left < frame->segment ? left : frame->segment;
    struct mk_packet *part = copy(frame, frame->headers + bytes);
    if (!part)
        return NULL;
    memcpy(part->bytes, frame->bytes, frame->headers);
    memcpy(part->bytes + frame->headers, frame->bytes + frame->headers + at, bytes);
    uint8_t *tcp = part->bytes + part->sum_from;
    put32(tcp + 4, get32(tcp + 4) + at);
    tcp[13] &= (uint8_t) ~((left > bytes ? FIN | PSH : 0u) | (at ? CWR : 0u));
    set_lengths(part, number);
    complete(part);
    return part;
}

static bool cut(const struct mk_packet *frame, bool (*each)(void *ctx, struct mk_packet *frame),
                void *ctx)
{
    unsigned number = 0;
    bool more = true;
    for (uint32_t at = 0; more && at < frame->length - frame->headers; at += frame->segment) {
        struct mk_packet *part = part_of(frame, at, number++);
        if (!part)
            return false;
        more = each(ctx, part);
        mk_packet_unref(part);
    }
    return true;
}

bool mk_packet_finish(struct mk_packet *frame, unsigned can,
                      bool (*each)(void *ctx, struct mk_packet *frame), void *ctx)
{
    bool sums = !frame->flags || can >> MK_PACKET_SUM & 1;
    if (frame->kind && !(sums && can >> frame->kind & 1))
        return cut(frame, each, ctx);
    if (sums) {
        each(ctx, frame);
        return true;
    }
    struct mk_packet *whole = copy(frame, frame->length);
    if (!whole)
        return false;
    memcpy(whole->bytes, frame->bytes, frame->length);
    complete(whole);
    each(ctx, whole);
    mk_packet_unref(whole);
    return true;
}
