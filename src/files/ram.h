/* ram.h - the contents of a VM's RAM at some moment, kept in a memfd: what snapshots refer to, and
 * what VMs are made from without a copy.
 *
 * Never changed once it is complete, so any number of VMs and threads read it without a lock;
 * counted, so that it lives as long as the last of them. Pages of zeros take no memory. */
#ifndef MK_RAM_H
#define MK_RAM_H

#include "base/err.h"

struct mk_ram {
    _Atomic unsigned users;
    int fd;
    const uint8_t *at; /* `size` bytes to read */
    uint64_t size;
};

/* All zero, with one user. */
struct mk_ram *mk_ram_new(uint64_t size, struct mk_err *err);
/* While it is being made: `length` bytes, pages of them, go to `at`. -1 with errno. */
int mk_ram_fill(struct mk_ram *ram, uint64_t at, const void *bytes, uint64_t length);
struct mk_ram *mk_ram_ref(struct mk_ram *ram);
void mk_ram_unref(struct mk_ram *ram); /* NULL is fine */

#endif
