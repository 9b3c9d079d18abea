/* mem.h - guest memory: the only way from a guest-physical address to host memory.
 *
 * Memory is a list of regions, sorted by address. The VM's own RAM is one from 0 on; what is beyond
 * MK_HOLE bytes lies from 4 GiB on, because devices of a PC lie between. Scripts add more while the
 * VM does not run: RAM, ROM, files that others see too. Each is a mapping of its own and a memory
 * slot; pages take host memory when they are first used. Every access is checked against the list.
 *
 * The bytes of RAM and ROM have a second address: in a copy of memory (files/ram.h) one region
 * follows the other without gaps. Pages are counted there, in "pages of a copy".
 *
 * Once somebody watches, the pages that were written are known: those that the guest wrote from
 * KVM's dirty log (one a slot, fetched by mk_mem_sync_slot()), those that were written here because
 * every pointer to write through comes from mk_mem_writable(). */
#ifndef MK_MEM_H
#define MK_MEM_H

#include "base/err.h"

#include <sys/types.h>

#define MK_MEM_MAX (UINT64_C(1) << 36) /* 64 GiB */
#define MK_HOLE UINT64_C(0xc0000000)   /* own RAM ends here at the latest, */
#define MK_HIGH UINT64_C(0x100000000)  /* and goes on here */
#define MK_REGIONS 256                 /* at most; memory slots from this number on are others' */

enum mk_region_kind { MK_RAM, MK_ROM, MK_SHARED, MK_REGION_KINDS };

struct mk_region {
    uint64_t gpa, size;
    enum mk_region_kind kind;
    bool read_only; /* guests do not write there: ROM, or a file that only others write */
    bool mapped;    /* by a script: not the VM's own RAM */
    bool in_tables; /* the tables of the mode map it */
    char name[64];
    uint8_t *host;
    uint64_t at;     /* RAM, ROM: where its bytes are in a copy */
    uint64_t filled; /* so many bytes of it were given when it was mapped */
    uint32_t slot;
    int fd;                   /* of a shared file; else -1 */
    _Atomic uint64_t ignored; /* writes of the guest that nobody served */
};

/* Who has put something of his own into guest memory (debug/page.c). */
struct mk_mem_guard {
    /* Before a pointer to this range is given away, to write through or not: what is there goes
     * until a vCPU enters the guest, and the range may be written to, also later. */
    void (*lift)(struct mk_mem_guard *g, uint64_t gpa, uint64_t len, bool write);
    /* Copies this range, which is at `from`, as the guest's own bytes are. */
    void (*copy)(struct mk_mem_guard *g, uint64_t gpa, const uint8_t *from, uint8_t *to,
                 uint64_t len);
    /* Copies to it, which is at `to`. */
    void (*write)(struct mk_mem_guard *g, uint64_t gpa, uint8_t *to, const uint8_t *from,
                  uint64_t len);
};

struct mk_mem {
    struct mk_region *regions;
    unsigned count;
    uint64_t size;           /* of the VM's own RAM */
    uint64_t bytes;          /* of a copy: all RAM and ROM */
    bool copied;             /* a copy-on-write view of a copy: pages given back do not read zero */
    pid_t owner;             /* a forked child does not have the mappings */
    _Atomic uint64_t *dirty; /* a bit for each page of a copy; NULL: nobody watches */
    uint64_t *log;           /* room for what KVM answers */
    struct mk_mem_guard *_Atomic guard; /* NULL: memory is the guest's own */
};

/* RAM of `size` bytes, a multiple of the page size, all zero. */
int mk_mem_open(struct mk_mem *mem, uint64_t size, struct mk_err *err);
/* RAM and ROM as in a list of regions, a copy-on-write view of the copy in `fd`. */
int mk_mem_open_copy(struct mk_mem *mem, const struct mk_region *list, unsigned count, int fd,
                     struct mk_err *err);
void mk_mem_close(struct mk_mem *mem);
/* Another size of own RAM, with what it held; before anybody watches, or KVM knows of it. */
int mk_mem_resize(struct mk_mem *mem, uint64_t size, struct mk_err *err);
/* One more region: zeros, or with `fd` the contents of that file, or with kind MK_SHARED that file
 * itself, from its beginning. `at`, `slot` and `host` are chosen here, `fd` is not kept unless
 * shared. Overlaps and sizes are refused by name. NULL with *err. What was watched is not any more.
 */
struct mk_region *mk_mem_add(struct mk_mem *mem, const struct mk_region *want, int fd,
                             struct mk_err *err);
