/* fill.c - see fill.h. */
#include "files/fill.h"

#include "io/rw.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE (2u << 20)

typedef unsigned long long ull;

/* Huge pages for what will be filled anyway: those that lie in it whole. */
static void want_huge_pages(uint8_t *to, uint64_t bytes)
{
    uint64_t skip = -(uintptr_t)to & (HUGE_PAGE - 1);
    if (bytes >= 2 * HUGE_PAGE)
        madvise(to + skip, (bytes - skip) & ~(uint64_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
}

static int no_room(const struct mk_mem *mem, uint64_t at, uint64_t bytes, struct mk_err *err)
{
    return mk_fail(err, EFBIG, "%llu bytes at 0x%llx are not all in RAM of %llu bytes", (ull)bytes,
                   (ull)at, (ull)mem->size);
}

static int read_data(int fd, uint8_t *to, off_t from, off_t end, struct mk_err *err)
{
    ssize_t got = mk_read_at(fd, to, (size_t)(end - from), from);
    if (got != end - from) /* it became shorter */
        return mk_fail_errno(err, got < 0 ? errno : EIO, "reading at 0x%llx", (ull)from);
    return 0;
}

/* Writes only to pages that are not zero already: untouched RAM stays without host memory. */
static void zero(uint8_t *to, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t n = MK_PAGE - ((uintptr_t)to & (MK_PAGE - 1));
        n = n < bytes ? n : bytes;
        if (!mk_is_zero(to, n))
            memset(to, 0, n);
        to += n;
        bytes -= n;
    }
}

int mk_fill_zero(struct mk_mem *mem, uint64_t at, uint64_t bytes, struct mk_err *err)
{
    if (!mk_mem_has(mem, at, bytes, true))
        return no_room(mem, at, bytes, err);
    for (uint64_t n; bytes; at += n, bytes -= n) {
        uint8_t *to = mk_mem_writable_piece(mem, at, (n = bytes, &n));
        if (!to)
            return no_room(mem, at, bytes, err); /* a shared file that became shorter */
        zero(to, n);
    }
    return 0;
}

/* The part of it that lies in one region. */
static int read_part(uint8_t *to, int fd, uint64_t offset, uint64_t bytes, struct mk_err *err)
{
    const off_t first = (off_t)offset, last = (off_t)(offset + bytes);
    want_huge_pages(to, bytes);
    for (off_t from = first, data, end; from < last; from = end) {
        data = from;
        if (!mk_extent_next(fd, last, &data, &end))
            data = end = last;
        zero(to + (from - first), (uint64_t)(data - from));
        if (read_data(fd, to + (data - first), data, end, err) < 0)
            return -1;
    }
    return 0;
}

int mk_fill_from_file(struct mk_mem *mem, uint64_t at, int fd, uint64_t offset, uint64_t bytes,
                      struct mk_err *err)
{
    if (!mk_mem_has(mem, at, bytes, true) || offset > INT64_MAX - bytes)
        return no_room(mem, at, bytes, err);
    for (uint64_t n; bytes; at += n, offset += n, bytes -= n) {
        uint8_t *to = mk_mem_writable_piece(mem, at, (n = bytes, &n));
        if (!to)
            return no_room(mem, at, bytes, err);
        if (read_part(to, fd, offset, n, err) < 0)
            return -1;
    }
    return 0;
}
