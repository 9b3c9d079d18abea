/* bytes.h - a buffer that grows as it is written, and a reader that never leaves what it is given.
 *
 * Both keep the first failure, so that a long row of calls is checked once, at its end. Numbers are
 * little-endian. Belongs to one thread at a time. */
#ifndef MK_BYTES_H
#define MK_BYTES_H

#include "base/util.h"

/* `data` with room for `need` bytes, `*room` or more: moved when it has less. NULL when memory runs
 * out; then `data` stays. */
void *mk_grow(void *data, size_t *room, size_t need);

struct mk_bytes { /* all zero: empty; free() of `data` or mk_bytes_free() */
    uint8_t *data;
    size_t length, room;
    bool failed; /* memory ran out: what was added since is lost */
};

void mk_bytes_free(struct mk_bytes *b);
void mk_bytes_add(struct mk_bytes *b, const void *from, size_t length);
void mk_bytes_u8(struct mk_bytes *b, uint8_t value);
void mk_bytes_u64(struct mk_bytes *b, uint64_t value);
/* Overwrites a number written before, such as a length that is known now. */
void mk_bytes_put_u64(struct mk_bytes *b, size_t at, uint64_t value);

struct mk_reader {
    const uint8_t *at;
    size_t left;
    bool failed; /* more was asked for than there was: what was read since is zero */
};

void mk_reader_get(struct mk_reader *r, void *to, size_t length);
/* The next `length` bytes where they lie, or NULL. */
const uint8_t *mk_reader_bytes(struct mk_reader *r, size_t length);
uint8_t mk_reader_u8(struct mk_reader *r);
uint64_t mk_reader_u64(struct mk_reader *r);

#endif
