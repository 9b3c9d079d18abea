/* mem.h - guest RAM: the only way from a guest-physical address to host memory.
 *
 * RAM is one private mapping, registered as memory slot 0 at guest-physical 0; pages take host
 * memory when they are first touched. Every access is checked against its size.
 *
 * Once somebody watches, the pages that were written are known: those that the guest wrote from
 * KVM's dirty log (one a slot, fetched by mk_mem_collect()), those that were written here because
 * every pointer to write through comes from mk_mem_edit(). */
#ifndef MK_MEM_H
#define MK_MEM_H

#include "base/err.h"

#define MK_MEM_MAX (UINT64_C(1) << 36) /* 64 GiB */

struct mk_mem {
    uint8_t *ram;
    uint64_t size;
    bool copied; /* a copy-on-write view of something: pages given back do not read zero */
    _Atomic uint64_t *written; /* a bit for each page; NULL: nobody watches */
    uint64_t *log;             /* room for what KVM answers */
};

/* Maps `size` bytes, a multiple of the page size. */
int mk_mem_open(struct mk_mem *mem, uint64_t size, struct mk_err *err);
void mk_mem_close(struct mk_mem *mem);
/* Makes slot 0 of the VM, or makes it anew, with or without a log. */
int mk_mem_register(struct mk_mem *mem, int vm_fd, struct mk_err *err);
/* Gives every page back: RAM reads zero again. */
void mk_mem_clear(struct mk_mem *mem);

/* Part of RAM as a memory slot: `length` 0 removes the slot. -1 with errno. */
struct mk_slot {
    uint32_t number;
    uint64_t linear, physical, length;
    bool read_only;
};
int mk_mem_slot(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot);

/* Begins to watch; slots must be registered (again) afterwards to be logged. */
int mk_mem_watch(struct mk_mem *mem, struct mk_err *err);
/* Adds what the guest wrote through this slot since the last call. -1 with errno. */
int mk_mem_collect(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot);
/* Notes pages as written; nothing without a watch. The range lies in RAM. */
void mk_mem_mark(const struct mk_mem *mem, uint64_t gpa, uint64_t len);

/* Host pointer to [gpa, gpa + len) to read, or NULL when any of it lies outside RAM. */
const void *mk_mem_at(const struct mk_mem *mem, uint64_t gpa, uint64_t len);
/* The same to write through, at once. */
void *mk_mem_edit(const struct mk_mem *mem, uint64_t gpa, uint64_t len);
/* Copies; false, and nothing copied, when the range is not all in RAM. */
bool mk_mem_read(const struct mk_mem *mem, uint64_t gpa, void *to, size_t len);
bool mk_mem_write(struct mk_mem *mem, uint64_t gpa, const void *from, size_t len);

#endif
