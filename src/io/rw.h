/* rw.h - what read(2), write(2) and their like leave to do: all that was asked for, which parts of
 * a file hold data, files that vanish with their maker. Any thread; no state. */
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

/* How long a file may become: a longer one would end the process with SIGXFSZ. */
uint64_t mk_file_limit(void);

/* The next data of a file of `size` bytes from *at on: false when only a hole follows (man 2 lseek,
 * SEEK_HOLE), else *at is where they begin and *end where they end. Where the file system does not
 * tell, all is data. Moves the descriptor's position. */
bool mk_extent_next(int fd, off_t size, off_t *at, off_t *end);

/* Does `name` in `dir` still name this file? A link is not followed. */
bool mk_file_is_named(int fd, int dir, const char *name);
/* What is not complete is locked by its maker (flock(2)), so that what a process leaves that is
 * killed can be told. Where there are no locks nothing is ever stale. */
/* A new file to read and write, locked: its descriptor, -1 with errno. */
int mk_create_locked(int dir, const char *name);
/* Opens what was left, if it is of this type (S_IFREG, S_IFDIR) and this user's; -1: it is not. */
int mk_open_stale(int dir, const char *name, mode_t type);

#endif
