/* websocket.c - see websocket.h. SHA-1 (RFC 3174) is what the handshake is made of; it protects
 * nothing there. */
#include "codec/websocket.h"

#include <string.h>

/* --- the handshake --- */

static uint32_t rotate(uint32_t word, unsigned bits)
{
    return word << bits | word >> (32 - bits);
}

static uint32_t big32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t sha1_function(unsigned t, uint32_t b, uint32_t c, uint32_t d)
{
    static const uint32_t k[] = { 0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6 };
    uint32_t f = t < 20              ? (b & c) | (~b & d)
                 : t >= 40 && t < 60 ? (b & c) | (b & d) | (c & d)
                                     : b ^ c ^ d;
    return f + k[t / 20];
}

static void sha1_block(uint32_t h[5], const uint8_t block[64])
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (unsigned t = 0; t < 80; t++) {
        w[t] =
            t < 16 ? big32(block + 4 * t) : rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
        uint32_t next = rotate(a, 5) + sha1_function(t, b, c, d) + e + w[t];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* Of less than two blocks. */
static void sha1(const uint8_t *bytes, size_t length, uint8_t digest[20])
{
    uint32_t h[5] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 };
    uint8_t blocks[128] = { 0 };
    size_t size = length < 56 ? 64 : 128;
    memcpy(blocks, bytes, length);
    blocks[length] = 0x80;
    blocks[size - 2] = (uint8_t)(length * 8 >> 8);
    blocks[size - 1] = (uint8_t)(length * 8);
    for (size_t at = 0; at < size; at += 64)
        sha1_block(h, blocks + at);
    for (unsigned i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* 20 bytes (RFC 4648, section 4). */
static void base64(const uint8_t digest[20], char text[MK_WS_ACCEPT + 1])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t bytes[21] = { 0 };
    memcpy(bytes, digest, 20);
    for (unsigned i = 0; i < 7; i++) {
        uint32_t three =
            (uint32_t)bytes[3 * i] << 16 | (uint32_t)bytes[3 * i + 1] << 8 | bytes[3 * i + 2];
        for (unsigned j = 0; j < 4; j++)
            text[4 * i + j] = digits[three >> (18 - 6 * j) & 63];
    }
    text[MK_WS_ACCEPT - 1] = '=';
    text[MK_WS_ACCEPT] = 0;
}

void mk_ws_accept(const char key[MK_WS_KEY], char accept[MK_WS_ACCEPT + 1])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t text[MK_WS_KEY + sizeof(guid) - 1], digest[20];
    memcpy(text, key, MK_WS_KEY);
    memcpy(text + MK_WS_KEY, guid, sizeof(guid) - 1);
    sha1(text, sizeof(text), digest);
    base64(digest, accept);
}

/* --- frames (5.2) --- */

#define FIN 0x80
#define MASKED 0x80

size_t mk_ws_header(uint8_t header[MK_WS_HEADER], enum mk_ws_opcode opcode, uint64_t length)
{
    size_t bytes = length < 126 ? 0 : length < 65536 ? 2 : 8;
    header[0] = (uint8_t)(FIN | opcode);
    header[1] = bytes == 0 ? (uint8_t)length : bytes == 2 ? 126 : 127;
    for (size_t i = 0; i < bytes; i++)
        header[2 + i] = (uint8_t)(length >> 8 * (bytes - 1 - i));
    return 2 + bytes;
}

static bool is_known(unsigned opcode)
{
    return opcode == MK_WS_TEXT || opcode == MK_WS_BINARY || opcode == MK_WS_CLOSE ||
           opcode == MK_WS_PING || opcode == MK_WS_PONG;
}

/* What the first two bytes say is wrong; 0: nothing. */
static int check_header(const uint8_t *bytes)
{
    unsigned opcode = bytes[0] & 15, length = bytes[1] & 127;
    if (bytes[0] & 0x70 || !(bytes[1] & MASKED))
        return -MK_WS_WRONG; /* reserved bits; a client masks what it sends */
    if (opcode == 0 || (is_known(opcode) && !(bytes[0] & FIN)))
        return opcode >= MK_WS_CLOSE ? -MK_WS_WRONG : -MK_WS_REFUSED;
    if (!is_known(opcode) || (opcode >= MK_WS_CLOSE && length > 125))
        return -MK_WS_WRONG;
    return length == 127 ? -MK_WS_TOO_BIG : 0;
}

int mk_ws_take(uint8_t *bytes, size_t have, struct mk_ws_frame *frame)
{
    if (have < 2)
        return 0;
    int wrong = check_header(bytes);
    if (wrong)
        return wrong;
    size_t length = bytes[1] & 127, at = 2;
    if (length == 126) {
        if (have < 4)
            return 0;
        length = (size_t)bytes[2] << 8 | bytes[3];
        at = 4;
        if (length > MK_WS_LONGEST || length < 126)
            return length < 126 ? -MK_WS_WRONG : -MK_WS_TOO_BIG;
    }
    if (have < at + 4 + length)
        return 0;
    const uint8_t *mask = bytes + at;
    *frame = (struct mk_ws_frame){ bytes[0] & 15, bytes + at + 4, length };
    for (size_t i = 0; i < length; i++)
        frame->data[i] ^= mask[i % 4];
    return (int)(at + 4 + length);
}
