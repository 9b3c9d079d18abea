/* rsp.c - bytes from a debugger (src/codec/rsp.c). What the packets say is in the gdb target. */
#include "fuzz.h"

#include "codec/rsp.h"

static struct mk_rsp in;

/* What was taken, encoded and taken once more, is the same. */
static void round_trip(void)
{
    static struct mk_rsp other;
    struct mk_bytes out = { 0 };
    enum mk_rsp_event event = MK_RSP_MORE;
    mk_rsp_encode(&out, in.data, in.length);
    bool runs = memchr(out.data, '*', out.length) || memchr(out.data, '}', out.length);
    memset(&other, 0, offsetof(struct mk_rsp, data));
    for (size_t i = 0; i < out.length; i++)
        event = mk_rsp_take(&other, out.data[i]);
    fuzz_check(event == MK_RSP_PACKET);
    fuzz_check(runs || (other.length == in.length && memcmp(other.data, in.data, in.length) == 0));
    mk_bytes_free(&out);
}

static void one(const uint8_t *bytes, size_t length)
{
    static char digits[2 * MK_RSP_MOST];
    static uint8_t back[MK_RSP_MOST];
    memset(&in, 0, offsetof(struct mk_rsp, data));
    for (size_t i = 0; i < length; i++) {
        fuzz_steps++;
        enum mk_rsp_event event = mk_rsp_take(&in, bytes[i]);
        fuzz_check(in.length <= MK_RSP_MOST);
        if (event != MK_RSP_PACKET)
            continue;
        round_trip();
        mk_rsp_hex(digits, in.data, in.length);
        fuzz_check(mk_rsp_unhex(back, digits, 2 * in.length));
        fuzz_check(memcmp(back, in.data, in.length) == 0);
        mk_rsp_unhex(back, (const char *)in.data, in.length);
    }
}

FUZZ_TARGET(rsp, NULL, one)
