/* disk_io.c - reading and writing a disk: its file, and the layer over that. See disk.h. man 2
 * preadv, pwritev, fallocate, setrlimit (RLIMIT_FSIZE). */
#include "files/disk.h"
#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BLOCK MK_LAYER_BLOCK
#define PIECES 256 /* of one call to the kernel */

typedef unsigned long long ull;

/* --- pieces of memory, from byte `skip` of the first on --- */

struct pieces {
    const struct iovec *iov;
    unsigned count;
    size_t skip;
};

/* The next pieces, `length` bytes of them at the most; how many bytes they are. */
static size_t peek(const struct pieces *p, size_t length, struct iovec *to, unsigned *count)
{
    size_t bytes = 0, skip = p->skip;
    *count = 0;
    for (unsigned i = 0; i < p->count && bytes < length && *count < PIECES; i++, skip = 0) {
        size_t here = p->iov[i].iov_len - skip;
        if (here > length - bytes)
            here = length - bytes;
        if (here)
            to[(*count)++] = (struct iovec){ (uint8_t *)p->iov[i].iov_base + skip, here };
        bytes += here;
    }
    return bytes;
}

static void advance(struct pieces *p, size_t bytes)
{
    p->skip += bytes;
    while (p->count && p->skip >= p->iov->iov_len) {
        p->skip -= p->iov->iov_len;
        p->iov++;
        p->count--;
    }
}

/* Into the pieces, or out of them; `block` NULL: zeros. */
static void copy(struct pieces *p, uint8_t *block, size_t length, bool in)
{
    struct iovec v[PIECES];
    unsigned count;
    while (length) {
        size_t bytes = peek(p, length, v, &count);
        for (unsigned i = 0; i < count; i++) {
            if (!block)
                memset(v[i].iov_base, 0, v[i].iov_len);
            else
                memcpy(in ? v[i].iov_base : block, in ? block : v[i].iov_base, v[i].iov_len);
            block = block ? block + v[i].iov_len : NULL;
        }
        advance(p, bytes);
        length -= bytes;
    }
}

/* --- the file --- */

/* What the kernel, or a server, did of the next pieces: bytes, or -1 with *err. */
static ssize_t once(const struct mk_disk *disk, uint64_t at, const struct pieces *p, size_t length,
                    bool write, struct mk_err *err)
{
    struct iovec v[PIECES];
    unsigned count;
    ssize_t n;
    peek(p, length, v, &count);
    if (disk->nbd)
        return mk_nbd_do(disk->nbd, write ? MK_NBD_WRITE : MK_NBD_READ, at, v->iov_base, v->iov_len,
                         err) < 0
                   ? -1
                   : (ssize_t)v->iov_len;
    do
        n = write ? pwritev(disk->fd, v, (int)count, (off_t)at)
                  : preadv(disk->fd, v, (int)count, (off_t)at);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        mk_fail_errno(err, errno, "%s: %s at %llu", disk->name, write ? "writing" : "reading",
                      (ull)at);
    return n;
}

/* What lies behind the end of the file, in its last sector, is zero. */
static int read_file(const struct mk_disk *disk, uint64_t at, struct pieces *p, size_t length,
                     struct mk_err *err)
{
    size_t there = at >= disk->length           ? 0
                   : length < disk->length - at ? length
                                                : (size_t)(disk->length - at);
    size_t behind = length - there;
    while (there) {
        ssize_t n = once(disk, at, p, there, false, err);
        if (n < 0)
            return -1;
        if (n == 0)
            return mk_fail(err, EIO,
                           "%s: the file ends at %llu, it had %llu bytes when it was opened",
                           disk->name, (ull)at, (ull)disk->length);
        advance(p, (size_t)n);
        at += (size_t)n;
        there -= (size_t)n;
    }
    copy(p, NULL, behind, true);
    return 0;
}

