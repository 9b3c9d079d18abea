/* view.c - see view.h: the port, who watches, what is published. What one viewer sends and gets is
 * viewer.c.
 *
 * `lock` is for what is published and for `closing`; viewers belong to the I/O thread, and, when
 * that calls nothing here any more, to mk_view_close(). */
#include "io/viewer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 128
#define RETRY_NS 1000000000u

/* --- on the I/O thread --- */

static void tick(void *ctx)
{
    struct mk_view *view = ctx;
    if (!view->watching)
        return;
    view->ops.look(view->ctx);
    mk_view_arm(view, &view->tick, mk_now() + MK_VIEW_TICK_NS);
}

/* Something was published. */
static void pump(void *ctx)
{
    struct mk_view *view = ctx;
    for (unsigned i = 0; i < MK_VIEWERS; i++)
        if (view->viewer[i].state == MK_VIEWER_WATCHES)
            mk_viewer_serve(&view->viewer[i]);
}

/* Ends those that have taken too long, and looks at the door again. */
static void reap(void *ctx)
{
    struct mk_view *view = ctx;
    uint64_t now = mk_now(), next = UINT64_MAX;
    for (unsigned i = 0; i < MK_VIEWERS; i++) {
        struct mk_viewer *v = &view->viewer[i];
        if (v->state != MK_VIEWER_ASKS && v->state != MK_VIEWER_LEAVES)
            continue;
        if (now >= v->since + MK_VIEWER_PATIENCE_NS)
            mk_viewer_drop(v);
        else if (v->since + MK_VIEWER_PATIENCE_NS < next)
            next = v->since + MK_VIEWER_PATIENCE_NS;
    }
    mk_view_watch(view, &view->door);
    if (next != UINT64_MAX)
        mk_view_arm(view, &view->reaper, next);
}

static struct mk_viewer *free_place(struct mk_view *view)
{
    for (unsigned i = 0; i < MK_VIEWERS; i++)
        if (view->viewer[i].state == MK_VIEWER_NONE)
            return &view->viewer[i];
    return NULL;
}

/* Who finds no place is sent away. */
static void came(void *ctx)
{
    struct mk_view *view = ctx;
    int fd;
    while ((fd = accept4(view->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct mk_viewer *v = free_place(view);
        if (!v) {
            close(fd);
            continue;
        }
        const int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        mk_viewer_begin(v, view, fd);
    }
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
        mk_view_watch(view, &view->door);
    else
        mk_view_arm(view, &view->reaper, mk_now() + RETRY_NS); /* no descriptors are left */
}

/* --- the owner --- */

static int listen_on(unsigned port, struct mk_err *err)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    const int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int code = errno;
    if (fd >= 0)
        close(fd);
    return code == EADDRINUSE ? mk_fail(err, code,
                                        "127.0.0.1:%u: another program listens there: name "
                                        "another port, or none",
                                        port)
                              : mk_fail_errno(err, code, "127.0.0.1:%u", port);
}

static bool make_token(struct mk_view *view)
{
    uint8_t random[MK_VIEW_TOKEN / 2];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return false;
    for (unsigned i = 0; i < sizeof(random); i++)
        snprintf(view->token + 2 * i, 3, "%02x", random[i]);
    return true;
}

struct mk_view *mk_view_open(unsigned port, struct mk_err *err)
{
    struct sockaddr_in at = { 0 };
    socklen_t length = sizeof(at);
    int fd = listen_on(port, err);
    if (fd < 0)
        return NULL;
    struct mk_view *view = calloc(1, sizeof(*view));
    if (!view || !make_token(view)) {
        mk_fail_errno(err, errno, "a view");
        free(view);
        close(fd);
        return NULL;
    }
    getsockname(fd, (struct sockaddr *)&at, &length);
    view->port = ntohs(at.sin_port);
    view->listener = fd;
    pthread_mutex_init(&view->lock, NULL);
    view->tick = (struct mk_io_timer){ .fire = tick, .ctx = view };
    view->pump = (struct mk_io_timer){ .fire = pump, .ctx = view };
    view->reaper = (struct mk_io_timer){ .fire = reap, .ctx = view };
    view->door = (struct mk_io_source){ .ready = came, .ctx = view, .fd = fd, .events = EPOLLIN };
    return view;
}

unsigned mk_view_port(const struct mk_view *view)
{
    return view->port;
}

const char *mk_view_token(const struct mk_view *view)
{
    return view->token;
}

bool mk_view_start(struct mk_view *view, const char *page, size_t length,
                   const struct mk_view_ops *ops, void *ctx)
{
    mk_bytes_add(&view->page, page, length);
    view->ops = *ops;
    view->ctx = ctx;
    view->started = !view->page.failed;
    if (view->started)
        mk_io_watch(&view->door);
    return view->started;
}

bool mk_view_publish(struct mk_view *view, const void *picture, size_t length)
{
    struct mk_bytes bytes = { 0 };
    mk_bytes_add(&bytes, picture, length);
    if (bytes.failed)
        return false;
    pthread_mutex_lock(&view->lock);
    struct mk_bytes before = view->picture;
    view->picture = bytes;
    view->pictures++;
    if (view->watching && !view->closing)
        mk_io_arm(&view->pump, mk_now());
    pthread_mutex_unlock(&view->lock);
    mk_bytes_free(&before);
    return true;
}

unsigned mk_view_viewers(const struct mk_view *view)
{
    return view->watching;
}

void mk_view_close(struct mk_view *view)
{
    pthread_mutex_lock(&view->lock);
    view->closing = true;
    pthread_mutex_unlock(&view->lock);
    if (view->started) { /* then there is an I/O thread */
        mk_io_disarm(&view->tick);
        mk_io_disarm(&view->pump);
        mk_io_disarm(&view->reaper);
        mk_io_unwatch(&view->door);
        for (unsigned i = 0; i < MK_VIEWERS; i++)
            if (view->viewer[i].state != MK_VIEWER_NONE)
                mk_viewer_end(&view->viewer[i]);
    }
    close(view->listener);
    mk_bytes_free(&view->page);
    mk_bytes_free(&view->picture);
    pthread_mutex_destroy(&view->lock);
    free(view);
}
