/* view.h - a guest's screen for browsers: a page on a port of the loopback interface, and pictures
 * for it by WebSocket.
 *
 * All is done on the I/O thread (io.h), whether the guest runs or not. While nobody has the page
 * open nothing happens at all; while somebody has, `look` is called every MK_VIEW_TICK_NS, and what
 * is published goes to every viewer, the newest to those that were not ready for all. Who connects
 * is a stranger: a request has to name the token, this host and, from a script of a browser, this
 * origin; what is not as HTTP and WebSocket have it ends the connection. */
#ifndef MK_VIEW_H
#define MK_VIEW_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MK_VIEWERS 8              /* connections at a time */
#define MK_VIEW_TICK_NS 16000000u /* between two looks */
#define MK_VIEW_TOKEN 32          /* hexadecimal digits */

struct mk_view;

struct mk_view_ops {
    void (*look)(void *ctx); /* somebody watches: the screen is to be looked at, elsewhere */
    void (*keys)(void *ctx, const uint8_t *scancodes, size_t count); /* of set 1, from a viewer */
};

/* Listens on 127.0.0.1; port 0: any. Nobody is answered before mk_view_start(). NULL with *err. */
struct mk_view *mk_view_open(unsigned port, struct mk_err *err);
/* Nobody is called any more; viewers are told. */
void mk_view_close(struct mk_view *view);
unsigned mk_view_port(const struct mk_view *view);
const char *mk_view_token(const struct mk_view *view);

/* Serves the page, which is copied. False when memory ran out. */
bool mk_view_start(struct mk_view *view, const char *page, size_t length,
                   const struct mk_view_ops *ops, void *ctx);
/* Any thread: what viewers show from now on. False when memory ran out: they show what they did. */
bool mk_view_publish(struct mk_view *view, const void *picture, size_t length);
/* Any thread: how many have the page open. */
unsigned mk_view_viewers(const struct mk_view *view);

#endif
