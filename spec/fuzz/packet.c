/* packet.c - frames with any header, as a guest or a tap of the host's sends them, and the work
 * that is left to do on them (src/dev/packet.c). */
#include "fuzz.h"

#include "dev/packet.h"

struct work {
    unsigned frames, can;
    uint64_t bytes;
};

static bool each(void *ctx, struct mk_packet *frame)
{
    struct work *w = ctx;
    uint8_t copy = 0;
    w->frames++;
    w->bytes += frame->length;
    fuzz_check(frame->length <= MK_PACKET_LARGE);
    fuzz_check(w->can >> MK_PACKET_SUM & 1 || !(frame->flags & MK_PACKET_NEEDS_SUM));
    fuzz_check(!frame->kind || w->can >> frame->kind & 1);
    for (uint32_t i = 0; i < frame->length; i++)
        copy ^= frame->bytes[i];
    fuzz_steps += 1 + copy % 1;
    return w->frames < 5000;
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    struct work w = { .can = fuzz_u8(&in) };
    uint8_t header[MK_PACKET_HEADER] = { 0 };
    size_t n, grown;
    const uint8_t *head = fuzz_bytes(&in, sizeof(header), &n);
    memcpy(header, head, n);
    uint32_t more = fuzz_u16(&in);
    const uint8_t *rest = fuzz_bytes(&in, MK_PACKET_LARGE, &n);
    grown = n + (header[0] & 0x80 ? more : 0);
    if (grown > MK_PACKET_LARGE)
        grown = MK_PACKET_LARGE;
    struct mk_packet *frame = mk_packet_new((uint32_t)grown);
    fuzz_check(frame);
    memset(frame->bytes, 0x5a, grown);
    memcpy(frame->bytes, rest, n);
    if (mk_packet_set_header(frame, header)) {
        mk_packet_finish(frame, w.can, each, &w);
        fuzz_check(w.bytes <= (uint64_t)grown * 200);
    }
    mk_packet_unref(frame);
}

FUZZ_TARGET(packet, NULL, one)
