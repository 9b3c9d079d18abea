/* blk_request.c - one request of virtio's block device: Virtual I/O Device 1.2, 5.2.6. See blk.h.
 *
 * The buffer of a request is 16 bytes of header, data, and a byte of status, in whatever parts the
 * driver likes. Data is moved a piece at a time, between which it may be given up: to do a request
 * once more from its beginning comes to the same. */
#include "dev/blk.h"

#include <errno.h>
#include <string.h>

#define HEADER sizeof(struct header)
#define RANGES 64u            /* of one discard */
#define RANGE_MAX (64u << 20) /* bytes */
#define PIECE (1u << 20)
#define PARTS 256u
#define ID "minikvm"
#define ID_BYTES 20u

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPPORTED = 2, GIVEN_UP = 255 };
#define UNMAP 1u /* of a range of WRITE_ZEROES */

typedef unsigned long long ull;

/* As they lie in memory; little-endian, like the host's. */
struct header {
    uint32_t kind, reserved;
    uint64_t sector;
};

struct range {
    uint64_t sector;
    uint32_t sectors, flags;
};

/* --- the buffer's memory --- */

/* Its parts to read, or to write, from byte `skip` on: at most `length` bytes of them, of which
 * *bytes are in the pieces. */
static unsigned gather(const struct mk_blk_request *r, bool write, uint64_t skip, size_t length,
                       struct iovec *iov, size_t *bytes)
{
    const struct mk_virtq_chain *chain = &r->chain;
    unsigned n = 0, end = write ? chain->count : chain->readable;
    *bytes = 0;
    for (unsigned i = write ? chain->readable : 0; i < end && n < PARTS && *bytes < length; i++) {
        uint64_t at = chain->part[i].at, left = chain->part[i].length;
        uint64_t skipped = skip < left ? skip : left;
        skip -= skipped;
        at += skipped;
        left -= skipped;
        while (left && n < PARTS && *bytes < length) {
            uint64_t room = length - *bytes, here = left < room ? left : room;
            void *host = write ? mk_mem_writable_piece(r->mem, at, &here)
                               : (void *)(uintptr_t)mk_mem_piece(r->mem, at, &here);
            if (!host)
                return 0;
            iov[n++] = (struct iovec){ host, here };
            *bytes += here;
            at += here;
            left -= here;
        }
    }
    return n;
}

/* --- what can be asked for --- */

/* Where sectors are on the disk. */
static int place(const struct mk_disk *disk, uint64_t sector, uint64_t bytes, uint64_t *at,
                 struct mk_err *err)
{
    uint64_t sectors = disk->size / MK_SECTOR;
    if (bytes % MK_SECTOR)
        return mk_fail(err, EINVAL, "%s: a request for %llu bytes, which are no whole sectors",
                       disk->name, (ull)bytes);
    if (sector > sectors || bytes / MK_SECTOR > sectors - sector)
        return mk_fail(err, EINVAL,
                       "%s: a request for %llu bytes from sector %llu on, of %llu sectors",
                       disk->name, (ull)bytes, (ull)sector, (ull)sectors);
    *at = sector * MK_SECTOR;
    return 0;
}

static int move(const struct mk_blk_request *r, uint64_t sector, bool in, struct mk_err *err)
{
    struct iovec iov[PARTS];
    uint64_t skip = in ? 0 : HEADER, at;
    uint64_t left = in ? r->chain.write_bytes - 1 : r->chain.read_bytes - HEADER;
    if (place(r->disk, sector, left, &at, err) < 0)
        return IOERR;
    while (left) {
        size_t bytes;
        unsigned n = gather(r, in, skip, left < PIECE ? left : PIECE, iov, &bytes);
        if (!n)
            return mk_fail(err, EFAULT, "%s: the buffer is not in RAM", r->disk->name), IOERR;
        if ((in ? mk_disk_readv(r->disk, at, iov, n, err)
                : mk_disk_writev(r->disk, at, iov, n, err)) < 0)
            return IOERR;
        at += bytes;
        skip += bytes;
        left -= bytes;
        if (left && !r->may_continue(r->ctx))
            return GIVEN_UP;
    }
    if (!in && !r->flushes && mk_disk_flush(r->disk, err) < 0)
        return IOERR;
    return OK;
}

