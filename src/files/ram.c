/* ram.c - see ram.h. man 2 memfd_create. */
#include "files/ram.h"
#include "io/rw.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

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
    return mk_write_at(ram->fd, bytes, length, (off_t)at);
}

struct mk_ram *mk_ram_ref(struct mk_ram *ram)
{
    atomic_fetch_add(&ram->users, 1);
    return ram;
}

void mk_ram_unref(struct mk_ram *ram)
{
    if (!ram || atomic_fetch_sub(&ram->users, 1) != 1)
        return;
    munmap((void *)ram->at, ram->size);
    close(ram->fd);
    free(ram);
}
