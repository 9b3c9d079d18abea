/* viewer.c - one connection of a view: a request for the page or for a WebSocket (codec/http.h),
 * then frames (codec/websocket.h).
 *
 * Nothing is read while something is on its way out, so a client that sends and does not read is
 * slowed down, and what waits for it is one picture at the most: a newer one takes the place of
 * those that it was not ready for. */
#include "io/viewer.h"

#include "codec/websocket.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEYS 32 /* scancode bytes in one message */

/* --- what the I/O thread does for a view --- */

void mk_view_arm(struct mk_view *view, struct mk_io_timer *timer, uint64_t at)
{
    pthread_mutex_lock(&view->lock);
    if (!view->closing)
        mk_io_arm(timer, at);
    pthread_mutex_unlock(&view->lock);
}

void mk_view_watch(struct mk_view *view, struct mk_io_source *source)
{
    pthread_mutex_lock(&view->lock);
    if (!view->closing)
        mk_io_watch(source);
    pthread_mutex_unlock(&view->lock);
}

static void set_watching(struct mk_view *view, bool more)
{
    unsigned before = more ? view->watching++ : view->watching--;
    if (more && before == 0)
        mk_view_arm(view, &view->tick, mk_now());
}

static void reap_later(struct mk_view *view)
{
    mk_view_arm(view, &view->reaper, mk_now() + MK_VIEWER_PATIENCE_NS);
}

/* --- life --- */

static void ready(void *ctx)
{
    mk_viewer_serve(ctx);
}

void mk_viewer_begin(struct mk_viewer *v, struct mk_view *view, int fd)
{
    v->view = view;
    v->state = MK_VIEWER_ASKS;
    v->fd = fd;
    v->since = mk_now();
    v->shown = 0;
    v->have = v->sent = 0;
    v->line = (struct mk_io_source){ .ready = ready, .ctx = v, .fd = fd, .events = EPOLLIN };
    reap_later(view);
    mk_view_watch(view, &v->line);
}

void mk_viewer_drop(struct mk_viewer *v)
{
    if (v->state == MK_VIEWER_WATCHES)
        set_watching(v->view, false);
    mk_io_unwatch(&v->line);
    close(v->fd);
    mk_bytes_free(&v->out);
    v->state = MK_VIEWER_NONE;
}

static void leave(struct mk_viewer *v)
{
    if (v->state == MK_VIEWER_WATCHES)
        set_watching(v->view, false);
    v->state = MK_VIEWER_LEAVES;
    v->since = mk_now();
    reap_later(v->view);
}

/* --- going out --- */

static void add_frame(struct mk_viewer *v, enum mk_ws_opcode opcode, const void *data,
                      size_t length)
{
    uint8_t header[MK_WS_HEADER];
    mk_bytes_add(&v->out, header, mk_ws_header(header, opcode, length));
    mk_bytes_add(&v->out, data, length);
}

static void add_close(struct mk_viewer *v, unsigned why)
{
    uint8_t code[2] = { (uint8_t)(why >> 8), (uint8_t)why };
    add_frame(v, MK_WS_CLOSE, code, sizeof(code));
}

/* The newest picture, if it has not got that yet. */
static void add_picture(struct mk_viewer *v)
{
    struct mk_view *view = v->view;
    pthread_mutex_lock(&view->lock);
    if (v->shown != view->pictures) {
        add_frame(v, MK_WS_BINARY, view->picture.data, view->picture.length);
        v->shown = view->pictures;
    }
    pthread_mutex_unlock(&view->lock);
}

