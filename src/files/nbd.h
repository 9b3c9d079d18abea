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

enum mk_nbd_command {
    MK_NBD_READ,
    MK_NBD_WRITE,
    MK_NBD_FLUSH,   /* what was written is on the server's disk */
    MK_NBD_ZERO,    /* zeros, which take room */
    MK_NBD_HOLE,    /* zeros that need take none */
    MK_NBD_DISCARD, /* the server may forget what is there */
};

/* 0 when it is done, 1 when the server cannot do that; `bytes` are those to read into or write. */
int mk_nbd_do(struct mk_nbd *nbd, enum mk_nbd_command command, uint64_t at, void *bytes,
              size_t length, struct mk_err *err);

#endif
