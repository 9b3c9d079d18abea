/* mem.h - guest RAM: the only way from a guest-physical address to host memory.
 *
 * RAM is one anonymous mapping, registered as memory slot 0 at guest-physical 0; pages take host
 * memory when they are first touched. Every access is checked against its size. */
#ifndef MK_MEM_H
#define MK_MEM_H

#include "err.h"

#define MK_MEM_MAX (UINT64_C(1) << 36) /* 64 GiB */

struct mk_mem {
    uint8_t *ram;
    uint64_t size;
};

/* Maps `size` bytes, a multiple of the page size. */
int mk_mem_open(struct mk_mem *mem, uint64_t size, struct mk_err *err);
void mk_mem_close(struct mk_mem *mem);
/* Makes slot 0 of the VM. */
int mk_mem_register(struct mk_mem *mem, int vm_fd, struct mk_err *err);
/* Gives every page back: RAM reads zero again. */
void mk_mem_clear(struct mk_mem *mem);

/* Host pointer to [gpa, gpa + len), or NULL when any of it lies outside RAM. */
void *mk_mem_at(const struct mk_mem *mem, uint64_t gpa, uint64_t len);
/* Copies; false, and nothing copied, when the range is not all in RAM. */
bool mk_mem_read(const struct mk_mem *mem, uint64_t gpa, void *to, size_t len);
bool mk_mem_write(struct mk_mem *mem, uint64_t gpa, const void *from, size_t len);

#endif
