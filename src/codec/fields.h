/* fields.h - state as bytes and back, by one description of it.
 *
 * A table names the fields of a struct: where each lies, how long it is and what it may hold. The
 * same table writes and reads. What is read was written by nobody knows whom: a value outside its
 * range is not stored, and the first fault is kept, so that a long row of calls is checked once, at
 * its end. Numbers are little-endian. Belongs to one thread at a time. */
#ifndef MK_FIELDS_H
#define MK_FIELDS_H

#include "base/err.h"
#include "codec/bytes.h"

struct mk_codec {
    struct mk_bytes *out; /* NULL: reading */
    struct mk_reader in;
    struct mk_err *err; /* of the first fault; may be NULL */
    uint64_t now;       /* what times are relative to */
    bool check;         /* reading, only to know whether it can be: nothing outside is changed */
    bool bad;
};

enum mk_field_kind {
    MK_FIELD_END = 0,
    MK_FIELD_RAW,   /* bytes that may hold anything; more than eight after their number (u32) */
    MK_FIELD_RANGE, /* an unsigned number from `min` to `max` */
    MK_FIELD_BITS,  /* one with no other bits than those of `max` */
    MK_FIELD_TIME,  /* int64_t, kept relative to now: from `min` to `max` */
    MK_FIELD_TEXT,  /* a string in an array */
    MK_FIELD_BLOB,  /* a pointer to memory of its own, with its length (size_t) at `other` */
    MK_FIELD_LIST,  /* `max` structs, `size` bytes each, with these `fields` */
    MK_FIELD_EACH,  /* a pointer to structs, as many as the unsigned at `other` says already */
};

struct mk_field {
    enum mk_field_kind kind;
    uint32_t at, size;
    uint64_t min, max;
    uint32_t other;
    const struct mk_field *fields;
};

#define MK_FIELD_AT(type, field) .at = offsetof(type, field), .size = sizeof(((type *)NULL)->field)
#define MK_RAW(type, field)                                                                        \
    {                                                                                              \
        MK_FIELD_RAW, MK_FIELD_AT(type, field)                                                     \
    }
#define MK_RANGE(type, field, low, high)                                                           \
    {                                                                                              \
        MK_FIELD_RANGE, MK_FIELD_AT(type, field), .min = (low), .max = (high)                      \
    }
#define MK_FLAG(type, field) MK_RANGE(type, field, 0, 1)
#define MK_BITS(type, field, bits)                                                                 \
    {                                                                                              \
        MK_FIELD_BITS, MK_FIELD_AT(type, field), .max = (bits)                                     \
    }
#define MK_TIME(type, field, low, high)                                                            \
    {                                                                                              \
        MK_FIELD_TIME, MK_FIELD_AT(type, field), .min = (uint64_t)(low), .max = (uint64_t)(high)   \
    }
#define MK_TEXT(type, field)                                                                       \
    {                                                                                              \
        MK_FIELD_TEXT, MK_FIELD_AT(type, field)                                                    \
    }
#define MK_BLOB(type, field, length, most)                                                         \
    {                                                                                              \
        MK_FIELD_BLOB, MK_FIELD_AT(type, field), .max = (most), .other = offsetof(type, length)    \
    }
#define MK_LIST(type, field, table)                                                                \
    {                                                                                              \
        MK_FIELD_LIST, .at = offsetof(type, field), .size = sizeof(((type *)NULL)->field[0]),      \
                       .max = MK_COUNT(((type *)NULL)->field), .fields = (table)                   \
    }

#define MK_EACH(type, field, count, table)                                                         \
    {                                                                                              \
        MK_FIELD_EACH, .at = offsetof(type, field), .size = sizeof(((type *)NULL)->field[0]),      \
                       .other = offsetof(type, count), .fields = (table)                           \
    }

/* Writes or reads the fields of `state`. Blobs are malloc()ed; one that is read replaces the old.
 */
void mk_codec_fields(struct mk_codec *k, const struct mk_field *fields, void *state);
/* Frees the blobs. */
void mk_fields_free(const struct mk_field *fields, void *state);

/* For what no table describes. */
void mk_codec_raw(struct mk_codec *k, void *at, size_t size);
void mk_codec_u32(struct mk_codec *k, uint32_t *value);
void mk_codec_u64(struct mk_codec *k, uint64_t *value);
/* *pointer, with its length; what is read is malloc()ed, NULL when it is empty. */
void mk_codec_blob(struct mk_codec *k, void *pointer, size_t *length, uint64_t most);
/* A part with its length before it: what `code` writes, or reads to its end. `code` NULL: it is
 * empty, or passed over. */
void mk_codec_part(struct mk_codec *k, void (*code)(void *ctx, struct mk_codec *k), void *ctx);
/* A fault, unless this holds; the second is of memory that ran out. */
void mk_codec_check(struct mk_codec *k, bool fine);
void mk_codec_check_memory(struct mk_codec *k, bool there);
/* Whether there was a fault; then what was read is not to be used. */
bool mk_codec_failed(const struct mk_codec *k);

#endif
