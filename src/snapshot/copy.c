/* copy.c - see copy.h. */
#include "snapshot/copy.h"

#include "io/rw.h"

#include <errno.h>

static bool marked(const struct mk_mem *mem, uint64_t page)
{
    return mem->dirty[page / 64] >> page % 64 & 1;
}

/* The next page that is marked, from `page` on; the number of pages when there is none. */
static uint64_t next_marked(const struct mk_mem *mem, uint64_t page)
{
    uint64_t pages = mem->bytes / MK_PAGE;
    while (page < pages && !marked(mem, page))
        page += mem->dirty[page / 64] ? 1 : 64 - page % 64;
    return page < pages ? page : pages;
}

/* The first page from `page` on that is not to be copied together with it; `from` is its contents.
 */
static uint64_t run_end(const struct mk_mem *mem, uint64_t page, uint64_t follow,
                        const uint8_t *from)
{
    uint64_t last = page + follow;
    while (page < last && marked(mem, page) && !mk_is_zero(from, MK_PAGE)) {
        page++;
        from += MK_PAGE;
    }
    return page;
}

struct mk_ram *mk_ram_copy(const struct mk_mem *mem, struct mk_err *err)
{
    struct mk_ram *ram = mk_ram_new(mem->bytes, err);
    uint64_t pages = mem->bytes / MK_PAGE, page = 0, end, follow;
    while (ram && (page = next_marked(mem, page)) < pages) {
        const uint8_t *from = mk_mem_page(mem, page, &follow);
        end = run_end(mem, page, follow, from);
        if (mk_ram_fill(ram, page * MK_PAGE, from, (end - page) * MK_PAGE) < 0) {
            mk_fail_errno(err, errno, "snapshot: copying RAM");
            mk_ram_unref(ram);
            return NULL;
        }
        page = end > page ? end : page + 1;
    }
    return ram;
}

void mk_ram_mark_dirty(const struct mk_ram *ram, const struct mk_mem *mem)
{
    for (off_t at = 0, end; mk_extent_next(ram->fd, (off_t)ram->size, &at, &end); at = end)
        mk_mem_mark_pages_dirty(mem, (uint64_t)at / MK_PAGE,
                                ((uint64_t)(end - at) + MK_PAGE - 1) / MK_PAGE);
}
