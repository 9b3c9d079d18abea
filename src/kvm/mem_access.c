/* mem_access.c - reading and writing guest memory, and which pages were written. See mem.h. */
#include "kvm/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- which pages were written --- */

int mk_mem_start_log(struct mk_mem *mem, struct mk_err *err)
{
    if (mem->dirty)
        return 0;
    size_t words = mem->bytes / MK_PAGE / 64 + 1;
    uint64_t *log = calloc(words, sizeof(*log));
    _Atomic uint64_t *written = calloc(words, sizeof(*written));
    if (!log || !written) {
        free(log);
        free(written);
        return mk_fail_errno(err, ENOMEM, "a record of %zu pages", words * 64);
    }
    mem->log = log;
    mem->dirty = written;
    return 0;
}

void mk_mem_stop_log(struct mk_mem *mem)
{
    free(mem->dirty);
    free(mem->log);
    mem->dirty = NULL;
    mem->log = NULL;
}

static void mark_page(const struct mk_mem *mem, uint64_t page)
{
    atomic_fetch_or_explicit(&mem->dirty[page / 64], UINT64_C(1) << page % 64,
                             memory_order_relaxed);
}

void mk_mem_mark_pages_dirty(const struct mk_mem *mem, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; mem->dirty && page < first + count; page++)
        if (page % 64 == 0 && first + count - page >= 64) {
            mem->dirty[page / 64] = UINT64_MAX;
            page += 63;
        } else {
            mark_page(mem, page);
        }
}

static void mark_region(const struct mk_mem *mem, const struct mk_region *r, uint64_t from,
                        uint64_t len)
{
    if (mem->dirty && r->kind == MK_RAM && len)
        mk_mem_mark_pages_dirty(mem, (r->at + from) / MK_PAGE,
                                (from + len - 1) / MK_PAGE - from / MK_PAGE + 1);
}

/* --- access --- */

const struct mk_region *mk_mem_find(const struct mk_mem *mem, uint64_t gpa)
{
    for (unsigned i = 0; i < mem->count; i++)
        if (gpa - mem->regions[i].gpa < mem->regions[i].size)
            return &mem->regions[i];
    return NULL;
}

/* A shared file that somebody made shorter has no memory at its end: to read it would be a SIGBUS.
 */
static bool is_there(const struct mk_region *r, uint64_t end)
{
    struct stat st;
    return r->fd < 0 || (fstat(r->fd, &st) == 0 && ((uint64_t)st.st_size + MK_PAGE - 1) / MK_PAGE >=
                                                       (end + MK_PAGE - 1) / MK_PAGE);
}

uint64_t mk_mem_span(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    const struct mk_region *r = mk_mem_find(mem, gpa);
    if (!r)
        return 0;
    uint64_t room = r->size - (gpa - r->gpa), n = len < room ? len : room;
    return is_there(r, gpa - r->gpa + n) ? n : 0;
}

/* Nothing is also where a region ends. */
static uint8_t *locate(const struct mk_mem *mem, uint64_t gpa, uint64_t len, bool write)
{
    const struct mk_region *r = mk_mem_find(mem, gpa);
    if (!r && len == 0 && gpa > 0)
        r = mk_mem_find(mem, gpa - 1);
    if (!r || (write && r->read_only) || !mk_inside(gpa - r->gpa, len, r->size) ||
        !is_there(r, gpa - r->gpa + len))
        return NULL;
    if (write)
        mark_region(mem, r, gpa - r->gpa, len);
    return r->host + (gpa - r->gpa);
}

static void lift(const struct mk_mem *mem, uint64_t gpa, uint64_t len, bool write)
{
    struct mk_mem_guard *guard = mem->guard;
    if (guard)
        guard->lift(guard, gpa, len, write);
}

const void *mk_mem_at(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    lift(mem, gpa, len, false);
    return locate(mem, gpa, len, false);
}

void *mk_mem_writable(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    lift(mem, gpa, len, true);
    return locate(mem, gpa, len, true);
}

bool mk_mem_has(const struct mk_mem *mem, uint64_t gpa, uint64_t len, bool write)
{
    if (len == 0)
        return mk_mem_at(mem, gpa, 0) != NULL;
    for (uint64_t n; len; gpa += n, len -= n) {
        n = mk_mem_span(mem, gpa, len);
        if (n == 0 || (write && mk_mem_find(mem, gpa)->read_only))
            return false;
    }
    return true;
}

const void *mk_mem_piece(const struct mk_mem *mem, uint64_t gpa, uint64_t *len)
{
    *len = mk_mem_span(mem, gpa, *len);
    return *len ? mk_mem_at(mem, gpa, *len) : NULL;
}

void *mk_mem_writable_piece(const struct mk_mem *mem, uint64_t gpa, uint64_t *len)
{
    *len = mk_mem_span(mem, gpa, *len);
    return *len ? mk_mem_writable(mem, gpa, *len) : NULL;
}

/* Within one region. A file that others see may be cut off between the look at it and the copy:
 * then the kernel says so, where memcpy() would be a SIGBUS. */
static bool copy_piece(const struct mk_mem *mem, uint64_t gpa, uint8_t *data, size_t n, bool write)
{
    struct mk_mem_guard *guard = mem->guard;
    const struct mk_region *r = mk_mem_find(mem, gpa);
    uint8_t *at = n ? locate(mem, gpa, n, write) : NULL;
    if (!at)
        return false;
    if (guard && write)
        guard->write(guard, gpa, at, data, n);
    else if (guard)
        guard->copy(guard, gpa, at, data, n);
    else if (r->fd >= 0)
        return (write ? pwrite(r->fd, data, n, (off_t)(gpa - r->gpa))
                      : pread(r->fd, data, n, (off_t)(gpa - r->gpa))) == (ssize_t)n;
    else
        memcpy(write ? at : data, write ? data : at, n);
    return true;
}

static bool copy(const struct mk_mem *mem, uint64_t gpa, uint8_t *data, size_t len, bool write)
{
    if (!mk_mem_has(mem, gpa, len, write))
        return false;
    for (uint64_t n; len; gpa += n, data += n, len -= n) {
        n = mk_mem_span(mem, gpa, len);
        if (!copy_piece(mem, gpa, data, n, write))
            return false;
    }
    return true;
}

bool mk_mem_read(const struct mk_mem *mem, uint64_t gpa, void *to, size_t len)
{
    return copy(mem, gpa, to, len, false);
}

bool mk_mem_write(const struct mk_mem *mem, uint64_t gpa, const void *from, size_t len)
{
    return copy(mem, gpa, (void *)(uintptr_t)from, len, true);
}

void mk_mem_count_ignored(const struct mk_mem *mem, uint64_t gpa)
{
    struct mk_region *r = (struct mk_region *)(uintptr_t)mk_mem_find(mem, gpa);
    if (r)
        atomic_fetch_add_explicit(&r->ignored, 1, memory_order_relaxed);
}

uint8_t *mk_mem_page(const struct mk_mem *mem, uint64_t page, uint64_t *follow)
{
    const struct mk_region *r = mem->regions;
    while (r->kind == MK_SHARED || page * MK_PAGE - r->at >= r->size)
        r++;
    if (follow)
        *follow = (r->at + r->size) / MK_PAGE - page;
    return r->host + (page * MK_PAGE - r->at);
}

bool mk_mem_unprotect(const struct mk_region *r, uint64_t gpa, uint64_t length)
{
    int prot = r->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    if (mprotect(r->host + (gpa - r->gpa), length, prot) == 0)
        return true;
    mprotect(r->host, r->size, prot);
    return false;
}
