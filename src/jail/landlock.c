/* landlock.c - see landlock.h.
 *
 * Every right that the kernel's version knows is taken; rules give some back. Numbers of versions
 * are those of the headers of Linux 6.12, as the ones installed may be older. */
#include "jail/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define REFER (1u << 13)     /* version 2 */
#define TRUNCATE (1u << 14)  /* version 3 */
#define IOCTL_DEV (1u << 15) /* version 5 */
#define WRITE (LANDLOCK_ACCESS_FS_WRITE_FILE | TRUNCATE)
#define CHANGE                                                                                     \
    (LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_SOCK |    \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | REFER)
#define OF_FILES                                                                                   \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |   \
     TRUNCATE | IOCTL_DEV)

struct ruleset { /* landlock_ruleset_attr, version 6 */
    uint64_t files, network, scoped;
};

int mk_landlock_version(const char **why)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version > 0)
        return (int)version;
    *why = errno == ENOSYS       ? "this kernel has none"
           : errno == EOPNOTSUPP ? "it is off, as the kernel's option lsm= leaves it out"
                                 : strerror(errno);
    return 0;
}

/* What this version knows of `rights`. */
static uint64_t known(int version, uint64_t rights)
{
    unsigned last = version >= 5 ? 15 : version >= 3 ? 14 : version >= 2 ? 13 : 12;
    return rights & ((UINT64_C(1) << (last + 1)) - 1);
}

static uint64_t rights_of(unsigned access)
{
    return (access & MK_JAIL_READ ? READ : 0) | (access & MK_JAIL_WRITE ? WRITE : 0) |
           (access & MK_JAIL_CHANGE ? CHANGE : 0) | (access & MK_JAIL_DEVICE ? IOCTL_DEV : 0) |
           (access & MK_JAIL_EMPTY ? LANDLOCK_ACCESS_FS_REMOVE_DIR : 0);
}

/* What is named must be what is meant: no link, nothing above, not everything. */
static int check_name(const char *path, struct mk_err *err)
{
    char target[128];
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length >= 0) {
        target[length] = 0;
        return mk_fail(err, ELOOP, "%s: it is a symbolic link: name what it leads to, %s", path,
                       target);
    }
    for (const char *at = path; (at = strstr(at, "..")) != NULL; at += 2)
        if ((at == path || at[-1] == '/') && (at[2] == '/' || at[2] == 0))
            return mk_fail(err, EINVAL,
                           "%s: it leads upwards, out of a directory that it names: write the "
                           "path without \"..\"",
                           path);
    return 0;
}

