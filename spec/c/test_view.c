/* test_view.c - a guest's screen for browsers: HTTP and WebSocket as strangers speak them
 * (src/codec/http.h, websocket.h, src/io/view.h). Prints TAP.
 *
 * The right bytes are those of RFC 6455 (1.3, 5.7, 7.4.1) and RFC 9112. */
#include "codec/http.h"
#include "codec/websocket.h"
#include "io/io.h"
#include "io/view.h"
#include "tap.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- the protocols --- */

static void handshake(void)
{
    char accept[MK_WS_ACCEPT + 1];
    mk_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", accept);
    tap_ok(strcmp(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == 0, "RFC 6455, 1.3: the answer");
}

static int take(const char *bytes, size_t length, struct mk_ws_frame *frame)
{
    static uint8_t copy[2048];
    memcpy(copy, bytes, length);
    return mk_ws_take(copy, length, frame);
}

static void frames(void)
{
    static const char hello[] = "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    struct mk_ws_frame f;
    uint8_t header[MK_WS_HEADER];
    tap_is(take(hello, 11, &f), 11, "RFC 6455, 5.7: a masked message");
    tap_ok(f.opcode == MK_WS_TEXT && f.length == 5 && memcmp(f.data, "Hello", 5) == 0, "unmasked");
    for (size_t i = 0; i < 11; i++)
        if (take(hello, i, &f) != 0)
            tap_is((int)i, -1, "it is not whole before its last byte");
    tap_is(take("\x81\x05Hello", 7, &f), -MK_WS_WRONG, "a client has to mask");
    tap_is(take("\xc1\x85", 2, &f), -MK_WS_WRONG, "reserved bits");
    tap_is(take("\x83\x80", 2, &f), -MK_WS_WRONG, "an opcode that is none");
    tap_is(take("\x01\x83", 2, &f), -MK_WS_REFUSED, "a message in several frames");
    tap_is(take("\x80\x80", 2, &f), -MK_WS_REFUSED, "a piece of one");
    tap_is(take("\x09\x80", 2, &f), -MK_WS_WRONG, "a ping in pieces");
    tap_is(take("\x89\xfe\x00\x7e", 4, &f), -MK_WS_WRONG, "a ping of 126 bytes");
    tap_is(take("\x82\xfe\x04\x01", 4, &f), -MK_WS_TOO_BIG, "more than 1024 bytes");
    tap_is(take("\x82\xff", 2, &f), -MK_WS_TOO_BIG, "64 bits of length");
    tap_is(take("\x82\xfe\x00\x05", 4, &f), -MK_WS_WRONG, "a length in too many bytes");
    tap_is((int)mk_ws_header(header, MK_WS_BINARY, 256), 4, "RFC 6455, 5.7: a header");
    tap_ok(memcmp(header, "\x82\x7e\x01\x00", 4) == 0, "of 256 bytes");
    tap_is((int)mk_ws_header(header, MK_WS_BINARY, 65536), 10, "and");
    tap_ok(memcmp(header, "\x82\x7f\0\0\0\0\0\x01\0\0", 10) == 0, "of 64 KiB");
}

static int parse(const char *head)
{
    struct mk_http_request r;
    return mk_http_parse(head, strlen(head), &r);
}

static void heads(void)
{
    struct mk_http_request r;
    static const char head[] = "GET /x HTTP/1.1\r\nHOST: \t a:1 \r\nConnection: a, UPGRADE\r\n\r\n";
    tap_is(mk_http_parse(head, strlen(head), &r), 0, "a request");
    tap_ok(mk_http_is(r.path, "/x") && mk_http_is(r.field[MK_HTTP_HOST], "a:1") &&
               mk_http_lists(r.field[MK_HTTP_CONNECTION], "upgrade") &&
               !mk_http_lists(r.field[MK_HTTP_CONNECTION], "up") && !r.field[MK_HTTP_ORIGIN].at,
           "its path and fields");
    tap_is(parse("POST / HTTP/1.1\r\n\r\n"), 405, "another method");
    tap_is(parse("GET / HTTP/1.0\r\n\r\n"), 505, "another version");
    tap_is(parse("GET x HTTP/1.1\r\n\r\n"), 400, "a path that is none");
    tap_is(parse("GET / / HTTP/1.1\r\n\r\n"), 400, "two");
    tap_is(parse("\r\n\r\n"), 400, "nothing");
    tap_is(parse("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400, "two hosts");
    tap_is(parse("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), 400, "a blank before the colon");
    tap_is(parse("GET / HTTP/1.1\r\n folded\r\n\r\n"), 400, "a folded line");
    tap_is(parse("GET / HTTP/1.1\r\nX: a\nHost: b\r\n\r\n"), 400, "a bare newline");
    tap_is(parse("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n"), 400, "a body");
}

/* --- on the wire --- */

static struct mk_view *view;
static _Atomic unsigned looks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint8_t typed[64];
static size_t typed_length;

static void look(void *ctx)
{
    (void)ctx;
    looks++;
}

static void keys(void *ctx, const uint8_t *codes, size_t count)
{
    (void)ctx;
    pthread_mutex_lock(&lock);
    memcpy(typed + typed_length, codes, count);
    typed_length += count;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static int connect_to(unsigned port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        perror("connect");
    return fd;
}

static void put(int fd, const void *bytes, size_t length)
{
    if (send(fd, bytes, length, MSG_NOSIGNAL) < 0)
        perror("send");
}

/* So many bytes, or those until the end; how many came. */
static size_t get(int fd, char *to, size_t length)
{
    size_t at = 0;
    ssize_t n;
    while (at < length && (n = recv(fd, to + at, length - at, 0)) > 0)
        at += (size_t)n;
    return at;
}

/* Sends a request for PATH below the token; the answer's status. `fd` is open when that is 101. */
static int ask(int fd, const char *host, const char *more, const char *path)
{
    char text[8192], answer[512] = "";
    size_t at = 0;
    snprintf(text, sizeof(text), "GET /%s/%s HTTP/1.1\r\nHost: %s:%u\r\n%s\r\n",
             mk_view_token(view), path, host, mk_view_port(view), more);
    put(fd, text, strlen(text));
    while (at < sizeof(answer) - 1 && !strstr(answer, "\r\n\r\n") && get(fd, answer + at, 1) == 1)
        at++;
    int status = atoi(answer + 9);
    if (status != 101)
        close(fd);
    return status;
}

#define UPGRADE                                                                                    \
    "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"       \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

static int asked(const char *host, const char *more, const char *path)
{
    return ask(connect_to(mk_view_port(view)), host, more, path);
}

/* Again until a place is free: those that have gone leave theirs a moment later. */
static int watch(void)
{
    for (;;) {
        int fd = connect_to(mk_view_port(view));
        if (ask(fd, "127.0.0.1", UPGRADE, "ws") == 101)
            return fd;
    }
}

/* The length of the next frame's data, which is in `data` as far as there is room; -1: the end. */
static long receive(int fd, char *data, size_t room, unsigned *opcode)
{
    uint8_t header[8];
    char rest[4096];
    if (get(fd, (char *)header, 2) != 2)
        return -1;
    size_t length = header[1], bytes = length == 127 ? 8 : length == 126 ? 2 : 0;
    *opcode = header[0] & 15;
    if (bytes) {
        get(fd, (char *)header, bytes);
        for (size_t i = length = 0; i < bytes; i++)
            length = length << 8 | header[i];
    }
    size_t kept = get(fd, data, length < room ? length : room);
    for (size_t left = length - kept; left;) {
        size_t n = get(fd, rest, left < sizeof(rest) ? left : sizeof(rest));
        if (!n)
            return -1;
        left -= n;
    }
    return (long)length;
}

/* What a client is told that sends these bytes: the reason of the close. */
static int closed_for(const char *bytes, size_t length)
{
    unsigned opcode = 0;
    char data[128];
    int fd = watch();
    receive(fd, data, sizeof(data), &opcode); /* the picture */
    put(fd, bytes, length);
    long got = receive(fd, data, sizeof(data), &opcode);
    int why = opcode == MK_WS_CLOSE && got == 2 ? (uint8_t)data[0] << 8 | (uint8_t)data[1] : -1;
    bool over = receive(fd, data, sizeof(data), &opcode) < 0;
    close(fd);
    return over ? why : -2;
}

static void requests(void)
{
    tap_is(asked("127.0.0.1", "", ""), 200, "the page");
    tap_is(asked("localhost", "", ""), 200, "by the host's other name");
    tap_is(asked("evil.example", "", ""), 403, "another name of this host is refused");
    tap_is(asked("127.0.0.1", "Origin: http://evil.example\r\n" UPGRADE, "ws"), 403,
           "and another page");
    tap_is(asked("127.0.0.1", "Origin: null\r\n" UPGRADE, "ws"), 403, "and one without a name");
    tap_is(asked("127.0.0.1", "", "x"), 404, "nothing else is there");
    tap_is(asked("127.0.0.1", "", "ws"), 400, "a WebSocket has to be asked for");
    tap_is(asked("127.0.0.1",
                 "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 8\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                 "ws"),
           426, "of this version");
    int fd = connect_to(mk_view_port(view));
    char text[8192], answer[16] = "";
    memset(text, 'x', sizeof(text));
    put(fd, text, 4096);
    get(fd, answer, 12);
    tap_ok(strcmp(answer, "HTTP/1.1 431") == 0, "a head that does not end");
    close(fd);
    fd = connect_to(mk_view_port(view));
    put(fd, "GET /00000000000000000000000000000000/ HTTP/1.1\r\nHost: x\r\n\r\n", 61);
    get(fd, answer, 12);
    tap_ok(strcmp(answer, "HTTP/1.1 403") == 0, "without the token nothing is told");
    close(fd);
}

static void messages(void)
{
    char data[64] = "";
    unsigned opcode = 0;
    int one = watch(), other = watch();
    tap_ok(receive(one, data, 64, &opcode) == 5 && memcmp(data, "first", 5) == 0 &&
               opcode == MK_WS_BINARY,
           "a viewer gets what is there");
    receive(other, data, 64, &opcode);
    mk_view_publish(view, "second", 6);
    tap_ok(receive(one, data, 64, &opcode) == 6 && memcmp(data, "second", 6) == 0, "what is new");
    tap_ok(receive(other, data, 64, &opcode) == 6 && memcmp(data, "second", 6) == 0,
           "and so do others");
    put(one, "\x82\x83\0\0\0\0k\x1e\x9e", 9);
    put(one, "\x82\x84\1\1\1\1j\xe1\x49\xc9", 10);
    pthread_mutex_lock(&lock);
    while (typed_length < 5)
        pthread_cond_wait(&changed, &lock);
    tap_ok(memcmp(typed, "\x1e\x9e\xe0\x48\xc8", 5) == 0, "its keys arrive");
    pthread_mutex_unlock(&lock);
    put(one, "\x89\x82\0\0\0\0hi", 8);
    tap_ok(receive(one, data, 64, &opcode) == 2 && opcode == MK_WS_PONG && data[0] == 'h', "pong");
    tap_is((int)mk_view_viewers(view), 2, "both are known");
    put(other, "\x88\x80\0\0\0\0", 6);
    tap_ok(receive(other, data, 64, &opcode) == 0 && opcode == MK_WS_CLOSE &&
               receive(other, data, 64, &opcode) < 0,
           "one goes");
    close(other);
    close(one);
}

static void strangers(void)
{
    char noise[600];
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (char)(i * 7 + 13);
    tap_is(closed_for("\x82\x03k\x1e\x9e", 5), MK_WS_WRONG, "a frame without a mask");
    tap_is(closed_for("\x82\xff\0\0\0\1\0\0\0\0", 10), MK_WS_TOO_BIG, "one of 4 GiB");
    tap_is(closed_for(noise, sizeof(noise)), MK_WS_WRONG, "noise");
    tap_is(closed_for("\x81\x81\0\0\0\0x", 7), MK_WS_REFUSED, "text");
    tap_is(closed_for("\x82\x80\0\0\0\0", 6), MK_WS_REFUSED, "a message of nothing");
    for (int i = 0; i < 50; i++)
        close(connect_to(mk_view_port(view)));
    int status;
    while ((status = asked("127.0.0.1", "", "")) == 0)
        ;
    tap_is(status, 200, "those that come and go leave room");
    int fds[MK_VIEWERS];
    for (int i = 0; i < MK_VIEWERS; i++)
        fds[i] = watch();
    int late = connect_to(mk_view_port(view));
    char byte;
    tap_is((int)get(late, &byte, 1), 0, "who finds no place is sent away");
    close(late);
    for (int i = 0; i < MK_VIEWERS; i++)
        close(fds[i]);
}

/* A megabyte does not fit into a socket that nobody reads. */
static void sleeper(void)
{
    static char large[1 << 20], data[64];
    unsigned opcode = 0, got = 0;
    int fd = watch();
    for (int i = 1; i <= 100; i++) {
        memset(large, i, sizeof(large));
        mk_view_publish(view, large, sizeof(large));
    }
    do {
        if (receive(fd, data, sizeof(data), &opcode) < 0)
            break;
        got++;
    } while (data[0] != 100);
    tap_ok(data[0] == 100 && got < 50, "who sleeps gets the newest, and not all before it");
    close(fd);
}

static void ends(void)
{
    char data[64];
    unsigned opcode = 0;
    int fd = watch();
    receive(fd, data, sizeof(data), &opcode);
    unsigned before = looks;
    while (looks < before + 3)
        usleep(1000);
    mk_view_close(view);
    tap_ok(receive(fd, data, sizeof(data), &opcode) == 2 && opcode == MK_WS_CLOSE &&
               (uint8_t)data[1] == (MK_WS_GONE & 255),
           "at its end viewers are told");
    close(fd);
}

int main(void)
{
    static const struct mk_view_ops ops = { look, keys };
    struct mk_err err;
    handshake();
    frames();
    heads();
    if (mk_io_ref(&err) < 0 || !(view = mk_view_open(0, &err)))
        return tap_ok(false, err.text), tap_done();
    mk_view_publish(view, "first", 5);
    mk_view_start(view, "<p>page", 7, &ops, NULL);
    requests();
    tap_is((int)looks, 0, "nothing is looked at while nobody watches");
    messages();
    strangers();
    sleeper();
    ends();
    mk_io_unref();
    return tap_done();
}
