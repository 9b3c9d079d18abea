/* nbd.h - a disk that a server has: any format and any place that qemu-nbd or nbdkit know, by an
 * NBD URI (the NBD project's doc/uri.md).
 *
 * The protocol is libnbd's, which is loaded when the first such disk is opened. One request at a
 * time: any thread, which waits for the server, MK_NBD_SECONDS at the most. A connection that is
 * lost, or does not answer, fails that request; the next one connects again. */
#ifndef MK_NBD_H
#define MK_NBD_H

#include "base/err.h"

#define MK_NBD_SECONDS 10

struct mk_nbd;

/* nbd://host/export, nbd+unix:///export?socket=path and the like. */
bool mk_nbd_is_uri(const char *path);
/* NULL with *err. `write`: the server has to let us. */
struct mk_nbd *mk_nbd_open(const char *uri, bool write, struct mk_err *err);
void mk_nbd_close(struct mk_nbd *nbd); /* NULL is fine */
uint64_t mk_nbd_size(const struct mk_nbd *nbd);

int mk_nbd_read(struct mk_nbd *nbd, uint64_t at, void *to, size_t length, struct mk_err *err);
int mk_nbd_write(struct mk_nbd *nbd, uint64_t at, const void *from, size_t length,
                 struct mk_err *err);
/* Waits until what was written is on the server's disk, if the server can say so. */
int mk_nbd_flush(struct mk_nbd *nbd, struct mk_err *err);
/* 1: the server cannot do that. Zeros; with `discard` they need take no room there. */
int mk_nbd_zero(struct mk_nbd *nbd, uint64_t at, size_t length, bool discard, struct mk_err *err);
/* Lets the server forget a range, if it can. */
int mk_nbd_discard(struct mk_nbd *nbd, uint64_t at, size_t length, struct mk_err *err);

#endif
