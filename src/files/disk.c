/* disk.c - opening and closing a disk, what was written to it as a whole, its checksum. See disk.h;
 * disk_io.c reads and writes. */
#include "files/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define BLOCK MK_LAYER_BLOCK
#define SAMPLES 1024u /* blocks that mk_disk_sum() looks at */

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

static int open_nbd(struct mk_disk *disk, bool write, struct mk_err *err)
{
    disk->nbd = mk_nbd_open(disk->name, write, err);
    if (!disk->nbd)
        return -1;
    disk->length = mk_nbd_size(disk->nbd);
    if (disk->length < MK_SECTOR)
        return mk_fail(err, EINVAL, "%s: a disk has sectors of %u bytes, this one has %llu bytes",
                       disk->name, MK_SECTOR, (unsigned long long)disk->length);
    return 0;
}

/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
static int open_file(struct mk_disk *disk, bool write, struct mk_err *err)
{
    if (mk_nbd_is_uri(disk->name))
        return open_nbd(disk, write, err);
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
    pthread_rwlock_init(&disk->lock, NULL);
    if (open_parts(disk, config, err) == 0)
        return 0;
    mk_disk_close(disk);
    return -1;
}

void mk_disk_close(struct mk_disk *disk)
{
    if (disk->fd >= 0)
        close(disk->fd);
    mk_nbd_close(disk->nbd);
    mk_layer_unref(disk->first);
    mk_layer_unref(disk->layer);
    free(disk->name);
    *disk = (struct mk_disk){ .fd = -1 };
}

/* --- what was written --- */

struct mk_layer *mk_disk_layer(struct mk_disk *disk)
{
    pthread_rwlock_rdlock(&disk->lock);
    struct mk_layer *layer = disk->layer ? mk_layer_ref(disk->layer) : NULL;
    pthread_rwlock_unlock(&disk->lock);
    return layer;
}

void mk_disk_put(struct mk_disk *disk, struct mk_layer *layer)
{
    mk_layer_ref(layer);
    pthread_rwlock_wrlock(&disk->lock);
    struct mk_layer *before = disk->layer;
    disk->layer = layer;
    pthread_rwlock_unlock(&disk->lock);
    mk_layer_unref(before);
}

void mk_disk_reset(struct mk_disk *disk)
{
    if (disk->first)
        mk_disk_put(disk, disk->first);
}

/* --- a checksum of what lies below that --- */

/* Whether the file was not written to since its sum was taken; remembers when it was last. */
static bool same_time(struct mk_disk *disk)
{
    struct stat st = { 0 };
    if (disk->nbd) /* which has no time: it is looked at once */
        return disk->sum.known;
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
    for (uint64_t i = 0; (disk->fd >= 0 || disk->nbd) && i < blocks; i += step) {
        if (mk_disk_read_below(disk, i * BLOCK, bytes, sizeof(bytes), err) < 0)
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
