/* fsbox.c - see fsbox.h. Descriptors and what is done on them; a box's beginning and end. */
#include "files/fsbox_in.h"
#include "io/rw.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* --- the log --- */

static const char *verdict_of(const struct mk_file_node *node)
{
    return mk_verdict_name(node->own && node->verdict != MK_FILE_COW ? MK_FILE_OWN : node->verdict);
}

/* Notes what was done on a descriptor, and passes the result on. */
static int64_t log_result(struct mk_fsbox *box, const char *op, const struct mk_file_slot *slot,
                          int64_t result, uint64_t bytes)
{
    if (slot)
        mk_fsbox_log(box, op, slot->node->name, strlen(slot->node->name), verdict_of(slot->node),
                     result, bytes);
    else
        mk_fsbox_log(box, op, "", 0, "invalid", result, bytes);
    return result;
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
        return leave(box, log_result(box, "close", NULL, -EBADF, 0));
    log_result(box, "close", slot, 0, 0);
    mk_fsbox_close_node(slot->node);
    slot->node = NULL;
    return leave(box, 0);
}

/* All that is there, however many calls the kernel takes. */
static int64_t read_from(const struct mk_file_slot *slot, uint8_t *to, size_t count)
{
    if (count > (uint64_t)(INT64_MAX - slot->at))
        count = (size_t)(INT64_MAX - slot->at);
    ssize_t n = mk_read_at(slot->node->fd, to, count, slot->at);
    return n < 0 ? -errno : n;
}

int64_t mk_fsbox_read(struct mk_fsbox *box, int32_t fd, void *to, size_t count)
{
    struct mk_file_slot *slot = enter(box, fd);
    if (!slot || !(slot->flags & MK_FILE_READ))
        return leave(box, log_result(box, "read", slot, -EBADF, 0));
    int64_t n = mk_fsbox_guest_errno(read_from(slot, to, count));
    if (n > 0)
        slot->at += n;
    return leave(box, log_result(box, "read", slot, n, n > 0 ? (uint64_t)n : 0));
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
    count = mk_fsbox_take(count);
    if (count == 0)
        return -ENOSPC;
    int64_t n = write_to(slot, from, count);
    mk_fsbox_give_back(count - (n > 0 ? (uint64_t)n : 0));
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
        return leave(box, log_result(box, "write", slot, -EBADF, 0));
    int64_t n = mk_fsbox_guest_errno(write_slot(box, slot, from, count));
    return leave(box, log_result(box, "write", slot, n, n > 0 ? (uint64_t)n : 0));
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
    return leave(box, log_result(box, "seek", slot, at, 0));
}

int64_t mk_fsbox_size(struct mk_fsbox *box, int32_t fd)
{
    struct mk_file_slot *slot = enter(box, fd);
    int64_t size = slot ? end_of(slot) : -EBADF;
    return leave(box, log_result(box, "stat", slot, size, 0));
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
    box->limits = box->policy ? box->policy->limits : mk_file_limits_default;
    if (box->limits.open > MK_FILES_OPEN)
        box->limits.open = MK_FILES_OPEN;
    if (box->limits.file > mk_file_limit())
        box->limits.file = mk_file_limit();
    if (box->limits.file > INT64_MAX)
        box->limits.file = INT64_MAX;
}

int mk_fsbox_init(struct mk_fsbox *box, const char *vm_name, struct mk_policy *policy,
                  struct mk_err *err)
{
    *box = (struct mk_fsbox){ .own = -1, .policy = policy ? mk_policy_ref(policy) : NULL };
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
    mk_fsbox_close_all(box);
    mk_fsbox_close_own(box);
    box->bytes = box->files = 0;
}

void mk_fsbox_free(struct mk_fsbox *box)
{
    mk_fsbox_reset(box);
    mk_policy_unref(box->policy);
    box->policy = NULL;
    free(box->audit);
    box->audit = NULL;
    pthread_mutex_destroy(&box->lock);
}