static int add_fd(int ruleset, int fd, uint64_t rights, struct stat *st)
{
    if (!S_ISDIR(st->st_mode))
        rights &= OF_FILES;
    struct landlock_path_beneath_attr rule = { .allowed_access = rights, .parent_fd = fd };
    if (!rights)
        return 0;
    return (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static int open_path(const struct mk_jail_path *p, struct stat *st, struct mk_err *err)
{
    struct stat root;
    if (!(p->access & MK_JAIL_LINK) && check_name(p->path, err) < 0)
        return -1;
    int fd = open(p->path, O_PATH | O_CLOEXEC | (p->access & MK_JAIL_LINK ? 0 : O_NOFOLLOW));
    if (fd < 0 || fstat(fd, st) < 0)
        mk_fail_errno(err, errno, "%s", p->path);
    else if (stat("/", &root) < 0 || root.st_dev != st->st_dev || root.st_ino != st->st_ino)
        return fd;
    else
        mk_fail(err, EINVAL,
                "%s: it is the root, and with it all files: name those that are needed", p->path);
    if (fd >= 0)
        close(fd);
    return -1;
}

static int add_path(int ruleset, int version, const struct mk_jail_path *p, struct mk_err *err)
{
    struct stat st;
    int fd = open_path(p, &st, err);
    if (fd < 0)
        return p->access & MK_JAIL_OPTIONAL && err->code != EINVAL ? 0 : -1;
    int rc = add_fd(ruleset, fd, known(version, rights_of(p->access)), &st);
    if (rc < 0)
        mk_fail_errno(err, errno, "%s", p->path);
    close(fd);
    return rc;
}

/* On a kernel without Landlock, too. */
int mk_landlock_check(const struct mk_jail *jail, struct mk_err *err)
{
    struct stat st;
    for (size_t i = 0; i < jail->count; i++) {
        int fd = open_path(&jail->paths[i], &st, err);
        if (fd < 0 && (!(jail->paths[i].access & MK_JAIL_OPTIONAL) || err->code == EINVAL))
            return -1;
        if (fd >= 0)
            close(fd);
    }
    return 0;
}

const struct mk_jail_path mk_landlock_own[] = {
    { "/dev/kvm", MK_JAIL_READ | MK_JAIL_WRITE | MK_JAIL_DEVICE },
    { "/dev/null", MK_JAIL_READ | MK_JAIL_WRITE },
    { "/sys/module", MK_JAIL_READ },        /* the host's KVM and its parameters */
    { "/proc/self/pagemap", MK_JAIL_READ }, /* which pages a snapshot has */
    { "/etc/ld.so.cache", MK_JAIL_READ },   /* libraries that are loaded when they are needed */
    { "/usr/lib", MK_JAIL_READ },
    { "/usr/lib64", MK_JAIL_READ },
    { "/lib", MK_JAIL_READ },
    { "/lib64", MK_JAIL_READ },
    { "/usr/local/lib", MK_JAIL_READ },
    { "/etc/localtime", MK_JAIL_READ }, /* os.date */
    { "/usr/share/zoneinfo", MK_JAIL_READ },
    { "/usr/share/seabios", MK_JAIL_READ }, /* a BIOS for disks */
    { "/usr/share/qemu", MK_JAIL_READ },
    { "/usr/share/consolefonts", MK_JAIL_READ }, /* pictures of text screens */
    { "/usr/share/kbd", MK_JAIL_READ },
};

const size_t mk_landlock_own_count = MK_COUNT(mk_landlock_own);

/* A terminal is opened once more, so that it can be used without blocking others; a pipe may be
 * anyway. */
static void add_standard_fds(int ruleset, int version)
{
    for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
        char self[40];
        struct stat st;
        snprintf(self, sizeof(self), "/proc/self/fd/%d", i);
        int fd = isatty(i) ? open(self, O_PATH | O_CLOEXEC) : -1;
        if (fd >= 0 && fstat(fd, &st) == 0)
            add_fd(ruleset, fd,
                   known(version, rights_of(MK_JAIL_READ | MK_JAIL_WRITE | MK_JAIL_DEVICE)), &st);
        if (fd >= 0)
            close(fd);
    }
}

int mk_landlock_make(int version, const struct mk_jail *jail, struct mk_err *err)
{
    struct ruleset all = { .files = known(version, UINT64_MAX),
                           .network = version >= 4 ? 2 : 0,  /* connect by TCP: to nobody */
                           .scoped = version >= 6 ? 3 : 0 }; /* signals, abstract sockets */
    size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, size, 0), rc = 0;
    if (ruleset < 0)
        return mk_fail_errno(err, errno, "Landlock");
    for (size_t i = 0; rc == 0 && i < mk_landlock_own_count; i++) {
        struct mk_jail_path path = mk_landlock_own[i];
        path.access |= MK_JAIL_LINK | MK_JAIL_OPTIONAL;
        rc = add_path(ruleset, version, &path, err);
    }
    for (size_t i = 0; rc == 0 && i < jail->count; i++)
        rc = add_path(ruleset, version, &jail->paths[i], err);
    if (rc < 0) {
        close(ruleset);
        return -1;
    }
    add_standard_fds(ruleset, version);
    return ruleset;
}

int mk_landlock_enter(int ruleset, struct mk_err *err)
{
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        return mk_fail_errno(err, errno, "Landlock");
    return 0;
}
