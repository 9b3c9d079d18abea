/* disk.c - see disk.h. man 2 pread, pwrite, setrlimit (RLIMIT_FSIZE). */
#include "files/disk.h"
#include "files/ram.h"
#include "files/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define BLOCK MK_LAYER_BLOCK
#define SAMPLES 1024u /* blocks that mk_disk_sum() looks at */

typedef unsigned long long ull;

/* --- opening --- */

static uint64_t sectors_up(uint64_t bytes)
{
    return (bytes + MK_SECTOR - 1) / MK_SECTOR * MK_SECTOR;
}

/* Its length: the end of a block device is where one can seek to. */
static int measure(struct mk_disk *disk, struct mk_err *err)
{
    struct stat st;
    if (fstat(disk->fd, &st) < 0)
        return mk_fail_errno(err, errno, "%s", disk->name);
    if (S_ISDIR(st.st_mode))
        return mk_fail(err, EISDIR, "%s: it is a directory", disk->name);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return mk_fail(err, EINVAL, "%s: neither a file nor a block device", disk->name);
    off_t end = lseek(disk->fd, 0, SEEK_END);
    if (end < 0)
        return mk_fail_errno(err, errno, "%s", disk->name);
    if (end == 0)
        return mk_fail(err, EINVAL, "%s: the disk image is empty", disk->name);
    if (end < (off_t)MK_SECTOR)
        return mk_fail(err, EINVAL, "%s: a disk has sectors of %u bytes, this image has %lld bytes",
                       disk->name, MK_SECTOR, (long long)end);
    disk->length = (uint64_t)end;
    return 0;
}

/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
static int open_file(struct mk_disk *disk, bool write, struct mk_err *err)
{
    disk->fd = open(disk->name, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (disk->fd < 0)
        return mk_fail_errno(err, errno, "%s", disk->name);
    return measure(disk, err);
}

static int fill(struct mk_disk *disk, const struct mk_disk_config *config, struct mk_err *err)
{
    for (uint64_t at = 0; at < config->bytes_length; at += BLOCK) {
        uint64_t left = config->bytes_length - at;
        uint8_t *to = mk_layer_edit(&disk->layer, at / BLOCK);
        if (!to)
            return mk_fail_errno(err, ENOMEM, "%s", disk->name);
        memcpy(to, config->bytes + at, left < BLOCK ? left : BLOCK);
    }
    return 0;
}

static int open_parts(struct mk_disk *disk, const struct mk_disk_config *config, struct mk_err *err)
{
    disk->name = strdup(config->path ? config->path : "a disk in memory");
    if (!disk->name)
        return mk_fail_errno(err, ENOMEM, "disk");
    if (config->path && open_file(disk, config->write, err) < 0)
        return -1;
    disk->size = sectors_up(config->path ? disk->length : config->size);
    disk->limit = config->limit / BLOCK;
    if (config->write)
        return 0;
    disk->layer = mk_layer_new((disk->size - 1) / BLOCK + 1);
    if (!disk->layer)
        return mk_fail_errno(err, ENOMEM, "%s", disk->name);
    if (fill(disk, config, err) < 0)
        return -1;
    disk->first = mk_layer_ref(disk->layer);
    return 0;
}

int mk_disk_open(struct mk_disk *disk, const struct mk_disk_config *config, struct mk_err *err)
{
    *disk = (struct mk_disk){ .fd = -1 };
    if (open_parts(disk, config, err) == 0)
        return 0;
    mk_disk_close(disk);
    return -1;
}

void mk_disk_close(struct mk_disk *disk)
{
    if (disk->fd >= 0)
        close(disk->fd);
    mk_layer_unref(disk->first);
    mk_layer_unref(disk->layer);
    free(disk->name);
    *disk = (struct mk_disk){ .fd = -1 };
}

void mk_disk_reset(struct mk_disk *disk)
{
    if (!disk->layer)
        return;
    mk_layer_unref(disk->layer);
    disk->layer = mk_layer_ref(disk->first);
}

/* --- reading --- */

/* From the file; what lies behind its end, in its last sector, is zero. */
static int read_file(const struct mk_disk *disk, uint64_t at, uint8_t *to, size_t length,
                     struct mk_err *err)
{
    size_t there = at >= disk->length           ? 0
                   : length < disk->length - at ? length
                                                : (size_t)(disk->length - at);
    memset(to + there, 0, length - there);
    ssize_t n = mk_read_at(disk->fd, to, there, (off_t)at);
    if (n < 0)
        return mk_fail_errno(err, errno, "%s: reading at %llu", disk->name, (ull)at);
    if ((size_t)n < there)
        return mk_fail(err, EIO, "%s: the file ends at %llu, it had %llu bytes when it was opened",
                       disk->name, (ull)at + (ull)n, (ull)disk->length);
    return 0;
}

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

int mk_disk_read(const struct mk_disk *disk, uint64_t at, void *to, size_t length,
                 struct mk_err *err)
{
    uint8_t *into = to;
    while (length) {
        const uint8_t *block;
        size_t run = run_of(disk, at, length, &block);
        if (block)
            memcpy(into, block + at % BLOCK, run);
        else if (read_file(disk, at, into, run, err) < 0)
            return -1;
        at += run;
        into += run;
        length -= run;
    }
    return 0;
}

/* --- writing --- */

static int write_file(const struct mk_disk *disk, uint64_t at, const uint8_t *from, size_t length,
                      struct mk_err *err)
{
    if (at + length > mk_file_limit()) /* it would end the process */
        return mk_fail_errno(err, EFBIG, "%s: writing at %llu (ulimit -f)", disk->name, (ull)at);
    if (mk_write_at(disk->fd, from, length, (off_t)at) < 0)
        return mk_fail_errno(err, errno, "%s: writing at %llu", disk->name, (ull)at);
    return 0;
}

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
    if (fresh && !whole && read_file(disk, block * BLOCK, held, sizeof(held), err) < 0)
        return NULL;
    uint8_t *to = mk_layer_edit(&disk->layer, block);
    if (!to)
        mk_fail_errno(err, ENOMEM, "%s", disk->name);
    else if (fresh && !whole)
        memcpy(to, held, sizeof(held));
    return to;
}

