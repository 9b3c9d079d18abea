/* fsbox_own.c - a VM's private directory: one that vanishes with it, or one that stays. Where a
 * process is killed, what should have vanished goes when the next one makes a directory. */
#include "files/fsbox_in.h"
#include "io/rw.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "minikvm-files-"

static bool forbidden;
static char *folder; /* below which temporary ones are made; NULL: below TMPDIR */
static atomic_flag swept = ATOMIC_FLAG_INIT; /* this process has looked for what others left */

static const char *parent(void)
{
    const char *where = getenv("TMPDIR");
    return where && *where ? where : "/tmp";
}

/* --- what a process that was killed left --- */

/* Directories or files whose names begin so; takes the descriptor over. */
static void remove_stale(int dir, const char *prefix, mode_t type)
{
    DIR *list = dir < 0 ? NULL : fdopendir(dir);
    for (struct dirent *e; list && (e = readdir(list));) {
        int fd = strncmp(e->d_name, prefix, strlen(prefix)) == 0
                     ? mk_open_stale(dir, e->d_name, type)
                     : -1;
        if (fd < 0)
            continue;
        if (type == S_IFDIR)
            mk_path_empty(fd);
        unlinkat(dir, e->d_name, type == S_IFDIR ? AT_REMOVEDIR : 0);
        close(fd);
    }
    if (list)
        closedir(list);
    else if (dir >= 0)
        close(dir);
}

static void sweep(void)
{
    if (!atomic_flag_test_and_set(&swept))
        remove_stale(open(parent(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), PREFIX, S_IFDIR);
}

/* Makes one below `where`, locks it and opens it: its descriptor and its path, or a negated errno.
 * Again where somebody takes it for stale before it is locked. */
static int make_locked(const char *where, char **path)
{
    for (;;) {
        if (asprintf(path, "%s/" PREFIX "XXXXXX", where) < 0)
            return *path = NULL, -ENOMEM;
        bool made = mkdtemp(*path);
        int fd = made ? open(*path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        int code = errno;
        bool lost = made && (fd < 0 ? code == ENOENT
                                    : (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) ||
                                          !mk_file_is_named(fd, AT_FDCWD, *path));
        if (fd >= 0 && !lost)
            return fd;
        if (fd >= 0)
            close(fd);
        if (made)
            rmdir(*path);
        free(*path);
        *path = NULL;
        if (!lost)
            return -code;
    }
}

/* --- a folder for all of them --- */

static void remove_folder(void)
{
    if (folder)
        rmdir(folder);
}

int mk_fsbox_make_folder(const char **path, const char **below, struct mk_err *err)
{
    char *name = NULL;
    if (folder)
        return mk_fail(err, EALREADY, "%s: the folder of private directories is there", folder);
    sweep();
    int fd = make_locked(parent(), &name); /* open, and locked, until the process ends */
    if (fd < 0 || atexit(remove_folder) != 0) {
        mk_fail_errno(err, fd < 0 ? -fd : ENOMEM, "%s: a folder for private directories", parent());
        if (fd >= 0) {
            rmdir(name);
            close(fd);
        }
        free(name);
        return -1;
    }
    *path = folder = name;
    *below = parent();
    return 0;
}

int mk_fsbox_use_folder(const char *path, struct mk_err *err)
{
    forbidden = !path;
    folder = path ? strdup(path) : NULL;
    return folder || forbidden ? 0 : mk_fail_errno(err, ENOMEM, "a folder for private directories");
}

/* --- what may be written --- */

static _Atomic uint64_t granted = UINT64_MAX; /* bytes that are left; UINT64_MAX: no limit */

void mk_fsbox_grant(uint64_t bytes)
{
    granted = bytes;
}

uint64_t mk_fsbox_take(uint64_t wanted)
{
    uint64_t left = granted, taken;
    do {
        if (left == UINT64_MAX)
            return wanted;
        taken = wanted < left ? wanted : left;
    } while (!atomic_compare_exchange_weak(&granted, &left, left - taken));
    return taken;
}

void mk_fsbox_give_back(uint64_t bytes)
{
    uint64_t left = granted;
    while (left != UINT64_MAX && !atomic_compare_exchange_weak(&granted, &left, left + bytes))
        ;
}

/* --- one VM's --- */

/* A guest without files costs the host none: it is made for the first file. */
static int make_temporary(struct mk_fsbox *box)
{
    if (forbidden)
        return -EACCES;
    if (!folder)
        sweep();
    int fd = make_locked(folder ? folder : parent(), &box->own_path);
    if (fd < 0)
        return fd;
    box->own = fd;
    return 0;
}

/* One that is not there yet, named after the VM: what another run left is never touched. */
static int make_persistent(struct mk_fsbox *box)
{
    char name[sizeof(box->vm_name) + 12];
    int rc = -1, keep = openat(box->policy->keep, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    remove_stale(keep, MK_COPY_PREFIX, S_IFREG);
    for (unsigned i = 1; rc < 0 && i < 1000000; i++) {
        snprintf(name, sizeof(name), i > 1 ? "%s-%u" : "%s", box->vm_name, i);
        rc = mkdirat(box->policy->keep, name, 0777);
        if (rc < 0 && errno != EEXIST)
            break;
    }
    if (rc < 0)
        return -errno;
    if (asprintf(&box->own_path, "%s/%s", box->policy->keep_path, name) < 0) {
        box->own_path = NULL;
        return -ENOMEM;
    }
    box->own = openat(box->policy->keep, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return box->own < 0 ? -errno : 0;
}

bool mk_fsbox_is_persistent(const struct mk_fsbox *box)
{
    return box->policy && box->policy->keep >= 0;
}

int mk_fsbox_open_own(struct mk_fsbox *box)
{
    if (box->own >= 0)
        return 0;
    int rc = mk_fsbox_is_persistent(box) ? make_persistent(box) : make_temporary(box);
    if (rc < 0) {
        free(box->own_path);
        box->own_path = NULL;
    }
    return rc;
}

int mk_fsbox_claim(struct mk_fsbox *box, const char *name)
{
    if (!mk_fsbox_is_persistent(box))
        return 0;
    for (size_t i = 0; i < box->made_count; i++)
        if (strcmp(box->made[i], name) == 0)
            return 0;
    char **made = realloc(box->made, (box->made_count + 1) * sizeof(*made));
    if (made)
        box->made = made;
    char *copy = made ? strdup(name) : NULL;
    if (!copy)
        return -ENOMEM;
    box->made[box->made_count++] = copy;
    return 0;
}

static void free_made(struct mk_fsbox *box)
{
    for (size_t i = 0; i < box->made_count; i++)
        free(box->made[i]);
    free(box->made);
    box->made = NULL;
    box->made_count = 0;
}

void mk_fsbox_empty_own(struct mk_fsbox *box)
{
    if (box->own >= 0 && !mk_fsbox_is_persistent(box))
        mk_path_empty(box->own);
    for (size_t i = 0; i < box->made_count; i++)
        mk_path_remove(box->own, box->made[i]);
    free_made(box);
}

void mk_fsbox_close_own(struct mk_fsbox *box)
{
    if (box->own < 0)
        return;
    free_made(box);
    if (!mk_fsbox_is_persistent(box)) {
        mk_path_empty(box->own);
        rmdir(box->own_path);
    }
    close(box->own);
    box->own = -1;
    free(box->own_path);
    box->own_path = NULL;
}

char *mk_fsbox_directory(struct mk_fsbox *box)
{
    pthread_mutex_lock(&box->lock);
    char *path = box->own_path ? strdup(box->own_path) : NULL;
    pthread_mutex_unlock(&box->lock);
    return path;
}
