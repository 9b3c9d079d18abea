/* ram.c - see ram.h. man 2 memfd_create. */
#include "vm/ram.h"

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

/* Runs of pages that are not zero, each with one call. */
struct mk_ram *mk_ram_copy(const struct mk_mem *mem, struct mk_err *err)
{
    struct mk_ram *ram = mk_ram_new(mem->size, err);
    uint64_t end = 0;
    for (uint64_t at = 0; ram && at < mem->size; at = end) {
        while (at < mem->size && mk_page_is_zero(mem->ram + at))
            at += MK_PAGE;
        for (end = at; end < mem->size && !mk_page_is_zero(mem->ram + end);)
            end += MK_PAGE;
        if (mk_ram_fill(ram, at, mem->ram + at, end - at) < 0) {
            mk_fail_errno(err, errno, "snapshot: copying RAM");
            mk_ram_drop(ram);
            return NULL;
        }
    }
    return ram;
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

int mk_ram_open(const struct mk_ram *ram, struct mk_mem *mem, struct mk_err *err)
{
    void *at = mmap(NULL, ram->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, ram->fd,
                    0);
    if (at == MAP_FAILED)
        return mk_fail_errno(err, errno, "guest memory of %llu bytes",
                             (unsigned long long)ram->size);
    *mem = (struct mk_mem){ .ram = at, .size = ram->size, .copied = true };
    return 0;
}
