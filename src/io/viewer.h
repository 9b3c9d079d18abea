/* viewer.h - one connection of a view, and what it shares with view.c. On the I/O thread. */
#ifndef MK_VIEWER_H
#define MK_VIEWER_H

#include "codec/bytes.h"
#include "codec/http.h"
#include "io/io.h"
#include "io/view.h"

#include <pthread.h>
#include <stdatomic.h>

enum mk_viewer_state {
    MK_VIEWER_NONE,
    MK_VIEWER_ASKS,    /* its request is not whole */
    MK_VIEWER_WATCHES, /* a WebSocket */
    MK_VIEWER_LEAVES,  /* it gets what is in `out`, then it is over */
};

/* For a request, and for the last bytes of an answer. */
#define MK_VIEWER_PATIENCE_NS 10000000000u

struct mk_viewer {
    struct mk_view *view;
    enum mk_viewer_state state;
    int fd;
    struct mk_io_source line;
    uint64_t since; /* it asks, or leaves */
    uint64_t shown; /* number of the picture that it got last */
    char in[MK_HTTP_HEAD];
    size_t have;         /* of `in` */
    struct mk_bytes out; /* on its way: answers, or one picture */
    size_t sent;
};

struct mk_view {
    int listener;
    unsigned port;
    char token[MK_VIEW_TOKEN + 1];
    struct mk_bytes page;
    struct mk_view_ops ops;
    void *ctx;
    bool started;
    _Atomic unsigned watching; /* viewers that watch; changed on the I/O thread */
    struct mk_io_source door;
    struct mk_io_timer tick, pump, reaper;
    pthread_mutex_t lock;
    bool closing;
    struct mk_bytes picture;
    uint64_t pictures; /* published so far */
    struct mk_viewer viewer[MK_VIEWERS];
};

void mk_viewer_begin(struct mk_viewer *v, struct mk_view *view, int fd);
/* Reads, answers, sends what there is. */
void mk_viewer_serve(struct mk_viewer *v);
/* Its connection is over. */
void mk_viewer_drop(struct mk_viewer *v);
/* The same, from the view's owner: it is told, if it can be. */
void mk_viewer_end(struct mk_viewer *v);

/* Nothing of a view that is being closed is set or watched any more. */
void mk_view_arm(struct mk_view *view, struct mk_io_timer *timer, uint64_t at);
void mk_view_watch(struct mk_view *view, struct mk_io_source *source);

#endif