static int write_file(const struct mk_disk *disk, uint64_t at, struct pieces *p, size_t length,
                      struct mk_err *err)
{
    if (!disk->nbd && at + length > mk_file_limit()) /* it would end the process */
        return mk_fail_errno(err, EFBIG, "%s: writing at %llu (ulimit -f)", disk->name, (ull)at);
    while (length) {
        ssize_t n = once(disk, at, p, length, true, err);
        if (n == 0)
            return mk_fail_errno(err, EIO, "%s: writing at %llu", disk->name, (ull)at);
        if (n < 0)
            return -1;
        advance(p, (size_t)n);
        at += (size_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int mk_disk_read_below(const struct mk_disk *disk, uint64_t at, void *to, size_t length,
                       struct mk_err *err)
{
    const struct iovec v = { to, length };
    struct pieces p = { &v, 1, 0 };
    return read_file(disk, at, &p, length, err);
}

/* --- reading --- */

/* How many bytes from `at` on, `length` at the most, are all in one block of the layer, or all in
 * none. */
static size_t run_of(const struct mk_disk *disk, uint64_t at, size_t length, const uint8_t **block)
{
    size_t run = BLOCK - at % BLOCK;
    *block = NULL;
    if (!disk->layer || disk->layer->count == 0)
        return length;
    *block = mk_layer_find(disk->layer, at / BLOCK);
    while (!*block && run < length && !mk_layer_find(disk->layer, (at + run) / BLOCK))
        run += BLOCK;
    return run < length ? run : length;
}

static int read_pieces(const struct mk_disk *disk, uint64_t at, struct pieces *p, size_t length,
                       struct mk_err *err)
{
    while (length) {
        const uint8_t *block;
        size_t run = run_of(disk, at, length, &block);
        if (block)
            copy(p, (uint8_t *)(uintptr_t)block + at % BLOCK, run, true);
        else if (read_file(disk, at, p, run, err) < 0)
            return -1;
        at += run;
        length -= run;
    }
    return 0;
}

static size_t length_of(const struct iovec *iov, unsigned count)
{
    size_t length = 0;
    for (unsigned i = 0; i < count; i++)
        length += iov[i].iov_len;
    return length;
}

int mk_disk_readv(struct mk_disk *disk, uint64_t at, const struct iovec *iov, unsigned count,
                  struct mk_err *err)
{
    struct pieces p = { iov, count, 0 };
    pthread_rwlock_rdlock(&disk->lock);
    int rc = read_pieces(disk, at, &p, length_of(iov, count), err);
    pthread_rwlock_unlock(&disk->lock);
    return rc;
}

int mk_disk_read(struct mk_disk *disk, uint64_t at, void *to, size_t length, struct mk_err *err)
{
    const struct iovec v = { to, length };
    return mk_disk_readv(disk, at, &v, 1, err);
}

/* --- writing --- */

/* The block to write to, with what it held so far. */
static uint8_t *edit_block(struct mk_disk *disk, uint64_t block, bool whole, struct mk_err *err)
{
    uint8_t held[BLOCK];
    bool fresh = !mk_layer_find(disk->layer, block);
    if (fresh && disk->layer->count >= disk->limit) {
        mk_fail(err, ENOSPC,
                "%s: what was written over it has %llu bytes, as many as it may (limit)",
                disk->name, (ull)disk->layer->count * BLOCK);
        return NULL;
    }
    if (fresh && !whole && mk_disk_read_below(disk, block * BLOCK, held, sizeof(held), err) < 0)
        return NULL;
    uint8_t *to = mk_layer_edit(&disk->layer, block);
    if (!to)
        mk_fail_errno(err, ENOMEM, "%s", disk->name);
    else if (fresh && !whole)
        memcpy(to, held, sizeof(held));
    return to;
}

static size_t part_of_block(uint64_t at, size_t length)
{
    size_t part = BLOCK - at % BLOCK;
    return part < length ? part : length;
}

/* Of zeros when there are no pieces. */
static int write_layer(struct mk_disk *disk, uint64_t at, struct pieces *p, size_t length,
                       struct mk_err *err)
{
    while (length) {
        size_t part = part_of_block(at, length);
        uint8_t *to = edit_block(disk, at / BLOCK, part == BLOCK, err);
        if (!to)
            return -1;
        if (p)
            copy(p, to + at % BLOCK, part, false);
        else
            memset(to + at % BLOCK, 0, part);
        at += part;
        length -= part;
    }
    return 0;
}

int mk_disk_writev(struct mk_disk *disk, uint64_t at, const struct iovec *iov, unsigned count,
                   struct mk_err *err)
{
    struct pieces p = { iov, count, 0 };
    size_t length = length_of(iov, count);
    if (!disk->first)
        return write_file(disk, at, &p, length, err);
    pthread_rwlock_wrlock(&disk->lock);
    int rc = write_layer(disk, at, &p, length, err);
    pthread_rwlock_unlock(&disk->lock);
    return rc;
}

int mk_disk_write(struct mk_disk *disk, uint64_t at, const void *from, size_t length,
                  struct mk_err *err)
{
    const struct iovec v = { (void *)(uintptr_t)from, length };
    return mk_disk_writev(disk, at, &v, 1, err);
}

int mk_disk_flush(const struct mk_disk *disk, struct mk_err *err)
{
    if (disk->first)
        return 0;
    if (disk->nbd)
        return mk_nbd_do(disk->nbd, MK_NBD_FLUSH, 0, NULL, 0, err) < 0 ? -1 : 0;
    if (fdatasync(disk->fd) < 0)
        return mk_fail_errno(err, errno, "%s", disk->name);
    return 0;
}

/* --- zeros and discards --- */

static const uint8_t zeros[65536];

static int write_zeros(const struct mk_disk *disk, uint64_t at, size_t length, struct mk_err *err)
{
    while (length) {
        size_t part = length < sizeof(zeros) ? length : sizeof(zeros);
        const struct iovec v = { (void *)(uintptr_t)zeros, part };
        struct pieces p = { &v, 1, 0 };
        if (write_file(disk, at, &p, part, err) < 0)
            return -1;
        at += part;
        length -= part;
    }
    return 0;
}

/* 0: done; 1: this file, or this server, cannot do that. */
static int allocate(const struct mk_disk *disk, enum mk_nbd_command command, uint64_t at,
                    size_t length, struct mk_err *err)
{
    int how = command == MK_NBD_ZERO ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE, rc;
    if (disk->nbd)
        return mk_nbd_do(disk->nbd, command, at, NULL, length, err);
    do
        rc = fallocate(disk->fd, how | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)length);
    while (rc < 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == ENODEV)
        return 1;
    return mk_fail_errno(err, errno, "%s: zeros at %llu", disk->name, (ull)at);
}

static int zero_file(const struct mk_disk *disk, uint64_t at, size_t length, bool discard,
                     struct mk_err *err)
{
    int rc = allocate(disk, discard ? MK_NBD_HOLE : MK_NBD_ZERO, at, length, err);
    return rc > 0 ? write_zeros(disk, at, length, err) : rc;
}

/* There is nothing below its layer: blocks that are not there read as zeros. */
static bool is_bare(const struct mk_disk *disk)
{
    return disk->fd < 0 && !disk->nbd;
}

static int drop_blocks(struct mk_disk *disk, uint64_t at, size_t length, struct mk_err *err)
{
    while (length) {
        size_t part = part_of_block(at, length);
        bool there = mk_layer_find(disk->layer, at / BLOCK);
        if (there && part == BLOCK && !mk_layer_drop(&disk->layer, at / BLOCK))
            return mk_fail_errno(err, ENOMEM, "%s", disk->name);
        if (there && part < BLOCK && write_layer(disk, at, NULL, part, err) < 0)
            return -1;
        at += part;
        length -= part;
    }
    return 0;
}

int mk_disk_zero(struct mk_disk *disk, uint64_t at, size_t length, bool discard, struct mk_err *err)
{
    if (!disk->first)
        return zero_file(disk, at, length, discard, err);
    pthread_rwlock_wrlock(&disk->lock);
    int rc = is_bare(disk) ? drop_blocks(disk, at, length, err)
                           : write_layer(disk, at, NULL, length, err);
    pthread_rwlock_unlock(&disk->lock);
    return rc;
}

int mk_disk_discard(struct mk_disk *disk, uint64_t at, size_t length, struct mk_err *err)
{
    if (disk->first)
        return is_bare(disk) ? mk_disk_zero(disk, at, length, true, err) : 0;
    return allocate(disk, MK_NBD_DISCARD, at, length, err) < 0 ? -1 : 0;
}
