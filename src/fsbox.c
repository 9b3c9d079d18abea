/* fsbox.c - see fsbox.h. */
#include "fsbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FLAGS_KNOWN (MK_FILE_READ | MK_FILE_WRITE | MK_FILE_CREATE | MK_FILE_TRUNC | MK_FILE_APPEND)

/* What an open asks for and what it may have. */
struct request {
    const char *name;
    unsigned flags;
    enum mk_verdict verdict;
    bool read_only; /* narrowed by decide() */
};

/* --- the log --- */

static struct mk_file_entry *newest(struct mk_fsbox *box)
{
    return box->audited ? &box->audit[(box->audited - 1) % MK_FILE_AUDIT] : NULL;
}

static bool repeats(const struct mk_file_entry *e, const char *op, const char *name, size_t length,
                    const char *verdict, int error)
{
    return e && e->op == op && e->error == error && e->verdict == verdict &&
           e->name_length == length && memcmp(e->name, name, length) == 0;
}

/* Caller holds the lock. `op` and `verdict` are constants. */
static void note(struct mk_fsbox *box, const char *op, const char *name, size_t length,
                 const char *verdict, int64_t result, uint64_t bytes)
{
    int error = result < 0 ? (int)-result : 0;
    if (!box->audit)
        return;
    if (length > MK_NAME_MAX)
        length = MK_NAME_MAX;
    struct mk_file_entry *e = newest(box);
    if (!repeats(e, op, name, length, verdict, error)) {
        e = &box->audit[box->audited++ % MK_FILE_AUDIT];
        *e = (struct mk_file_entry){ .op = op, .verdict = verdict, .error = error,
                                     .name_length = (unsigned)length };
        memcpy(e->name, name, length);
    }
    e->bytes += bytes;
    e->times++;
}

static const char *word_of(const struct mk_file_node *node)
{
    return mk_verdict_name(node->own && node->verdict != MK_FILE_COW ? MK_FILE_OWN
                                                                     : node->verdict);
}

/* Notes what was done on a descriptor, and passes the result on. */
static int64_t done(struct mk_fsbox *box, const char *op, const struct mk_file_slot *slot,
                    int64_t result, uint64_t bytes)
{
    if (slot)
        note(box, op, slot->node->name, strlen(slot->node->name), word_of(slot->node), result,
             bytes);
    else
        note(box, op, "", 0, "invalid", result, bytes);
    return result;
}

bool mk_fsbox_entry(struct mk_fsbox *box, uint64_t index, struct mk_file_entry *entry)
{
    pthread_mutex_lock(&box->lock);
    uint64_t first = box->audited > MK_FILE_AUDIT ? box->audited - MK_FILE_AUDIT : 0;
    bool there = box->audit && index < box->audited - first;
    if (there)
        *entry = box->audit[(first + index) % MK_FILE_AUDIT];
    pthread_mutex_unlock(&box->lock);
    return there;
}

/* --- the private directory --- */

