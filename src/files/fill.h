/* fill.h - bytes of a file, and zeros, into guest memory. On the thread that owns the stopped VM.
 * -1 with *err. */
#ifndef MK_FILL_H
#define MK_FILL_H

#include "kvm/mem.h"

/* A part of the file to `at`; its holes stay untouched memory. */
int mk_fill_from_file(struct mk_mem *mem, uint64_t at, int fd, uint64_t offset, uint64_t bytes,
                      struct mk_err *err);
int mk_fill_zero(struct mk_mem *mem, uint64_t at, uint64_t bytes, struct mk_err *err);

#endif
