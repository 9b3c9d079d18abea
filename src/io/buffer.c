/* buffer.c - see buffer.h. */
#include "io/buffer.h"

#include "codec/bytes.h"

#include <stdlib.h>
#include <string.h>

void mk_buffer_free(struct mk_buffer *b)
{
    free(b->data);
    *b = (struct mk_buffer){ 0 };
}

bool mk_buffer_reserve(struct mk_buffer *b, size_t length)
{
    if (b->start + length <= b->capacity)
        return true;
    if (b->data && b->start >= b->length) { /* half is free at the front: move, do not grow */
        memmove(b->data, b->data + b->start, b->length);
        b->start = 0;
        if (length <= b->capacity)
            return true;
    }
    char *data = mk_grow(b->data, &b->capacity, b->start + length);
    if (data)
        b->data = data;
    return data;
}

bool mk_buffer_append_more(struct mk_buffer *b, const char *bytes, size_t length)
{
    if (length == 0)
        return true;
    if (!mk_buffer_reserve(b, b->length + length))
        return false;
    memcpy(b->data + b->start + b->length, bytes, length);
    b->length += length;
    return true;
}
