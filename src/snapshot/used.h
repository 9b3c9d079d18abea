/* used.h - which pages of guest memory are in use. */
#ifndef MK_USED_H
#define MK_USED_H

#include "kvm/mem.h"

/* Notes every page as written that may differ from what lies beneath: zeros, or the copy that
 * mk_mem_open_copy() was given. */
void mk_mem_mark_used(const struct mk_mem *mem);

#endif
