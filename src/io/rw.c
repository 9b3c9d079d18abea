/* rw.c - see rw.h. */
#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
int mk_open_regular(const char *path, int flags, struct stat *st, struct mk_err *err)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, st) < 0)
        mk_fail_errno(err, errno, "%s", path);
    else if (S_ISDIR(st->st_mode))
        mk_fail(err, EISDIR, "%s: it is a directory, not a file", path);
    else if (!S_ISREG(st->st_mode))
        mk_fail(err, EINVAL, "%s: not a regular file", path);
    else
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

ssize_t mk_read_at(int fd, void *to, size_t length, off_t at)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = pread(fd, (uint8_t *)to + done, length - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int mk_write_at(int fd, const void *from, size_t length, off_t at)
{
    const uint8_t *bytes = from;
    while (length) {
        ssize_t n = pwrite(fd, bytes, length, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return -1;
        bytes += n;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

uint64_t mk_file_limit(void)
{
    struct rlimit r;
    bool limited = getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY;
    return limited ? r.rlim_cur : UINT64_MAX;
}

bool mk_extent_next(int fd, off_t size, off_t *at, off_t *end)
{
    if (*at >= size)
        return false;
    off_t data = lseek(fd, *at, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return false;
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (hole >= 0)
        *at = data;
    *end = hole < 0 || hole > size ? size : hole;
    return *at < size;
}

/* --- what is not complete --- */

bool mk_file_is_named(int fd, int dir, const char *name)
{
    struct stat one, other;
    return fstat(fd, &one) == 0 && fstatat(dir, name, &other, AT_SYMLINK_NOFOLLOW) == 0 &&
           one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

int mk_create_locked(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return -1;
    bool lost = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    errno = EEXIST;
    if (!lost && mk_file_is_named(fd, dir, name))
        return fd;
    int code = errno; /* EEXIST: somebody took it for stale before it was locked */
    if (code != EEXIST && code != ENOENT)
        unlinkat(dir, name, 0);
    close(fd);
    errno = code == ENOENT ? EEXIST : code;
    return -1;
}

static bool is_ours(int fd, mode_t type)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_uid == geteuid();
}

int mk_open_stale(int dir, const char *name, mode_t type)
{
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 ||
        (is_ours(fd, type) && flock(fd, LOCK_EX | LOCK_NB) == 0 && mk_file_is_named(fd, dir, name)))
        return fd;
    close(fd);
    return -1;
}
