/* disk.h - what a guest's disk holds: an image, a file of the host or the disk of an NBD server,
 * and what was written over it.
 *
 * Writes stay in a layer in memory (layer.h), unless the disk is made to write to its file. The
 * file is read and written with preadv and pwritev, never mapped: one that was cut off, or cannot
 * be read, is an error of that access. Any thread may read and write: several read at a time, one
 * writes to the layer. Blocks as long as the file does. */
#ifndef MK_DISK_H
#define MK_DISK_H

#include "base/err.h"
#include "files/layer.h"
#include "files/nbd.h"

#include <pthread.h>
#include <sys/uio.h>

#define MK_SECTOR 512u
#define MK_DISK_PIECE (16u << 20) /* bytes of one access */

struct mk_disk_config {
    const char *path;  /* or an NBD URI (nbd.h); NULL: none, all zero */
    bool write;        /* to the file */
    uint64_t size;     /* without a path: bytes, sectors of them */
    const char *bytes; /* what it begins with then; NULL: zeros */
    uint64_t bytes_length;
    uint64_t limit; /* bytes that the layer may hold */
};

struct mk_disk {
    int fd;             /* -1: none */
    struct mk_nbd *nbd; /* instead of a file; NULL: none */
    char *name;
    uint64_t length;        /* of the file, when it was opened */
    uint64_t size;          /* whole sectors */
    uint64_t limit;         /* blocks */
    pthread_rwlock_t lock;  /* of the layer */
    struct mk_layer *first; /* what a reset goes back to; NULL: writes go to the file */
    struct mk_layer *layer; /* what was written; under the lock, as a write may replace it */
    struct {                /* of what lies below the layer, and when it was that */
        bool known;
        uint32_t value;
        int64_t size, seconds, nanoseconds;
    } sum;
};

int mk_disk_open(struct mk_disk *disk, const struct mk_disk_config *config, struct mk_err *err);
void mk_disk_close(struct mk_disk *disk); /* all zero but fd -1 is fine */
/* Ranges lie inside the disk, and have MK_DISK_PIECE bytes at the most. */
int mk_disk_read(struct mk_disk *disk, uint64_t at, void *to, size_t length, struct mk_err *err);
/* After -1 a part may be written, as on any disk. */
int mk_disk_write(struct mk_disk *disk, uint64_t at, const void *from, size_t length,
                  struct mk_err *err);
/* The same to and from several pieces of memory, one behind the other. */
int mk_disk_readv(struct mk_disk *disk, uint64_t at, const struct iovec *iov, unsigned count,
                  struct mk_err *err);
int mk_disk_writev(struct mk_disk *disk, uint64_t at, const struct iovec *iov, unsigned count,
                   struct mk_err *err);
/* Zeros; with `discard` what was there need not take room any more. */
int mk_disk_zero(struct mk_disk *disk, uint64_t at, size_t length, bool discard,
                 struct mk_err *err);
/* What is there is of no use: files get a hole, a layer over nothing drops whole blocks, and all
 * else stays as it is. */
int mk_disk_discard(struct mk_disk *disk, uint64_t at, size_t length, struct mk_err *err);
/* What was written to the file is on the host's disk. */
int mk_disk_flush(const struct mk_disk *disk, struct mk_err *err);
/* Forgets what was written to the layer. */
void mk_disk_reset(struct mk_disk *disk);
/* What was written, with one more user; NULL: writes go to the file. And puts that back. */
struct mk_layer *mk_disk_layer(struct mk_disk *disk);
void mk_disk_put(struct mk_disk *disk, struct mk_layer *layer);
/* What lies below the layer. */
int mk_disk_read_below(const struct mk_disk *disk, uint64_t at, void *to, size_t length,
                       struct mk_err *err);
/* Of what lies below the layer: of all of a small image, of samples of a larger one. */
int mk_disk_sum(struct mk_disk *disk, uint32_t *sum, struct mk_err *err);

#endif
