/* bytes.c - see bytes.h. x86 hosts only: memory is little-endian as well. */
#include "codec/bytes.h"

#include <stdlib.h>
#include <string.h>

void mk_bytes_free(struct mk_bytes *b)
{
    free(b->data);
    *b = (struct mk_bytes){ 0 };
}

void *mk_grow(void *data, size_t *room, size_t need)
{
    size_t more = *room ? *room : 256;
    if (need <= *room || need > SIZE_MAX / 2)
        return need <= *room ? data : NULL;
    while (more < need)
        more *= 2;
    data = realloc(data, more);
    if (data)
        *room = more;
    return data;
}

void mk_bytes_add(struct mk_bytes *b, const void *from, size_t length)
{
    if (length == 0)
        return;
    bool fits = !b->failed && length <= SIZE_MAX / 2 - b->length;
    uint8_t *data = fits ? mk_grow(b->data, &b->room, b->length + length) : NULL;
    if (!data) {
        b->failed = true;
        return;
    }
    b->data = data;
    memcpy(b->data + b->length, from, length);
    b->length += length;
}

void mk_bytes_u8(struct mk_bytes *b, uint8_t value)
{
    mk_bytes_add(b, &value, sizeof(value));
}

void mk_bytes_u64(struct mk_bytes *b, uint64_t value)
{
    mk_bytes_add(b, &value, sizeof(value));
}

void mk_bytes_put_u64(struct mk_bytes *b, size_t at, uint64_t value)
{
    if (mk_inside(at, sizeof(value), b->length))
        memcpy(b->data + at, &value, sizeof(value));
}

const uint8_t *mk_reader_bytes(struct mk_reader *r, size_t length)
{
    if (r->failed || length > r->left) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += length;
    r->left -= length;
    return at;
}

void mk_reader_get(struct mk_reader *r, void *to, size_t length)
{
    const uint8_t *from = mk_reader_bytes(r, length);
    if (from && length)
        memcpy(to, from, length);
    else if (length)
        memset(to, 0, length);
}

uint8_t mk_reader_u8(struct mk_reader *r)
{
    uint8_t value;
    mk_reader_get(r, &value, sizeof(value));
    return value;
}

uint64_t mk_reader_u64(struct mk_reader *r)
{
    uint64_t value;
    mk_reader_get(r, &value, sizeof(value));
    return value;
}
