/* fsbox_path.h - files below a directory descriptor, kept there by the kernel.
 *
 * Every name is resolved by openat2(2) with RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS and
 * NO_XDEV, so that no name and nothing planted in the directory leads out of it. Only regular files
 * are ever opened. All functions return a descriptor or 0, or a negated errno. No state. */
#ifndef MK_FSBOX_PATH_H
#define MK_FSBOX_PATH_H

#include "base/util.h"

#define MK_NAME_MAX 255 /* bytes of a name that a guest gives */

/* 0, -EINVAL or -ENAMETOOLONG: a name is relative, of components of [A-Za-z0-9._-], none of them
 * "." or "..". The host is not touched. */
int mk_path_check(const char *name, size_t length);

/* Opens a regular file with O_RDONLY or O_RDWR. */
int mk_path_open(int dir, const char *name, int flags);
/* Creates an empty file that was not there, and the directories above it; read and write. */
int mk_path_create(int dir, const char *name);
/* Makes a complete copy of `from` as `name`, which was not there; read and write. Until it is
 * complete it has no name, or where the file system cannot do that, one in `aside`, a directory on
 * the same file system, that no guest can say (MK_COPY_PREFIX; see mk_open_stale()). Ends with
 * -EINTR when more(ctx), asked between pieces, says so; it may be NULL. */
int mk_path_copy(int dir, const char *name, int aside, int from, bool (*more)(void *ctx),
                 void *ctx);
#define MK_COPY_PREFIX "~copy."
/* Removes a file, and the directories it lies in as far as they are empty then. */
void mk_path_remove(int dir, const char *name);
/* Removes everything below the directory; what cannot be removed stays. */
void mk_path_empty(int dir);

#endif