int mk_mem_check_add(const struct mk_mem *mem, const struct mk_region *want, struct mk_err *err);
void mk_mem_remove(struct mk_mem *mem, struct mk_region *region);
struct mk_region *mk_mem_by_slot(const struct mk_mem *mem, uint32_t slot);
/* The region that has a byte in common with [gpa, gpa + size); of a VM that has so much own RAM,
 * whether an address is in it. */
const struct mk_region *mk_mem_overlap(const struct mk_mem *mem, uint64_t gpa, uint64_t size);
bool mk_mem_is_own(uint64_t memory, uint64_t gpa);

/* Makes all slots of the VM, or makes them anew, with or without a log; removes them. */
int mk_mem_register(const struct mk_mem *mem, int vm_fd, struct mk_err *err);
int mk_mem_unregister(const struct mk_mem *mem, int vm_fd, struct mk_err *err);
/* KVM forgets what it made of the guest's page tables: it invalidates all of it when any memory
 * slot is deleted (api.rst, KVM_X86_QUIRK_SLOT_ZAP_ALL). -1 with errno. */
int mk_mem_flush(const struct mk_mem *mem, int vm_fd);
/* As after mk_mem_open() and mk_mem_add(). Nobody watches any more. */
void mk_mem_reset(struct mk_mem *mem);

/* Part of a region as a memory slot: `length` 0 removes the slot. -1 with errno. */
struct mk_slot {
    uint32_t number;
    uint64_t linear, physical, length;
    bool read_only;
};
int mk_mem_slot(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot);

/* Begins to watch; slots must be registered (again) afterwards to be logged. And ends. */
int mk_mem_start_log(struct mk_mem *mem, struct mk_err *err);
void mk_mem_stop_log(struct mk_mem *mem);
/* Adds what the guest wrote through this slot, or through all of the regions', since the last call.
 * -1 with errno. */
int mk_mem_sync_slot(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot);
int mk_mem_sync_log(const struct mk_mem *mem, int vm_fd);
/* Notes pages as written; nothing without a watch. */
void mk_mem_mark_pages_dirty(const struct mk_mem *mem, uint64_t first, uint64_t count);

/* --- what devices use: an address and a length that a guest gave, as they are ---
 *
 * All of it is checked without overflow, against holes, ROM and files that became shorter; what is
 * written is marked. Request blocks, descriptors and lengths are copied in, once: the guest may
 * change them at any moment. */

/* Whether the range is memory, in one region or several, to write to. */
bool mk_mem_has(const struct mk_mem *mem, uint64_t gpa, uint64_t len, bool write);
/* Copies; false, and nothing copied, when the range is not all memory. */
bool mk_mem_read(const struct mk_mem *mem, uint64_t gpa, void *to, size_t len);
bool mk_mem_write(const struct mk_mem *mem, uint64_t gpa, const void *from, size_t len);
/* For the kernel to move data from or to in place (read, preadv): what of a range lies in one
 * piece from `gpa` on, *len bytes of it, at most as many as *len said. NULL where it is no memory
 * (any more). The kernel answers EFAULT for a file that is cut off meanwhile; code gets SIGBUS. */
const void *mk_mem_piece(const struct mk_mem *mem, uint64_t gpa, uint64_t *len);
void *mk_mem_writable_piece(const struct mk_mem *mem, uint64_t gpa, uint64_t *len);

/* --- for places that minikvm chose itself --- */

/* Host pointer to [gpa, gpa + len) to read, or NULL when it does not lie in one region. */
const void *mk_mem_at(const struct mk_mem *mem, uint64_t gpa, uint64_t len);
/* The same to write through, at once; not to what is read-only. */
void *mk_mem_writable(const struct mk_mem *mem, uint64_t gpa, uint64_t len);
/* How many of `len` bytes from here lie in one region, 0 when none does. */
uint64_t mk_mem_span(const struct mk_mem *mem, uint64_t gpa, uint64_t len);
/* The region that an address lies in. */
const struct mk_region *mk_mem_find(const struct mk_mem *mem, uint64_t gpa);
/* Nobody served a write of the guest to what is read-only. */
void mk_mem_count_ignored(const struct mk_mem *mem, uint64_t gpa);
/* A page of a copy, and how many follow it in the same region, itself included. */
uint8_t *mk_mem_page(const struct mk_mem *mem, uint64_t page, uint64_t *follow);

/* Gives back the rights to part of a region that mprotect(2) took away. The kernel may have no room
 * for mappings of parts: then all of it gets them, which takes none, and this is false. */
bool mk_mem_unprotect(const struct mk_region *r, uint64_t gpa, uint64_t length);

#endif
