/* used.c - which pages of guest memory are in use, from the process's page tables (Linux
 * Documentation/admin-guide/mm/pagemap.rst). See copy.h.
 *
 * A page that is neither present nor swapped out was never written, nor was one that is still that
 * of the file beneath. Kernels before 6.7 cannot be asked for ranges: they are asked for every
 * page, 4 GiB in some 10 ms. Where there is no /proc all pages count as used. */
#include "snapshot/copy.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define IS_FILE (1u << 2)
#define IS_PRESENT (1u << 3)
#define IS_SWAPPED (1u << 4)
#define IS_ZERO (1u << 5)
#define RANGES 128

/* An entry of the file itself. */
#define ENTRY_FILE (UINT64_C(1) << 61)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRIES 512

struct range {
    uint64_t start, end, categories;
};

struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
        category_mask, category_anyof_mask, return_mask;
};

#define SCAN _IOWR('f', 16, struct scan) /* PAGEMAP_SCAN */

static bool mark_ranges(const struct mk_mem *mem, const struct mk_region *r, int pagemap)
{
    uint64_t host = (uint64_t)(uintptr_t)r->host;
    struct range ranges[RANGES];
    struct scan scan = { .size = sizeof(scan),
                         .start = host,
                         .end = host + r->size,
                         .vec = (uint64_t)(uintptr_t)ranges,
                         .vec_len = RANGES,
                         .category_inverted = IS_FILE | IS_ZERO,
                         .category_mask = IS_FILE | IS_ZERO,
                         .category_anyof_mask = IS_PRESENT | IS_SWAPPED,
                         .return_mask = IS_PRESENT };
    while (scan.start < scan.end) {
        int count = ioctl(pagemap, SCAN, &scan);
        if (count < 0)
            return false;
        for (int i = 0; i < count; i++)
            mk_mem_mark_pages_dirty(mem, (r->at + ranges[i].start - host) / MK_PAGE,
                                    (ranges[i].end - ranges[i].start) / MK_PAGE);
        scan.start = scan.walk_end;
    }
    return true;
}

static bool mark_each(const struct mk_mem *mem, const struct mk_region *r, int pagemap)
{
    uint64_t entries[ENTRIES], pages = r->size / MK_PAGE, page = 0;
    while (page < pages) {
        uint64_t wanted = pages - page < ENTRIES ? pages - page : ENTRIES;
        ssize_t got = pread(pagemap, entries, wanted * sizeof(*entries),
                            (off_t)(((uintptr_t)r->host / MK_PAGE + page) * sizeof(*entries)));
        if (got < (ssize_t)sizeof(*entries))
            return false;
        for (size_t i = 0; i < (size_t)got / sizeof(*entries); i++, page++)
            if (entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED) && !(entries[i] & ENTRY_FILE))
                mk_mem_mark_pages_dirty(mem, r->at / MK_PAGE + page, 1);
    }
    return true;
}

static bool mark_used(const struct mk_mem *mem, const struct mk_region *r, int pagemap)
{
    return pagemap >= 0 && (mark_ranges(mem, r, pagemap) || mark_each(mem, r, pagemap));
}

void mk_mem_mark_used(const struct mk_mem *mem)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        if (r->kind == MK_SHARED)
            continue;
        if (!mem->copied)
            mk_mem_mark_pages_dirty(mem, r->at / MK_PAGE, (r->filled + MK_PAGE - 1) / MK_PAGE);
        if (r->kind == MK_RAM && !mark_used(mem, r, pagemap))
            mk_mem_mark_pages_dirty(mem, r->at / MK_PAGE, r->size / MK_PAGE);
    }
    if (pagemap >= 0)
        close(pagemap);
}
