/* fsbox_path.c - see fsbox_path.h.
 *
 * man 2 openat2, ioctl_ficlone; for O_TMPFILE and linkat, man 2 open. */
#include "files/fsbox_path.h"

#include "io/rw.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BENEATH (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
#define RETRIES 8          /* openat2 may say "again" when directories are renamed meanwhile */
#define PIECE (256u << 10) /* of a copy */

/* --- names --- */

static bool allowed(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

static bool component_ok(const char *at, size_t length)
{
    if (length == 0 || (length == 1 && at[0] == '.') ||
        (length == 2 && at[0] == '.' && at[1] == '.'))
        return false;
    for (size_t i = 0; i < length; i++)
        if (!allowed(at[i]))
            return false;
    return true;
}

int mk_path_check(const char *name, size_t length)
{
    if (length > MK_NAME_MAX)
        return -ENAMETOOLONG;
    for (size_t from = 0; from <= length;) {
        const char *slash = memchr(name + from, '/', length - from);
        size_t end = slash ? (size_t)(slash - name) : length;
        if (!component_ok(name + from, end - from))
            return -EINVAL;
        from = end + 1;
    }
    return 0;
}

/* --- opening --- */

static int open_beneath(int dir, const char *name, int flags, mode_t mode)
{
    struct open_how how = { .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
                            .mode = mode,
                            .resolve = BENEATH };
    for (int i = 0; i < RETRIES; i++) {
        long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
        if (fd >= 0)
            return (int)fd;
        if (errno != EAGAIN && errno != EINTR)
            break;
    }
    return -errno;
}

static bool regular(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* The file of an O_PATH descriptor: whatever bears its name by now. */
static int reopen(int path_fd, int flags)
{
    char self[40];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", path_fd);
    int fd = open(self, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}

/* Looked at before it is opened, because opening a device or a FIFO may do something. Where /proc
 * is not mounted it is opened by name, and may be another file by then. */
int mk_path_open(int dir, const char *name, int flags)
{
    int found = open_beneath(dir, name, O_PATH, 0);
    if (found < 0)
        return found;
    int fd = regular(found) ? reopen(found, flags) : -EACCES;
    close(found);
    if (fd == -ENOENT)
        fd = open_beneath(dir, name, flags | O_NONBLOCK | O_NOCTTY, 0);
    if (fd >= 0 && !regular(fd)) {
        close(fd);
        return -EACCES;
    }
    return fd;
}

/* The directory that `name` lies in, made where it is missing; *leaf is the last component. */
static int open_parent(int dir, const char *name, const char **leaf)
{
    char part[MK_NAME_MAX + 1];
    int at = fcntl(dir, F_DUPFD_CLOEXEC, 0);
    if (at < 0)
        return -errno;
    for (const char *slash; (slash = strchr(name, '/')); name = slash + 1) {
        size_t length = (size_t)(slash - name);
        memcpy(part, name, length);
        part[length] = 0;
        if (mkdirat(at, part, 0777) < 0 && errno != EEXIST) {
            int code = errno;
            close(at);
            return -code;
        }
        int next = open_beneath(at, part, O_PATH | O_DIRECTORY, 0);
        close(at);
        if (next < 0)
            return next;
        at = next;
    }
    *leaf = name;
    return at;
}

int mk_path_create(int dir, const char *name)
{
    const char *leaf;
    int parent = open_parent(dir, name, &leaf);
    if (parent < 0)
        return parent;
    int fd = open_beneath(parent, leaf, O_CREAT | O_EXCL | O_RDWR, 0666);
    close(parent);
    return fd;
}

/* --- copying --- */

/* A file without a name, or in hidden[] with one in `aside`. */
static int open_nameless(int parent, int aside, char hidden[64])
{
    hidden[0] = 0;
    int fd = openat(parent, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL)) {
        snprintf(hidden, 64, MK_COPY_PREFIX "%ld.%llx", (long)getpid(),
                 (unsigned long long)mk_now());
        fd = mk_create_locked(aside, hidden);
    }
    return fd < 0 ? -errno : fd;
}

/* Gives the finished file its name; never replaces one. */
static int give_name(int parent, int aside, int fd, const char *hidden, const char *leaf)
{
    char self[40];
    if (hidden[0]) {
        bool linked = linkat(aside, hidden, parent, leaf, 0) == 0;
        if (linked)
            unlinkat(aside, hidden, 0);
        else if (errno == EEXIST || renameat2(aside, hidden, parent, leaf, RENAME_NOREPLACE) < 0)
            return -errno;
        return flock(fd, LOCK_UN), 0;
    }
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, parent, leaf, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    if (errno == ENOENT && linkat(fd, "", parent, leaf, AT_EMPTY_PATH) == 0) /* no /proc here */
        return 0;
    return -errno;
}

/* A copy on its way, and who may end it. */
struct copy {
    int from, to;
    bool (*more)(void *ctx);
    void *ctx;
};

/* [at, end), as far as it is there. */
static int copy_range(const struct copy *c, char *buffer, off_t at, off_t end)
{
    while (at < end) {
        if (c->more && !c->more(c->ctx))
            return -EINTR;
        size_t want = end - at < (off_t)PIECE ? (size_t)(end - at) : PIECE;
        ssize_t n = mk_read_at(c->from, buffer, want, at);
        if (n < 0 || (n > 0 && mk_write_at(c->to, buffer, (size_t)n, at) < 0))
            return -errno;
        if (n == 0) /* it was cut short meanwhile */
            return 0;
        at += n;
    }
    return 0;
}

/* Where the file system cannot let both have the same blocks, only what is there: holes stay holes.
 */
static int copy_data(const struct copy *c)
{
    struct stat st;
    if (ioctl(c->to, FICLONE, c->from) == 0)
        return 0;
    if (fstat(c->from, &st) < 0)
        return -errno;
    char *buffer = malloc(PIECE);
    int rc = buffer ? 0 : -ENOMEM;
    for (off_t at = 0, end; rc == 0 && mk_extent_next(c->from, st.st_size, &at, &end); at = end)
        rc = copy_range(c, buffer, at, end);
    free(buffer);
    return rc == 0 && ftruncate(c->to, st.st_size) < 0 ? -errno : rc;
}

int mk_path_copy(int dir, const char *name, int aside, int from, bool (*more)(void *ctx), void *ctx)
{
    const char *leaf;
    char hidden[64];
    int parent = open_parent(dir, name, &leaf);
    if (parent < 0)
        return parent;
    int fd = open_nameless(parent, aside, hidden);
    int rc = fd < 0 ? fd : copy_data(&(struct copy){ from, fd, more, ctx });
    if (rc >= 0)
        rc = give_name(parent, aside, fd, hidden, leaf);
    if (rc < 0 && fd >= 0) {
        if (hidden[0])
            unlinkat(aside, hidden, 0);
        close(fd);
    }
    close(parent);
    return rc < 0 ? rc : fd;
}

/* --- removing --- */

void mk_path_remove(int dir, const char *name)
{
    char path[MK_NAME_MAX + 1];
    strcpy(path, name);
    for (int flags = 0; *path; flags = AT_REMOVEDIR) {
        char *slash = strrchr(path, '/');
        char *leaf = slash ? slash + 1 : path;
        if (slash)
            *slash = 0;
        int at = slash ? open_beneath(dir, path, O_PATH | O_DIRECTORY, 0) : dir;
        bool gone = at >= 0 && unlinkat(at, leaf, flags) == 0;
        if (slash && at >= 0)
            close(at);
        if (!slash || !gone)
            return;
    }
}

/* Takes the descriptor over; one a level is open. */
static void empty(int fd)
{
    DIR *list = fdopendir(fd);
    if (!list) {
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(list));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            unlinkat(fd, e->d_name, 0) == 0 || (errno != EISDIR && errno != EPERM))
            continue;
        int below = open_beneath(fd, e->d_name, O_RDONLY | O_DIRECTORY, 0);
        if (below >= 0)
            empty(below);
        unlinkat(fd, e->d_name, AT_REMOVEDIR);
    }
    closedir(list);
}

void mk_path_empty(int dir)
{
    int fd = open_beneath(dir, ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd >= 0)
        empty(fd);
}