int mk_disk_write(struct mk_disk *disk, uint64_t at, const void *from, size_t length,
                  struct mk_err *err)
{
    const uint8_t *bytes = from;
    if (!disk->layer)
        return write_file(disk, at, bytes, length, err);
    while (length) {
        size_t part = BLOCK - at % BLOCK;
        if (part > length)
            part = length;
        uint8_t *to = edit_block(disk, at / BLOCK, part == BLOCK, err);
        if (!to)
            return -1;
        memcpy(to + at % BLOCK, bytes, part);
        at += part;
        bytes += part;
        length -= part;
    }
    return 0;
}

int mk_disk_flush(const struct mk_disk *disk, struct mk_err *err)
{
    if (!disk->layer && fdatasync(disk->fd) < 0)
        return mk_fail_errno(err, errno, "%s", disk->name);
    return 0;
}

/* Whether the file was not written to since its sum was taken; remembers when it was last. */
static bool same_time(struct mk_disk *disk)
{
    struct stat st = { 0 };
    if (disk->fd >= 0 && fstat(disk->fd, &st) < 0)
        return false;
    bool same = disk->sum.known && disk->sum.size == st.st_size &&
                disk->sum.seconds == st.st_mtim.tv_sec &&
                disk->sum.nanoseconds == st.st_mtim.tv_nsec;
    disk->sum.known = false;
    disk->sum.size = st.st_size;
    disk->sum.seconds = st.st_mtim.tv_sec;
    disk->sum.nanoseconds = st.st_mtim.tv_nsec;
    return same;
}

static int take_sum(const struct mk_disk *disk, uint32_t *sum, struct mk_err *err)
{
    uint8_t bytes[BLOCK];
    uint64_t blocks = (disk->size - 1) / BLOCK + 1;
    uint64_t step = blocks > SAMPLES ? blocks / SAMPLES : 1;
    *sum = 0;
    for (uint64_t i = 0; disk->fd >= 0 && i < blocks; i += step) {
        if (read_file(disk, i * BLOCK, bytes, sizeof(bytes), err) < 0)
            return -1;
        *sum = (uint32_t)crc32(*sum, bytes, sizeof(bytes));
    }
    return 0;
}

int mk_disk_sum(struct mk_disk *disk, uint32_t *sum, struct mk_err *err)
{
    if (!same_time(disk) && take_sum(disk, &disk->sum.value, err) < 0)
        return -1;
    disk->sum.known = true;
    *sum = disk->sum.value;
    return 0;
}
