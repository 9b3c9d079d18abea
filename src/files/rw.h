/* rw.h - reading and writing all that was asked for, at a place in a file. Any thread; no state. */
#ifndef MK_RW_H
#define MK_RW_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Opens a regular file, with O_CLOEXEC: its descriptor, -1 and *err when it is none. */
int mk_open_regular(const char *path, int flags, struct stat *st, struct mk_err *err);
/* As pread(2), but fewer bytes than `length` only where the file ends, and no EINTR. */
ssize_t mk_read_at(int fd, void *to, size_t length, off_t at);
/* Writes all of them: 0, or -1 with errno (EIO: pwrite(2) takes none). */
int mk_write_at(int fd, const void *from, size_t length, off_t at);

/* Is it of this type (S_IFREG, …), and does this process's user own it? */
bool mk_file_is_ours(int fd, mode_t type);
/* Does `name` in `dir` still name this file? A link is not followed. */
bool mk_file_is_named(int fd, int dir, const char *name);

#endif
