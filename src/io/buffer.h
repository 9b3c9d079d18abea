/* buffer.h - bytes that are appended at the end and taken from the start. */
#ifndef MK_BUFFER_H
#define MK_BUFFER_H

#include "base/util.h"

struct mk_buffer {
    char *data;
    size_t start, length, capacity;
};

void mk_buffer_free(struct mk_buffer *b);
/* Room for `length` bytes in all. False when memory runs out. */
bool mk_buffer_reserve(struct mk_buffer *b, size_t length);
bool mk_buffer_append_more(struct mk_buffer *b, const char *bytes, size_t length);

static inline bool mk_buffer_append(struct mk_buffer *b, const char *bytes, size_t length)
{
    size_t end = b->start + b->length;
    if (length != 1 || end >= b->capacity)
        return mk_buffer_append_more(b, bytes, length);
    b->data[end] = *bytes; /* nearly always: one byte of a guest's */
    b->length++;
    return true;
}

/* What is in it; of one that is empty, which may have no memory, a place that is not looked at. */
static inline const char *mk_buffer_bytes(const struct mk_buffer *b)
{
    return b->data ? b->data + b->start : "";
}

static inline void mk_buffer_consume(struct mk_buffer *b, size_t length)
{
    b->start += length;
    b->length -= length;
    if (b->length == 0)
        b->start = 0;
}

#endif
