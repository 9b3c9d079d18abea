/* ram.c - see ram.h. man 2 memfd_create. */
#include "vm/ram.h"

#include "files/extent.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

uint64_t mk_file_limit(void)
{
    struct rlimit r;
    bool limited = getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY;
    return limited ? r.rlim_cur : UINT64_MAX;
}

struct mk_ram *mk_ram_new(uint64_t size, struct mk_err *err)
{
    if (size > mk_file_limit()) {
        mk_fail_errno(err, EFBIG, "snapshot: %llu bytes (ulimit -f)", (unsigned long long)size);
        return NULL;
    }
    struct mk_ram *ram = malloc(sizeof(*ram));
    int fd = ram ? memfd_create("minikvm-ram", MFD_CLOEXEC) : -1;
    void *at = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
        at = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) {
        mk_fail_errno(err, ram ? errno : ENOMEM, "snapshot: memory for %llu bytes",
                      (unsigned long long)size);
        if (fd >= 0)
            close(fd);
        free(ram);
        return NULL;
    }
    *ram = (struct mk_ram){ .users = 1, .fd = fd, .at = at, .size = size };
    return ram;
}

int mk_ram_fill(struct mk_ram *ram, uint64_t at, const void *bytes, uint64_t length)
{
    const uint8_t *from = bytes;
    while (length) {
        ssize_t n = pwrite(ram->fd, from, length, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        from += n;
        at += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

bool mk_page_is_zero(const uint8_t *page)
{
    uint64_t first;
    memcpy(&first, page, sizeof(first));
    return first == 0 && memcmp(page, page + sizeof(first), MK_PAGE - sizeof(first)) == 0;
}

static bool marked(const struct mk_mem *mem, uint64_t page)
{
    return mem->written[page / 64] >> page % 64 & 1;
}

/* The next page that is marked, from `page` on; the number of pages when there is none. */
static uint64_t next_marked(const struct mk_mem *mem, uint64_t page)
{
    uint64_t pages = mem->bytes / MK_PAGE;
    while (page < pages && !marked(mem, page))
        page += mem->written[page / 64] ? 1 : 64 - page % 64;
    return page < pages ? page : pages;
}

/* The first page from `page` on that is not to be copied together with it; `from` is its contents. */
static uint64_t run_end(const struct mk_mem *mem, uint64_t page, uint64_t follow, const uint8_t *from)
{
    uint64_t last = page + follow;
    while (page < last && marked(mem, page) && !mk_page_is_zero(from)) {
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
            mk_ram_drop(ram);
            return NULL;
        }
        page = end > page ? end : page + 1;
    }
    return ram;
}

void mk_ram_mark(const struct mk_ram *ram, const struct mk_mem *mem)
{
    for (off_t at = 0, end; mk_next_data(ram->fd, (off_t)ram->size, &at, &end); at = end)
        mk_mem_mark_pages(mem, (uint64_t)at / MK_PAGE,
                          ((uint64_t)(end - at) + MK_PAGE - 1) / MK_PAGE);
}

struct mk_ram *mk_ram_hold(struct mk_ram *ram)
{
    atomic_fetch_add(&ram->users, 1);
    return ram;
}

void mk_ram_drop(struct mk_ram *ram)
{
    if (!ram || atomic_fetch_sub(&ram->users, 1) != 1)
        return;
    munmap((void *)ram->at, ram->size);
    close(ram->fd);
    free(ram);
}
