/* copy.h - memory into a copy (files/ram.h): which of its pages have to be copied, and copying
 * them. */
#ifndef MK_SNAPSHOT_COPY_H
#define MK_SNAPSHOT_COPY_H

#include "files/ram.h"
#include "kvm/mem.h"

/* Notes every page as written that may differ from what lies beneath: zeros, or the copy that
 * mk_mem_open_copy() was given (used.c). */
void mk_mem_mark_used(const struct mk_mem *mem);
/* The same for pages that may not be zero in a copy. */
void mk_ram_mark_dirty(const struct mk_ram *ram, const struct mk_mem *mem);
/* A copy of memory as it is: of the pages that are marked as written; the others are zero. */
struct mk_ram *mk_ram_copy(const struct mk_mem *mem, struct mk_err *err);

#endif
