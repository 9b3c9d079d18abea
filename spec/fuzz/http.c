/* http.c - what a browser, or whoever, sends to a port that shows a screen: heads of requests and
 * frames of WebSocket (src/codec/http.c, websocket.c). The first byte says which. */
#include "fuzz.h"

#include "codec/http.h"
#include "codec/websocket.h"

#include <stdlib.h>

/* In memory of their own, so that a look behind them is seen. */
static void *copy_of(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);
    fuzz_check(copy);
    if (length)
        memcpy(copy, bytes, length);
    return copy;
}

static bool lies_in(const char *head, size_t length, struct mk_http_text text)
{
    return !text.at ||
           (text.at >= head && mk_inside((size_t)(text.at - head), text.length, length));
}

static void request(const uint8_t *bytes, size_t have)
{
    char *head = copy_of(bytes, have), accept[MK_WS_ACCEPT + 1];
    struct mk_http_request r;
    size_t length = mk_http_head(head, have);
    fuzz_check(length <= have);
    int status = length ? mk_http_parse(head, length, &r) : 400;
    fuzz_check(status == 0 || status == 400 || status == 405 || status == 505);
    if (status == 0) {
        fuzz_check(r.path.length && lies_in(head, length, r.path));
        for (unsigned i = 0; i < MK_HTTP_FIELDS; i++) {
            fuzz_check(lies_in(head, length, r.field[i]));
            mk_http_lists(r.field[i], "upgrade");
            mk_http_is(r.field[i], "13");
        }
        if (r.field[MK_HTTP_WS_KEY].length == MK_WS_KEY)
            mk_ws_accept(r.field[MK_HTTP_WS_KEY].at, accept);
    }
    free(head);
}

/* One frame behind the other. */
static void frames(const uint8_t *bytes, size_t have)
{
    uint8_t *all = copy_of(bytes, have), header[MK_WS_HEADER];
    struct mk_ws_frame frame;
    size_t at = 0;
    for (int n; at < have && (n = mk_ws_take(all + at, have - at, &frame)) > 0; at += (size_t)n) {
        fuzz_check((size_t)n <= have - at && frame.length <= MK_WS_LONGEST);
        fuzz_check(frame.data >= all + at && frame.data + frame.length <= all + at + n);
        fuzz_check(mk_ws_header(header, frame.opcode, frame.length) <= MK_WS_HEADER);
        fuzz_steps++;
    }
    free(all);
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    if (length)
        (bytes[0] & 1 ? frames : request)(bytes + 1, length - 1);
}

FUZZ_TARGET(http, NULL, one)
