/* spool.h - a file that records are appended to while something else goes on, such as a trace.
 *
 * Nobody waits for it. What a FIFO, a terminal or a socket does not take at once waits in a buffer
 * of MK_SPOOL_ROOM bytes; a record that has no room there is lost, and counted. A regular file is
 * whole after every flush: records, then a tail (of JSON: its closing brackets), which the next
 * ones overwrite; a flush that fails, because the disk is full, is undone. One thread at a time. */
#ifndef MK_SPOOL_H
#define MK_SPOOL_H

#include "base/err.h"
#include "io/buffer.h"
#include "io/desc.h"

#define MK_SPOOL_ROOM (1u << 20)
#define MK_SPOOL_TAIL 32

struct mk_spool {
    int fd;     /* -1: it is closed */
    bool whole; /* a regular file */
    struct mk_desc desc;
    struct mk_buffer pending;
    char tail[MK_SPOOL_TAIL];
    size_t tail_length;
    uint64_t at, last;      /* bytes of records in a regular file; mk_now() of the last flush */
    uint64_t written, lost; /* records */
    uint64_t waiting;       /* records in `pending` */
    int error;              /* errno of what failed: nothing is written any more */
};

/* Creates or empties the file, which then has `head` and `tail`. A FIFO has to have a reader. 0, or
 * -1 with *err. */
int mk_spool_open(struct mk_spool *s, const char *path, const char *head, const char *tail,
                  struct mk_err *err);
/* The same on a descriptor that is there, such as standard output; it stays the caller's. */
int mk_spool_use(struct mk_spool *s, int fd, struct mk_err *err);
/* Appends a record. False when it is lost. */
bool mk_spool_put(struct mk_spool *s, const char *bytes, size_t length);
/* Writes what is pending, as far as it is taken. */
void mk_spool_flush(struct mk_spool *s);
/* The same, and the tail; a reader gets up to a second for it. */
void mk_spool_close(struct mk_spool *s);
/* Closes it; what is pending is not written. */
void mk_spool_discard(struct mk_spool *s);

#endif