/* A guest without files costs the host none: it is made for the first file. */
static int make_temporary(struct mk_fsbox *box)
{
    const char *where = getenv("TMPDIR");
    if (asprintf(&box->own_path, "%s/minikvm-XXXXXX", where && *where ? where : "/tmp") < 0) {
        box->own_path = NULL;
        return -ENOMEM;
    }
    if (!mkdtemp(box->own_path))
        return -errno;
    box->own = open(box->own_path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (box->own >= 0)
        return 0;
    int code = errno;
    rmdir(box->own_path);
    return -code;
}

/* One that is not there yet, named after the VM: what another run left is never touched. */
static int make_kept(struct mk_fsbox *box)
{
    char name[sizeof(box->vm_name) + 12];
    int rc = -1;
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

static bool kept(const struct mk_fsbox *box)
{
    return box->policy && box->policy->keep >= 0;
}

static int need_own(struct mk_fsbox *box)
{
    if (box->own >= 0)
        return 0;
    int rc = kept(box) ? make_kept(box) : make_temporary(box);
    if (rc < 0) {
        free(box->own_path);
        box->own_path = NULL;
    }
    return rc;
}

static void leave_own(struct mk_fsbox *box)
{
    if (box->own < 0)
        return;
    if (!kept(box)) {
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

/* --- nodes: open files by name --- */

static struct mk_file_node *node_of(struct mk_fsbox *box, const char *name)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++)
        if (box->node[i].users && strcmp(box->node[i].name, name) == 0)
            return &box->node[i];
    return NULL;
}

static void node_release(struct mk_file_node *node)
{
    if (--node->users == 0)
        close(node->fd);
}

/* There are as many nodes as descriptors, so one is free. */
static struct mk_file_node *node_new(struct mk_fsbox *box, const char *name, int fd, bool own)
{
    struct mk_file_node *node = box->node;
    while (node->users)
        node++;
    *node = (struct mk_file_node){ .fd = fd, .own = own, .writable = own, .users = 1 };
    snprintf(node->name, sizeof(node->name), "%s", name);
    return node;
}

static int open_own(struct mk_fsbox *box, const char *name)
{
    return box->own < 0 ? -ENOENT : mk_path_open(box->own, name, O_RDWR);
}

static int open_root(struct mk_fsbox *box, const char *name, int flags)
{
    return mk_path_open(box->policy->root, name, flags);
}

/* Looks where the verdict says: an own file hides the root's, except where the root's itself is
 * meant. */
static int find(struct mk_fsbox *box, const struct request *r, bool *own)
{
    bool root = box->policy && box->policy->root >= 0 && r->verdict != MK_FILE_OWN;
    bool own_first = !root || r->verdict == MK_FILE_COW;
    int fd = own_first ? open_own(box, r->name) : open_root(box, r->name, O_RDONLY);
    *own = own_first;
    if (fd != -ENOENT || !root || r->verdict == MK_FILE_RO)
        return fd;
    *own = !own_first;
    return own_first ? open_root(box, r->name, O_RDONLY) : open_own(box, r->name);
}

/* --- writing to what was the root's --- */

static bool same_file(int a, int b)
{
    struct stat one, other;
    return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

/* The lock keeps other VMs, and other programs that use flock(), from writing meanwhile. */
static int lock_file(struct mk_file_node *node, int fd, enum mk_verdict verdict)
{
    if (verdict == MK_FILE_RW && !node->locked) {
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
            return errno == EWOULDBLOCK ? -EBUSY : -errno;
        node->locked = true;
    }
    return 0;
}

/* rw and shared-rw: the same file again, for writing. */
static int reopen(struct mk_fsbox *box, struct mk_file_node *node, enum mk_verdict verdict)
{
    if (node->writable)
        return lock_file(node, node->fd, verdict);
    int fd = open_root(box, node->name, O_RDWR);
    int rc = fd < 0 ? fd : same_file(fd, node->fd) ? lock_file(node, fd, verdict) : -ESTALE;
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    close(node->fd);
    node->fd = fd;
    return node->writable = true, 0;
}

/* Room for one file more, within the quota and on the host. */
static int room_for_file(struct mk_fsbox *box)
{
    return box->files >= box->limits.files ? -ENOSPC : need_own(box);
}

static int new_file(struct mk_fsbox *box, const char *name)
{
    int fd = room_for_file(box);
    if (fd == 0)
        fd = mk_path_create(box->own, name);
    if (fd >= 0)
        box->files++;
    return fd;
}

static int copy_file(struct mk_fsbox *box, const struct mk_file_node *node)
{
    struct stat st;
    if (fstat(node->fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size > box->limits.file)
        return -EFBIG;
    int fd = room_for_file(box);
    if (fd == 0)
        fd = mk_path_copy(box->own, node->name, node->fd);
    if (fd >= 0)
        box->files++;
    note(box, "copy", node->name, strlen(node->name), mk_verdict_name(MK_FILE_COW),
         fd < 0 ? fd : 0, fd < 0 ? 0 : (uint64_t)st.st_size);
    return fd;
}

/* cow: from here on this VM has a file of its own, for all its descriptors on that name. */
static int make_own(struct mk_fsbox *box, struct mk_file_node *node, unsigned flags)
{
    int fd = flags & MK_FILE_TRUNC ? new_file(box, node->name) : copy_file(box, node);
    if (fd < 0)
        return fd;
    close(node->fd);
    node->fd = fd;
    node->locked = false;
    node->own = node->writable = true;
    return 0;
}

static int make_writable(struct mk_fsbox *box, struct mk_file_node *node, const struct request *r)
{
    if (node->own)
        return 0;
    return r->verdict == MK_FILE_COW ? make_own(box, node, r->flags)
                                     : reopen(box, node, r->verdict);
}

/* --- open --- */

static bool writes(unsigned flags)
{
    return flags & (MK_FILE_WRITE | MK_FILE_TRUNC);
}

/* The node with one user more, or a negated errno in *rc. */
static struct mk_file_node *take_node(struct mk_fsbox *box, const struct request *r, int *rc)
{
    struct mk_file_node *node = node_of(box, r->name);
    bool own = true;
    if (node) {
        node->users++;
        return node;
    }
    *rc = find(box, r, &own);
    if (*rc == -ENOENT && r->flags & (MK_FILE_WRITE | MK_FILE_CREATE)) {
        own = true;
        *rc = r->verdict == MK_FILE_RO || r->read_only ? -EROFS : new_file(box, r->name);
    }
    return *rc < 0 ? NULL : node_new(box, r->name, *rc, own);
}

static int prepare(struct mk_fsbox *box, struct mk_file_node *node, const struct request *r)
{
    if (!writes(r->flags))
        return 0;
    int rc = make_writable(box, node, r);
    if (rc == 0 && r->flags & MK_FILE_TRUNC && ftruncate(node->fd, 0) < 0)
        rc = -errno;
    return rc;
}

static int free_slot(const struct mk_fsbox *box)
{
    unsigned used = 0;
    int slot = -1;
    for (int i = MK_FILES_OPEN - 1; i >= 0; i--) {
        if (box->slot[i].node)
            used++;
        else
            slot = i;
    }
    return used >= box->limits.open ? -EMFILE : slot;
}

static int open_locked(struct mk_fsbox *box, const struct request *r)
{
    int slot = free_slot(box), rc = 0;
    if (r->verdict == MK_FILE_DENY)
        return -EACCES;
    if (slot < 0)
        return -EMFILE;
    if (writes(r->flags) && (r->verdict == MK_FILE_RO || r->read_only))
        return -EROFS;
    struct mk_file_node *node = take_node(box, r, &rc);
    if (!node)
        return rc;
    rc = prepare(box, node, r);
    if (rc < 0) {
        node_release(node);
        return rc;
    }
    node->verdict = r->verdict;
    box->slot[slot] = (struct mk_file_slot){ .node = node, .flags = r->flags };
    return slot;
}

/* Asks decide(), whose answer can only take away. Without the lock. */
static void judge(struct mk_fsbox *box, void *caller, struct request *r)
{
    r->verdict = box->policy ? mk_policy_match(box->policy, r->name) : MK_FILE_OWN;
    if (r->verdict == MK_FILE_DENY || !box->decide)
        return;
    enum mk_verdict limit = box->decide(box->ctx, caller, r->name, r->flags, r->verdict);
    if (limit == MK_FILE_RO && r->verdict != MK_FILE_RO)
        r->read_only = true; /* where it lies is the rule's matter: "ro" opens no root to it */
    else if (limit < r->verdict)
        r->verdict = limit;
}

/* What the guest is told of the host's own reasons. */
static int64_t for_guest(int64_t rc)
{
    switch (rc) {
    case -ELOOP: case -EXDEV: case -EISDIR: case -ENXIO: case -EPERM: case -ETXTBSY: case -EEXIST:
        return -EACCES; /* no regular file that this VM may have */
    case -EDQUOT: return -ENOSPC;
    case -ENFILE: return -EMFILE;
    default: return rc;
    }
}

int64_t mk_fsbox_open(struct mk_fsbox *box, void *caller, const char *name, size_t length,
                      unsigned flags)
{
    char text[MK_NAME_MAX + 1];
    struct request r = { .name = text, .flags = flags };
    int64_t rc = mk_path_check(name, length);
    if (rc == 0 && (flags & ~FLAGS_KNOWN || !(flags & (MK_FILE_READ | MK_FILE_WRITE))))
        rc = -EINVAL;
    bool valid = rc == 0;
    if (valid) {
        memcpy(text, name, length);
        text[length] = 0;
        judge(box, caller, &r);
    }
    pthread_mutex_lock(&box->lock);
    if (valid)
        rc = for_guest(open_locked(box, &r));
    note(box, "open", name, length, valid ? mk_verdict_name(r.verdict) : "invalid", rc, 0);
    pthread_mutex_unlock(&box->lock);
    return rc;
}

/* --- descriptors --- */

/* Takes the lock, which the caller gives back; NULL when there is no such descriptor. */
static struct mk_file_slot *enter(struct mk_fsbox *box, int32_t fd)
{
    pthread_mutex_lock(&box->lock);
    bool good = fd >= 0 && fd < MK_FILES_OPEN && box->slot[fd].node;
    return good ? &box->slot[fd] : NULL;
}

static int64_t leave(struct mk_fsbox *box, int64_t result)
{
    pthread_mutex_unlock(&box->lock);
    return result;
}

int64_t mk_fsbox_close(struct mk_fsbox *box, int32_t fd)
{
    struct mk_file_slot *slot = enter(box, fd);
    if (!slot)
        return leave(box, done(box, "close", NULL, -EBADF, 0));
    done(box, "close", slot, 0, 0);
    node_release(slot->node);
    slot->node = NULL;
    return leave(box, 0);
}

/* All that is there, however many calls the kernel takes. */
static int64_t read_from(const struct mk_file_slot *slot, uint8_t *to, size_t count)
{
    size_t got = 0;
    if (count > (uint64_t)(INT64_MAX - slot->at))
        count = (size_t)(INT64_MAX - slot->at);
    while (got < count) {
        ssize_t n = pread(slot->node->fd, to + got, count - got, slot->at + (int64_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && got == 0)
            return -errno;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    return (int64_t)got;
}

int64_t mk_fsbox_read(struct mk_fsbox *box, int32_t fd, void *to, size_t count)
{
    struct mk_file_slot *slot = enter(box, fd);
    if (!slot || !(slot->flags & MK_FILE_READ))
        return leave(box, done(box, "read", slot, -EBADF, 0));
    int64_t n = for_guest(read_from(slot, to, count));
    if (n > 0)
        slot->at += n;
    return leave(box, done(box, "read", slot, n, n > 0 ? (uint64_t)n : 0));
}

/* How much of `count` bytes at the slot's position the quotas leave; 0 with *rc when nothing. */
static size_t within_limits(const struct mk_fsbox *box, const struct mk_file_slot *slot,
                            size_t count, int64_t *rc)
{
    uint64_t at = (uint64_t)slot->at;
    uint64_t size = at < box->limits.file ? box->limits.file - at : 0;
    uint64_t bytes = box->bytes < box->limits.bytes ? box->limits.bytes - box->bytes : 0;
    *rc = size == 0 ? -EFBIG : bytes == 0 ? -ENOSPC : 0;
    if (count > size)
        count = size;
    return count > bytes ? bytes : count;
}

/* Another VM may append to the same file: the kernel finds its end and writes there in one step. */
static ssize_t write_some(const struct mk_file_slot *slot, const uint8_t *from, size_t count,
                          int64_t at)
{
    struct iovec part = { (void *)from, count };
    if (slot->flags & MK_FILE_APPEND && !slot->node->own)
        return pwritev2(slot->node->fd, &part, 1, -1, RWF_APPEND);
    return pwrite(slot->node->fd, from, count, at);
}

/* An error after a part was written is found again by the next write; the part counts. */
static int64_t write_to(const struct mk_file_slot *slot, const uint8_t *from, size_t count)
{
    size_t put = 0;
    while (put < count) {
        ssize_t n = write_some(slot, from + put, count - put, slot->at + (int64_t)put);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && put == 0)
            return -errno;
        if (n <= 0)
            break;
        put += (size_t)n;
    }
    return (int64_t)put;
}

static int64_t end_of(const struct mk_file_slot *slot)
{
    struct stat st;
    return fstat(slot->node->fd, &st) < 0 ? -errno : (int64_t)st.st_size;
}

static int64_t write_slot(struct mk_fsbox *box, struct mk_file_slot *slot, const void *from,
                          size_t count)
{
    int64_t rc = 0, end = slot->flags & MK_FILE_APPEND ? end_of(slot) : slot->at;
    if (end < 0)
        return end;
    if (count == 0)
        return 0;
    slot->at = end;
    count = within_limits(box, slot, count, &rc);
    if (rc < 0)
        return rc;
    int64_t n = write_to(slot, from, count);
    if (n > 0) {
        box->bytes += (uint64_t)n;
        slot->at += n;
    }
    return n;
}

int64_t mk_fsbox_write(struct mk_fsbox *box, int32_t fd, const void *from, size_t count)
{
    struct mk_file_slot *slot = enter(box, fd);
    if (!slot || !(slot->flags & MK_FILE_WRITE))
        return leave(box, done(box, "write", slot, -EBADF, 0));
    int64_t n = for_guest(write_slot(box, slot, from, count));
    return leave(box, done(box, "write", slot, n, n > 0 ? (uint64_t)n : 0));
}

static int64_t seek_slot(struct mk_file_slot *slot, int64_t offset, unsigned whence, int64_t max)
{
    int64_t base = whence == MK_FILE_END ? end_of(slot) : whence == MK_FILE_CUR ? slot->at : 0, at;
    if (whence > MK_FILE_END)
        return -EINVAL;
    if (base < 0)
        return base;
    if (__builtin_add_overflow(base, offset, &at))
        return -EOVERFLOW;
    if (at < 0)
        return -EINVAL;
    if (at > max)
        return -EOVERFLOW;
    return slot->at = at;
}

int64_t mk_fsbox_seek(struct mk_fsbox *box, int32_t fd, int64_t offset, unsigned whence,
                      int64_t max)
{
    struct mk_file_slot *slot = enter(box, fd);
    int64_t at = slot ? seek_slot(slot, offset, whence, max) : -EBADF;
    return leave(box, done(box, "seek", slot, at, 0));
}

int64_t mk_fsbox_size(struct mk_fsbox *box, int32_t fd)
{
    struct mk_file_slot *slot = enter(box, fd);
    int64_t size = slot ? end_of(slot) : -EBADF;
    return leave(box, done(box, "stat", slot, size, 0));
}

/* --- life --- */

/* A name that can be a directory's: the VM's own, other characters replaced. */
static void set_name(struct mk_fsbox *box, const char *vm_name)
{
    snprintf(box->vm_name, sizeof(box->vm_name), "%s", vm_name);
    for (char *c = box->vm_name; *c; c++)
        if (*c == '/' || mk_path_check((char[]){ 'x', *c }, 2) < 0)
            *c = '_';
    if (mk_path_check(box->vm_name, strlen(box->vm_name)) < 0)
        strcpy(box->vm_name, "vm");
}

/* More than the process itself may write would end it with SIGXFSZ. */
static void set_limits(struct mk_fsbox *box)
{
    struct rlimit r;
    box->limits = box->policy ? box->policy->limits : mk_file_limits_default;
    if (box->limits.open > MK_FILES_OPEN)
        box->limits.open = MK_FILES_OPEN;
    if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY &&
        box->limits.file > r.rlim_cur)
        box->limits.file = r.rlim_cur;
    if (box->limits.file > INT64_MAX)
        box->limits.file = INT64_MAX;
}

int mk_fsbox_init(struct mk_fsbox *box, const char *vm_name, struct mk_policy *policy,
                  struct mk_err *err)
{
    *box = (struct mk_fsbox){ .own = -1, .policy = policy ? mk_policy_hold(policy) : NULL };
    pthread_mutex_init(&box->lock, NULL);
    set_name(box, vm_name);
    set_limits(box);
    if (policy && policy->audit) {
        box->audit = calloc(MK_FILE_AUDIT, sizeof(*box->audit));
        if (!box->audit)
            return mk_fail_errno(err, ENOMEM, "vm \"%s\": audit log", vm_name);
    }
    return 0;
}

void mk_fsbox_reset(struct mk_fsbox *box)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        if (box->slot[i].node)
            node_release(box->slot[i].node);
        box->slot[i].node = NULL;
    }
    leave_own(box);
    box->bytes = box->files = 0;
}

void mk_fsbox_free(struct mk_fsbox *box)
{
    mk_fsbox_reset(box);
    mk_policy_drop(box->policy);
    box->policy = NULL;
    free(box->audit);
    box->audit = NULL;
    pthread_mutex_destroy(&box->lock);
}
