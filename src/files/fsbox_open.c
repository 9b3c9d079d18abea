/* fsbox_open.c - opening a file: what the policy says of the name, where it is looked for, and the
 * copy that a VM gets when it writes. */
#include "files/fsbox_in.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLAGS_KNOWN (MK_FILE_READ | MK_FILE_WRITE | MK_FILE_CREATE | MK_FILE_TRUNC | MK_FILE_APPEND)

/* What an open asks for and what it may have. */
struct request {
    const char *name;
    unsigned flags;
    enum mk_verdict verdict;
    bool read_only; /* narrowed by decide() */
    void *caller;
};

/* --- nodes: open files by name --- */

static bool same_file(int a, int b)
{
    struct stat one, other;
    return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

/* That of the file which bears the name now: the host may have replaced it by another meanwhile. */
static struct mk_file_node *node_of(struct mk_fsbox *box, const char *name, int fd)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++)
        if (box->node[i].users && strcmp(box->node[i].name, name) == 0 &&
            same_file(fd, box->node[i].fd))
            return &box->node[i];
    return NULL;
}

void mk_fsbox_close_node(struct mk_file_node *node)
{
    if (--node->users == 0)
        close(node->fd);
}

void mk_fsbox_close_all(struct mk_fsbox *box)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        if (box->slot[i].node)
            mk_fsbox_close_node(box->slot[i].node);
        box->slot[i].node = NULL;
    }
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
    return box->files >= box->limits.files ? -ENOSPC : mk_fsbox_open_own(box);
}

/* One file more; the descriptor, or why not. */
static int claim_new(struct mk_fsbox *box, const char *name, int fd)
{
    int rc = mk_fsbox_claim(box, name);
    box->files++;
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static int new_file(struct mk_fsbox *box, const char *name)
{
    int fd = room_for_file(box);
    if (fd == 0)
        fd = mk_path_create(box->own, name);
    return fd < 0 ? fd : claim_new(box, name, fd);
}

static int copy_file(struct mk_fsbox *box, const struct mk_file_node *node, void *caller)
{
    struct stat st;
    if (fstat(node->fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size > box->limits.file)
        return -EFBIG;
    int fd = room_for_file(box);
    uint64_t size = (uint64_t)st.st_size, taken = fd == 0 ? mk_fsbox_take(size) : 0;
    if (fd == 0 && taken < size)
        fd = -ENOSPC;
    if (fd == 0)
        fd = mk_path_copy(box->own, node->name,
                          mk_fsbox_is_persistent(box) ? box->policy->keep : box->own, node->fd,
                          box->may_continue, caller);
    if (fd >= 0)
        fd = claim_new(box, node->name, fd);
    if (fd < 0)
        mk_fsbox_give_back(taken);
    mk_fsbox_log(box, "copy", node->name, strlen(node->name), mk_verdict_name(MK_FILE_COW),
                 fd < 0 ? fd : 0, fd < 0 ? 0 : size);
    return fd;
}

/* cow: from here on this VM has a file of its own, for all its descriptors on that name. */
static int make_own(struct mk_fsbox *box, struct mk_file_node *node, const struct request *r)
{
    int fd = r->flags & MK_FILE_TRUNC ? new_file(box, node->name) : copy_file(box, node, r->caller);
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
        return mk_fsbox_claim(box, node->name);
    return r->verdict == MK_FILE_COW ? make_own(box, node, r) : reopen(box, node, r->verdict);
}

/* --- open --- */

static bool writes(unsigned flags)
{
    return flags & (MK_FILE_WRITE | MK_FILE_TRUNC);
}

/* The node with one user more, or a negated errno in *rc. */
static struct mk_file_node *get_node(struct mk_fsbox *box, const struct request *r, int *rc)
{
    struct mk_file_node *node;
    bool own = true;
    *rc = find(box, r, &own);
    if (*rc >= 0 && (node = node_of(box, r->name, *rc))) {
        close(*rc);
        node->users++;
        return node;
    }
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
    struct mk_file_node *node = get_node(box, r, &rc);
    if (!node)
        return rc;
    rc = prepare(box, node, r);
    if (rc < 0) {
        mk_fsbox_close_node(node);
        return rc;
    }
    node->verdict = r->verdict;
    box->slot[slot] = (struct mk_file_slot){ .node = node, .flags = r->flags };
    return slot;
}

/* Asks decide(), whose answer can only take away. Without the lock. */
static void check_access(struct mk_fsbox *box, void *caller, struct request *r)
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

int64_t mk_fsbox_guest_errno(int64_t rc)
{
    switch (rc) {
    case -ELOOP:
    case -EXDEV:
    case -EISDIR:
    case -ENXIO:
    case -EPERM:
    case -ETXTBSY:
    case -EEXIST: return -EACCES; /* no regular file that this VM may have */
    case -EDQUOT: return -ENOSPC;
    case -ENFILE: return -EMFILE;
    default: return rc;
    }
}

int64_t mk_fsbox_open(struct mk_fsbox *box, void *caller, const char *name, size_t length,
                      unsigned flags)
{
    char text[MK_NAME_MAX + 1];
    struct request r = { .name = text, .flags = flags, .caller = caller };
    int64_t rc = mk_path_check(name, length);
    if (rc == 0 && (flags & ~FLAGS_KNOWN || !(flags & (MK_FILE_READ | MK_FILE_WRITE))))
        rc = -EINVAL;
    bool valid = rc == 0;
    if (valid) {
        memcpy(text, name, length);
        text[length] = 0;
        check_access(box, caller, &r);
    }
    pthread_mutex_lock(&box->lock);
    if (valid)
        rc = mk_fsbox_guest_errno(open_locked(box, &r));
    mk_fsbox_log(box, "open", name, length, valid ? mk_verdict_name(r.verdict) : "invalid", rc, 0);
    pthread_mutex_unlock(&box->lock);
    return rc;
}
