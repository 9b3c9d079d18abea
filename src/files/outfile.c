/* outfile.c - a file that the host's user named, written as a whole.
 *
 * A regular file, or one that is not there yet, is written under another name in the same folder,
 * and renamed when it is on the disk: what bears its name is complete. The other name is that of
 * the file with a number and ".tmp"; where a process was killed meanwhile, it stays until the file
 * is written again. Anything else (a link, a FIFO, a device), and a file in a folder that takes no
 * new ones, is written in place, as open(2) with O_CREAT | O_TRUNC does (POSIX.1-2017, open): it
 * must not be replaced by a regular file. Any thread; blocks as long as the file does. */
#include "files/outfile.h"

#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMES 100 /* writers of one file at a time */

/* What a process left that was killed goes: true. */
static bool remove_stale(const char *name)
{
    int fd = mk_open_stale(AT_FDCWD, name, S_IFREG);
    bool gone = fd >= 0 && unlink(name) == 0;
    if (fd >= 0)
        close(fd);
    return gone;
}

static void forget_temporary(struct mk_outfile *file, int code)
{
    free(file->temporary);
    file->temporary = NULL;
    errno = code;
}

/* The new file gets the permissions of the one that it replaces. */
static int open_beside(struct mk_outfile *file, const struct stat *old)
{
    for (unsigned i = 0; i < NAMES; i++) {
        if (asprintf(&file->temporary, "%s.%u.tmp", file->path, i) < 0) {
            file->temporary = NULL;
            errno = ENOMEM;
            return -1;
        }
        file->fd = mk_create_locked(AT_FDCWD, file->temporary);
        if (file->fd < 0 && errno == EEXIST && remove_stale(file->temporary))
            file->fd = mk_create_locked(AT_FDCWD, file->temporary);
        if (file->fd >= 0)
            break;
        forget_temporary(file, errno);
        if (errno != EEXIST)
            return -1;
    }
    if (file->fd >= 0 && old)
        fchmod(file->fd, old->st_mode & 0777);
    return file->fd;
}

int mk_outfile_open(struct mk_outfile *file, const char *path, struct mk_err *err)
{
    struct stat st;
    bool there = lstat(path, &st) == 0;
    *file = (struct mk_outfile){ .fd = -1, .path = path };
    if (!there || S_ISREG(st.st_mode))
        open_beside(file, there ? &st : NULL);
    if (file->fd < 0 && there && (!S_ISREG(st.st_mode) || errno == EACCES || errno == EPERM))
        file->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file->fd < 0)
        return mk_fail_errno(err, errno, "%s", path);
    file->seekable = fstat(file->fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
    return 0;
}

int mk_outfile_write(struct mk_outfile *file, const void *bytes, size_t length)
{
    const char *from = bytes;
    while (length) {
        ssize_t n = write(file->fd, from, length < (1u << 30) ? length : 1u << 30);
        if (n < 0 && errno != EINTR)
            return errno;
        if (n > 0) {
            from += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

/* That the name is there is on the disk, too. */
static void sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(copy);
}

int mk_outfile_close(struct mk_outfile *file, int error)
{
    if (!error && file->seekable && fsync(file->fd) < 0)
        error = errno;
    if (close(file->fd) < 0 && !error)
        error = errno;
    if (!error && file->temporary && rename(file->temporary, file->path) < 0)
        error = errno;
    if (file->temporary && error)
        unlink(file->temporary);
    else if (file->temporary)
        sync_folder(file->path);
    free(file->temporary);
    *file = (struct mk_outfile){ .fd = -1 };
    return error;
}