static int zero(const struct mk_blk_request *r, uint64_t at, uint64_t bytes, bool unmap,
                struct mk_err *err)
{
    while (bytes) {
        size_t piece = bytes < PIECE ? bytes : PIECE;
        if (mk_disk_zero(r->disk, at, piece, unmap, err) < 0)
            return IOERR;
        at += piece;
        bytes -= piece;
        if (bytes && !r->may_continue(r->ctx))
            return GIVEN_UP;
    }
    return OK;
}

static int do_range(const struct mk_blk_request *r, const struct range *range, bool discard,
                    struct mk_err *err)
{
    uint64_t at, bytes = (uint64_t)range->sectors * MK_SECTOR;
    if (range->flags & ~(discard ? 0 : UNMAP))
        return mk_fail(err, EOPNOTSUPP, "%s: a range with flags 0x%x", r->disk->name, range->flags),
               UNSUPPORTED;
    if (bytes > RANGE_MAX)
        return mk_fail(err, EINVAL, "%s: a range of %llu bytes, %u at the most", r->disk->name,
                       (ull)bytes, RANGE_MAX),
               IOERR;
    if (place(r->disk, range->sector, bytes, &at, err) < 0)
        return IOERR;
    if (!discard)
        return zero(r, at, bytes, range->flags & UNMAP, err);
    return bytes && mk_disk_discard(r->disk, at, bytes, err) < 0 ? IOERR : OK;
}

/* Ranges of sectors that are to read as zeros, or whose contents are of no use. */
static int do_ranges(const struct mk_blk_request *r, bool discard, struct mk_err *err)
{
    struct range ranges[RANGES];
    uint64_t bytes = r->chain.read_bytes - HEADER;
    int status = OK;
    if (bytes % sizeof(*ranges) || bytes > sizeof(ranges) ||
        !mk_virtq_read(r->mem, &r->chain, HEADER, ranges, bytes))
        return mk_fail(err, EINVAL, "%s: %llu bytes of ranges: they have 16, 64 at the most",
                       r->disk->name, (ull)bytes),
               IOERR;
    for (unsigned i = 0; i < bytes / sizeof(*ranges) && status == OK; i++)
        status = do_range(r, &ranges[i], discard, err);
    return status;
}

static int get_id(const struct mk_blk_request *r, struct mk_err *err)
{
    const char id[ID_BYTES] = ID;
    uint64_t room = r->chain.write_bytes - 1;
    if (!mk_virtq_write(r->mem, &r->chain, 0, id, room < sizeof(id) ? room : sizeof(id)))
        return mk_fail(err, EFAULT, "%s: the buffer is not in RAM", r->disk->name), IOERR;
    return OK;
}

static int serve(const struct mk_blk_request *r, const struct header *header, struct mk_err *err)
{
    uint32_t kind = header->kind;
    bool writes = kind == OUT || kind == DISCARD || kind == WRITE_ZEROES;
    if (!r->disk)
        return mk_fail(err, ENODEV, "the disk is closed"), IOERR;
    if (writes && r->read_only)
        return mk_fail(err, EROFS, "%s: the guest may not write it", r->disk->name), IOERR;
    switch (kind) {
    case IN: return move(r, header->sector, true, err);
    case OUT: return move(r, header->sector, false, err);
    case FLUSH: return mk_disk_flush(r->disk, err) < 0 ? IOERR : OK;
    case GET_ID: return get_id(r, err);
    case DISCARD: return do_ranges(r, true, err);
    case WRITE_ZEROES: return do_ranges(r, false, err);
    default:
        return mk_fail(err, EOPNOTSUPP, "%s: a request of kind %u", r->disk->name, kind),
               UNSUPPORTED;
    }
}

enum mk_blk_result mk_blk_serve(const struct mk_blk_request *r, struct mk_err *err)
{
    struct header header;
    if (r->chain.read_bytes < HEADER || r->chain.write_bytes < 1 ||
        !mk_virtq_read(r->mem, &r->chain, 0, &header, sizeof(header))) {
        mk_fail(err, EBADMSG, "a request has a header of 16 bytes and a status");
        return MK_BLK_NOTHING;
    }
    int status = serve(r, &header, err);
    if (status == GIVEN_UP)
        return MK_BLK_AGAIN;
    const uint8_t byte = (uint8_t)status;
    mk_virtq_write(r->mem, &r->chain, r->chain.write_bytes - 1, &byte, 1);
    return status == OK ? MK_BLK_OK : MK_BLK_FAILED;
}