/* Sends what is on its way. False when the connection is over. */
static bool flush(struct mk_viewer *v)
{
    while (v->sent < v->out.length) {
        ssize_t n = send(v->fd, v->out.data + v->sent, v->out.length - v->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        v->sent += (size_t)n;
    }
    if (v->out.failed || v->state == MK_VIEWER_LEAVES)
        return false;
    mk_bytes_free(&v->out); /* a picture may be large */
    v->out = (struct mk_bytes){ 0 };
    v->sent = 0;
    return true;
}

void mk_viewer_end(struct mk_viewer *v)
{
    mk_io_unwatch(&v->line);
    if (v->state == MK_VIEWER_WATCHES && v->out.length == 0) {
        add_close(v, MK_WS_GONE);
        flush(v);
    }
    close(v->fd);
    mk_bytes_free(&v->out);
    v->state = MK_VIEWER_NONE;
}

/* --- a request --- */

static void add_text(struct mk_viewer *v, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add_text(struct mk_viewer *v, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    mk_bytes_add(&v->out, text, (size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1);
}

static void refuse(struct mk_viewer *v, int status, const char *reason, const char *text)
{
    add_text(v,
             "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
             "Connection: close\r\n%s\r\n%s",
             status, reason, strlen(text),
             status == 426 ? "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n" : "", text);
    leave(v);
}

/* The page may load nothing, be framed by nobody, and tells nobody its address, which has the
 * token. */
static void send_page(struct mk_viewer *v)
{
    const struct mk_view *view = v->view;
    add_text(v,
             "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %zu\r\n"
             "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n"
             "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
             "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
             "script-src 'unsafe-inline'; img-src data:; connect-src 'self' ws://127.0.0.1:%u "
             "ws://localhost:%u; frame-ancestors 'none'; base-uri 'none'\r\n"
             "Connection: close\r\n\r\n",
             view->page.length, view->port, view->port);
    mk_bytes_add(&v->out, view->page.data, view->page.length);
    leave(v);
}

/* "127.0.0.1:PORT" or "localhost:PORT" behind `before`: what resolves to us under any other name is
 * somebody else's page (DNS rebinding). */
static bool is_ours(const struct mk_view *view, struct mk_http_text text, const char *before)
{
    char one[64], other[64];
    snprintf(one, sizeof(one), "%s127.0.0.1:%u", before, view->port);
    snprintf(other, sizeof(other), "%slocalhost:%u", before, view->port);
    return mk_http_is(text, one) || mk_http_is(text, other);
}

/* What follows the token in "/TOKEN/…", NULL when that is not the token. In the same time whatever
 * was sent. */
static const char *behind_token(const struct mk_view *view, struct mk_http_text path, size_t *rest)
{
    unsigned differs = 0;
    if (path.length < MK_VIEW_TOKEN + 2)
        return NULL;
    for (unsigned i = 0; i < MK_VIEW_TOKEN; i++)
        differs |= (unsigned)(path.at[1 + i] ^ view->token[i]);
    *rest = path.length - MK_VIEW_TOKEN - 2;
    return differs || path.at[MK_VIEW_TOKEN + 1] != '/' ? NULL : path.at + MK_VIEW_TOKEN + 2;
}

static void begin_watching(struct mk_viewer *v, const struct mk_http_request *r)
{
    const struct mk_http_text *field = r->field;
    char accept[MK_WS_ACCEPT + 1];
    if (!mk_http_lists(field[MK_HTTP_UPGRADE], "websocket") ||
        !mk_http_lists(field[MK_HTTP_CONNECTION], "upgrade") ||
        field[MK_HTTP_WS_KEY].length != MK_WS_KEY) {
        refuse(v, 400, "Bad Request", "this is for WebSockets\n");
        return;
    }
    if (!mk_http_is(field[MK_HTTP_WS_VERSION], "13")) {
        refuse(v, 426, "Upgrade Required", "WebSocket's version is 13\n");
        return;
    }
    mk_ws_accept(field[MK_HTTP_WS_KEY].at, accept);
    add_text(v,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n\r\n",
             accept);
    v->state = MK_VIEWER_WATCHES;
    set_watching(v->view, true);
}

static void answer(struct mk_viewer *v, const struct mk_http_request *r)
{
    size_t rest = 0;
    const char *what = behind_token(v->view, r->path, &rest);
    bool origin = r->field[MK_HTTP_ORIGIN].at != NULL;
    if (!is_ours(v->view, r->field[MK_HTTP_HOST], "") ||
        (origin && !is_ours(v->view, r->field[MK_HTTP_ORIGIN], "http://")))
        refuse(v, 403, "Forbidden", "another host or origin\n");
    else if (what && rest == 0)
        send_page(v);
    else if (what && rest == 2 && memcmp(what, "ws", 2) == 0)
        begin_watching(v, r);
    else
        refuse(v, 404, "Not Found", "the address has a token: take the one that was printed\n");
}

static void take(struct mk_viewer *v, size_t bytes)
{
    v->have -= bytes;
    memmove(v->in, v->in + bytes, v->have);
}

/* False when more must come first. */
static bool serve_request(struct mk_viewer *v)
{
    struct mk_http_request r;
    size_t head = mk_http_head(v->in, v->have);
    if (!head && v->have < sizeof(v->in))
        return false;
    int status = head ? mk_http_parse(v->in, head, &r) : 431;
    if (status)
        refuse(v, status, "Refused", "this is no request that can be answered here\n");
    else
        answer(v, &r);
    take(v, head);
    return true;
}

/* --- frames --- */

static void serve_message(struct mk_viewer *v, const struct mk_ws_frame *f)
{
    const struct mk_view *view = v->view;
    if (f->opcode == MK_WS_PING) {
        add_frame(v, MK_WS_PONG, f->data, f->length);
    } else if (f->opcode == MK_WS_CLOSE) {
        add_frame(v, MK_WS_CLOSE, f->data, f->length < 2 ? 0 : 2);
        leave(v);
    } else if (f->opcode == MK_WS_BINARY && f->length > 1 && f->length <= 1 + KEYS &&
               f->data[0] == 'k') {
        view->ops.keys(view->ctx, f->data + 1, f->length - 1);
    } else if (f->opcode != MK_WS_PONG) {
        add_close(v, MK_WS_REFUSED);
        leave(v);
    }
}

static bool serve_frame(struct mk_viewer *v)
{
    struct mk_ws_frame frame;
    int bytes = mk_ws_take((uint8_t *)v->in, v->have, &frame);
    if (bytes == 0)
        return false;
    if (bytes < 0) {
        add_close(v, (unsigned)-bytes);
        leave(v);
        return true;
    }
    serve_message(v, &frame);
    take(v, (size_t)bytes);
    return true;
}

/* Reads what has come, when nothing is on its way out. False when the other end is gone. */
static bool fill(struct mk_viewer *v)
{
    if (v->have == sizeof(v->in))
        return true;
    ssize_t n = recv(v->fd, v->in + v->have, sizeof(v->in) - v->have, 0);
    if (n > 0)
        v->have += (size_t)n;
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void mk_viewer_serve(struct mk_viewer *v)
{
    bool there = flush(v) && (v->out.length > 0 || fill(v)), more = there;
    while (there && more && v->out.length == 0) {
        more = v->state == MK_VIEWER_ASKS ? serve_request(v) : serve_frame(v);
        there = flush(v);
    }
    if (there && v->out.length == 0 && v->state == MK_VIEWER_WATCHES) {
        add_picture(v);
        there = flush(v);
    }
    if (!there) {
        mk_viewer_drop(v);
        return;
    }
    v->line.events = v->out.length ? EPOLLOUT : EPOLLIN;
    mk_view_watch(v->view, &v->line);
}
