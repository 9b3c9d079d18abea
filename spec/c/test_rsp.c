/* test_rsp.c - packets of gdb's remote serial protocol (src/codec/rsp.h). Prints TAP.
 *
 * The right bytes are those of Debugging with GDB, appendix E.1. */
#include "codec/rsp.h"
#include "tap.h"

#include <stdlib.h>

static struct mk_rsp in;

/* The last event of these bytes that is not MORE. */
static enum mk_rsp_event take(const char *bytes, size_t length)
{
    enum mk_rsp_event last = MK_RSP_MORE;
    for (size_t i = 0; i < length; i++) {
        enum mk_rsp_event event = mk_rsp_take(&in, (uint8_t)bytes[i]);
        if (event != MK_RSP_MORE)
            last = event;
    }
    return last;
}

static bool gives(const char *bytes, const char *data)
{
    return take(bytes, strlen(bytes)) == MK_RSP_PACKET && in.length == strlen(data) &&
           memcmp(in.data, data, in.length) == 0;
}

static void receives(void)
{
    tap_ok(gives("$g#67", "g"), "a packet");
    tap_ok(gives("+$#00", ""), "an empty one, after an acknowledgement");
    tap_ok(gives("noise$?#3f", "?"), "noise before a packet is passed over");
    tap_ok(gives("$X1:}\x03}\x04}]#9e", "X1:#$}"), "escapes are undone, the sum is of what came");
    tap_ok(gives("$half$g#67", "g"), "a packet whose end was lost");
    tap_ok(gives("$half#$g#67", "g"), "or whose sum was");
    tap_ok(gives("$m\x03#70", "m\x03"), "the byte 3 inside a packet is data");
    tap_is(take("\x03", 1), MK_RSP_INTERRUPT, "and outside it is Ctrl-C");
    tap_is(take("-", 1), MK_RSP_AGAIN, "a packet is wanted once more");
    tap_is(take("$g#68", 5), MK_RSP_DAMAGED, "a wrong sum");
    tap_is(take("$g#6x", 5), MK_RSP_DAMAGED, "a sum that is none");
    tap_ok(gives("$g#67", "g"), "what follows a damaged one is read");
    tap_is(take("$g#6", 4), MK_RSP_MORE, "a truncated one is not complete");
    tap_is(take("7", 1), MK_RSP_PACKET, "until the rest comes");
}

static void bounds(void)
{
    static char big[MK_RSP_MOST + 2];
    memset(big, 'a', sizeof(big));
    uint8_t sum = (uint8_t)(MK_RSP_MOST * 'a');
    char end[4];
    snprintf(end, sizeof(end), "#%02x", sum);
    take("$", 1);
    take(big, MK_RSP_MOST);
    tap_is(take(end, 3), MK_RSP_PACKET, "the longest packet");
    snprintf(end, sizeof(end), "#%02x", (uint8_t)(sum + 'a'));
    take("$", 1);
    take(big, MK_RSP_MOST + 1);
    tap_is(take(end, 3), MK_RSP_TOO_LONG, "a byte more is too long");
    tap_ok(gives("$g#67", "g"), "and only that one is lost");
}

static bool sends(const char *data, size_t length, const char *bytes)
{
    struct mk_bytes out = { 0 };
    mk_rsp_encode(&out, (const uint8_t *)data, length);
    bool same = out.length == strlen(bytes) && memcmp(out.data, bytes, out.length) == 0;
    if (!same)
        printf("# got %.*s\n", (int)out.length, (const char *)out.data);
    mk_bytes_free(&out);
    return same;
}

/* A run as its receiver undoes it. */
static bool expands(size_t count)
{
    struct mk_bytes out = { 0 };
    char *zeros = malloc(count);
    size_t got = 0;
    bool printable = true;
    memset(zeros, '0', count);
    mk_rsp_encode(&out, (const uint8_t *)zeros, count);
    for (size_t i = 1; i < out.length - 3; i++) {
        bool run = out.data[i] == '*';
        got += run ? out.data[++i] - 29u : 1;
        printable &=
            out.data[i] >= ' ' && out.data[i] <= '~' && out.data[i] != '#' && out.data[i] != '$';
    }
    free(zeros);
    mk_bytes_free(&out);
    return got == count && printable;
}

static void transmits(void)
{
    tap_ok(sends("OK", 2, "$OK#9a"), "a reply");
    tap_ok(sends("", 0, "$#00"), "the empty one");
    tap_ok(sends("a#$}*", 5, "$a}\x03}\x04}]}\x0a#c3"), "special bytes are escaped");
    tap_ok(sends("0000", 4, "$0* #7a"), "\"0000\" is \"0* \" in the manual's example");
    tap_ok(sends("000", 3, "$000#90"), "three are not worth it");
    bool all = true;
    for (size_t n = 1; n < 400; n++)
        all &= expands(n);
    tap_ok(all, "runs of every length expand to themselves, without '#' or '$' as a count");
}

static void digits(void)
{
    char text[6];
    uint8_t bytes[3] = { 0 };
    mk_rsp_hex(text, (const uint8_t *)"\x00\xff\x5a", 3);
    tap_ok(memcmp(text, "00ff5a", 6) == 0, "bytes as digits");
    tap_ok(mk_rsp_unhex(bytes, "00fF5a", 6) && memcmp(bytes, "\x00\xff\x5a", 3) == 0, "and back");
    tap_ok(!mk_rsp_unhex(bytes, "0g", 2), "what is no digit");
    tap_ok(!mk_rsp_unhex(bytes, "000", 3), "half a byte");
}

int main(void)
{
    receives();
    bounds();
    transmits();
    digits();
    return tap_done();
}
