/* test_packet.c - what one network card leaves to another: checksums (RFC 1071, and the example of
 * RFC 1624's header in reverse: a right one sums up to ffff) and the cutting of TCP segments, right
 * requests and hostile ones (Virtual I/O Device 1.2, 5.1.6). No KVM. Prints TAP. */
#include "dev/packet.h"

#include "tap.h"

#include <stdlib.h>

#define ETHERNET 14u
#define SEGMENT 100u
#define FIN 0x01
#define PSH 0x08
#define CWR 0x80

static uint8_t header[MK_PACKET_HEADER];

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static uint32_t add(uint32_t sum, const uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void ask(unsigned kind, unsigned segment, unsigned from, unsigned at)
{
    memset(header, 0, sizeof(header));
    header[0] = MK_PACKET_NEEDS_SUM;
    header[1] = (uint8_t)kind;
    const unsigned values[] = { segment, from, at };
    for (unsigned i = 0; i < MK_COUNT(values); i++) {
        header[4 + 2 * i] = (uint8_t)values[i];
        header[5 + 2 * i] = (uint8_t)(values[i] >> 8);
    }
}

/* A TCP segment as Linux leaves it to a card: the sum of the pseudo header in the checksum's place.
 */
static struct mk_packet *tcp(unsigned version, unsigned payload)
{
    unsigned ip = version == 4 ? 20 : 40, length = 20 + payload;
    struct mk_packet *p = mk_packet_new(ETHERNET + ip + length);
    uint8_t *at = p->bytes + ETHERNET, pseudo[4] = { 0, 6 };
    memset(p->bytes, 0, p->length);
    put16(p->bytes + 12, version == 4 ? 0x0800 : 0x86dd);
    for (unsigned i = 0; i < ip; i++)
        at[i] = (uint8_t)(i * 7);
    at[0] = version == 4 ? 0x45 : 0x60;
    at[version == 4 ? 9 : 6] = 6;
    put16(at + 4, 1000); /* identification of version 4 */
    put16(pseudo + 2, length);
    unsigned sum = version == 4 ? add(0, at + 12, 8) : add(0, at + 8, 32);
    at += ip;
    put16(at + 6, 500); /* sequence */
    at[12] = 0x50;
    at[13] = FIN | PSH | CWR;
    put16(at + 16, add(sum, pseudo, 4));
    for (unsigned i = 0; i < payload; i++)
        at[20 + i] = (uint8_t)(i * 31 + 1);
    ask(version == 4 ? MK_PACKET_TCP4 : MK_PACKET_TCP6, SEGMENT, ETHERNET + ip, 16);
    return p;
}

struct seen {
    unsigned version, count, bytes, most;
    bool right;
    uint8_t payload[1000];
};

/* Lengths, sums, sequence and flags of a part, as its receiver checks them. */
static bool check(void *ctx, struct mk_packet *p)
{
    struct seen *s = ctx;
    unsigned ip = s->version == 4 ? 20 : 40;
    const uint8_t *at = p->bytes + ETHERNET, *t = at + ip;
    unsigned length = p->length - ETHERNET - ip, payload = length - 20;
    uint8_t pseudo[4] = { 0, 6, (uint8_t)(length >> 8), (uint8_t)length };
    bool last = s->bytes + payload == sizeof(s->payload);
    unsigned flags = (last ? FIN | PSH : 0u) | (s->count ? 0u : CWR);
    uint32_t sum = s->version == 4 ? add(0, at + 12, 8) : add(0, at + 8, 32);
    s->right &= add(add(sum, pseudo, 4), t, length) == 0xffff && get16(t + 6) == 500 + s->bytes &&
                t[13] == flags && !p->flags && !p->kind;
    if (s->version == 4)
        s->right &= add(0, at, ip) == 0xffff && get16(at + 2) == ip + length &&
                    get16(at + 4) == 1000 + s->count;
    else
        s->right &= get16(at + 4) == length;
    memcpy(s->payload + s->bytes, t + 20, payload);
    s->bytes += payload;
    return ++s->count < s->most;
}

static void test_cut(unsigned version)
{
    struct seen s = { .version = version, .right = true, .most = 100 };
    struct mk_packet *p = tcp(version, sizeof(s.payload));
    tap_ok(mk_packet_set_header(p, header), "a segment of TCP to cut");
    const uint8_t *back = p->header;
    tap_ok(back[2] == p->headers && memcmp(back + 4, header + 4, 6) == 0 && back[1] == header[1],
           "its header is had back, with the length of its own headers");
    tap_ok(mk_packet_finish(p, 0, check, &s), "is cut");
    tap_ok(s.count == 10 && s.bytes == sizeof(s.payload), "into parts of the size that is wanted");
    tap_ok(s.right, "whose lengths, numbers, flags and sums are right");
    tap_ok(memcmp(s.payload, p->bytes + p->headers, sizeof(s.payload)) == 0, "with its payload");
    s = (struct seen){ .version = version, .right = true, .most = 3 };
    mk_packet_finish(p, 0, check, &s);
    tap_is(s.count, 3, "until nobody wants more");
    mk_packet_unref(p);
}

static bool keep(void *ctx, struct mk_packet *p)
{
    *(struct mk_packet **)ctx = mk_packet_ref(p);
    return true;
}

static void test_sum(void)
{
    struct mk_packet *p = tcp(4, 101), *got = NULL;
    ask(0, 0, ETHERNET + 20, 16);
    mk_packet_set_header(p, header);
    mk_packet_finish(p, 1u << MK_PACKET_SUM, keep, &got);
    tap_ok(got == p, "a receiver that sums up gets it as it is");
    mk_packet_unref(got);
    mk_packet_finish(p, 0, keep, &got);
    uint8_t pseudo[4] = { 0, 6, 0, 121 };
    tap_is(
        add(add(add(0, p->bytes + ETHERNET + 12, 8), pseudo, 4), got->bytes + ETHERNET + 20, 121),
        0xffff, "others a checksum, also over an odd number of bytes");
    tap_ok(p->flags && !got->flags, "in a copy");
    mk_packet_unref(got);
    mk_packet_unref(p);
}

static void refused(unsigned kind, unsigned segment, unsigned from, unsigned at, const char *name)
{
    struct mk_packet *p = tcp(4, 200);
    ask(kind, segment, from, at);
    tap_ok(!mk_packet_set_header(p, header), name);
    mk_packet_unref(p);
}

static void test_hostile(void)
{
    refused(0, 0, 60000, 16, "a sum behind the end");
    refused(0, 0, 0, 16, "one of the addresses");
    refused(0, 0, ETHERNET + 20, 65535, "a place behind the end");
    refused(MK_PACKET_TCP4, 0, ETHERNET + 20, 16, "parts without a byte");
    refused(MK_PACKET_TCP4, 100, ETHERNET + 24, 16, "TCP that is not there");
    refused(MK_PACKET_TCP4, 100, ETHERNET + 20, 6, "a sum that is not TCP's");
    refused(MK_PACKET_TCP6, 100, ETHERNET + 40, 16, "another version of IP");
    refused(3, 100, ETHERNET + 20, 16, "UDP, which was not offered");
    refused(0x81, 100, ETHERNET + 20, 16, "ECN, which was not offered");
    struct mk_packet *p = tcp(4, 0);
    tap_ok(!mk_packet_set_header(p, header), "TCP without a payload to cut");
    mk_packet_unref(p);
    p = mk_packet_new(13);
    memset(header, 0, sizeof(header));
    tap_ok(!mk_packet_set_header(p, header), "13 bytes");
    mk_packet_unref(p);
    p = mk_packet_new(65536);
    memset(p->bytes, 0, p->length);
    tap_ok(!mk_packet_set_header(p, header), "65536 bytes");
    mk_packet_unref(p);
}

/* --- whatever it says --- */

static uint64_t random_state = 1;

static uint32_t rnd(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static bool count(void *ctx, struct mk_packet *p)
{
    *(uint64_t *)ctx += p->length;
    return true;
}

static void test_fuzz(unsigned rounds)
{
    unsigned cut = 0;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < rounds; i++) {
        struct mk_packet *p = tcp(rnd(2) ? 4 : 6, rnd(300));
        p->length = rnd(4) ? p->length : rnd(p->length + 1);
        for (unsigned k = rnd(4); k; k--)
            header[rnd(MK_PACKET_HEADER)] = (uint8_t)rnd(256);
        for (unsigned k = rnd(3); k && p->length; k--)
            p->bytes[rnd(p->length)] = (uint8_t)rnd(256);
        if (mk_packet_set_header(p, header)) {
            cut += p->kind != 0;
            mk_packet_finish(p, rnd(256), count, &bytes);
        }
        mk_packet_unref(p);
    }
    printf("# %u of %u were cut, %llu bytes\n", cut, rounds, (unsigned long long)bytes);
    tap_ok(cut > rounds / 20, "fuzz: many were cut, and nothing else happened");
}

int main(int argc, char **argv)
{
    test_cut(4);
    test_cut(6);
    test_sum();
    test_hostile();
    test_fuzz(argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 20000);
    return tap_done();
}
