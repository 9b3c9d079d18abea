/* outfile.h - a file that the host's user named, written as a whole (outfile.c). */
#ifndef MK_OUTFILE_H
#define MK_OUTFILE_H

#include "base/err.h"

#include <stddef.h>

struct mk_outfile {
    int fd;        /* to write to; -1: not open */
    bool seekable; /* what was written may be overwritten by pwrite(2) */
    const char *path;
    char *temporary; /* its name until it is complete; NULL: it is written in place */
};

/* Opens `path`, which must stay valid until mk_outfile_close(). Any thread; no state is shared.
 * Returns 0, or -1 with *err. */
int mk_outfile_open(struct mk_outfile *file, const char *path, struct mk_err *err);

/* Writes all bytes. Returns 0 or an errno value. */
int mk_outfile_write(struct mk_outfile *file, const void *bytes, size_t length);

/* Closes it. With `error` 0 it gets its name, else (an errno value) nothing is left of it.
 * Returns `error`, or the errno value of what failed here. */
int mk_outfile_close(struct mk_outfile *file, int error);

#endif
