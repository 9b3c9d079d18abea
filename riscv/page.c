/* page.c - free pages, small ones of 4 KiB and large ones of 2 MiB, in two lists.
 *
 * A free page holds the link to the next one. When there is no small page left, a large one is
 * split into 512; these never become a large one again. */
#include "hyper.h"

struct free_page {
    struct free_page *next;
};

static struct free_page *small, *large;

void page_free(void *page, uint64_t size)
{
    struct free_page **list = size == PAGE ? &small : &large, *first = page;

    first->next = *list;
    *list = first;
}

void pages_init(uint64_t start, uint64_t end)
{
    start = (start + PAGE - 1) & -PAGE;
    while (start < end && end - start >= PAGE) {
        uint64_t size = start % LARGE_PAGE || end - start < LARGE_PAGE ? PAGE : LARGE_PAGE;

        page_free((void *)start, size);
        start += size;
    }
}

void *page_alloc(uint64_t size)
{
    struct free_page **list = size == PAGE ? &small : &large;
    uint64_t *page;

    if (size == PAGE && !small) {
        char *whole = page_alloc(LARGE_PAGE);

        for (uint64_t at = LARGE_PAGE; whole && at; at -= PAGE)
            page_free(whole + at - PAGE, PAGE);
    }
    page = (uint64_t *)*list;
    if (!page)
        return NULL;
    *list = (*list)->next;
    for (size_t i = 0; i < size / sizeof *page; i++) /* nobody sees what another one left */
        page[i] = 0;
    return page;
}
