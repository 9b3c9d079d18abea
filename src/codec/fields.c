/* fields.c - see fields.h. */
#include "codec/fields.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool mk_codec_failed(const struct mk_codec *k)
{
    return k->bad || k->in.failed || (k->out && k->out->failed);
}

void mk_codec_check(struct mk_codec *k, bool fine)
{
    if (!fine && !k->bad)
        mk_fail(k->err, EBADMSG, "its state is damaged");
    k->bad |= !fine;
}

void mk_codec_check_memory(struct mk_codec *k, bool there)
{
    if (!there && !k->bad)
        mk_fail_errno(k->err, ENOMEM, "its state");
    k->bad |= !there;
}

void mk_codec_raw(struct mk_codec *k, void *at, size_t size)
{
    if (k->out) {
        mk_bytes_add(k->out, at, size);
        mk_codec_check_memory(k, !k->out->failed);
    } else {
        mk_reader_get(&k->in, at, size);
        mk_codec_check(k, !k->in.failed);
    }
}

void mk_codec_u32(struct mk_codec *k, uint32_t *value)
{
    mk_codec_raw(k, value, sizeof(*value));
}

void mk_codec_u64(struct mk_codec *k, uint64_t *value)
{
    mk_codec_raw(k, value, sizeof(*value));
}

/* They must all be there before memory is taken for them. */
void mk_codec_blob(struct mk_codec *k, void *pointer, size_t *length, uint64_t most)
{
    uint8_t **bytes = pointer;
    mk_codec_u64(k, length);
    if (k->out) {
        mk_codec_raw(k, *bytes, *length);
        return;
    }
    *bytes = NULL;
    mk_codec_check(k, *length <= most && *length <= k->in.left);
    if (!mk_codec_failed(k) && *length) {
        *bytes = malloc(*length);
        mk_codec_check_memory(k, *bytes);
    }
    if (*bytes)
        mk_codec_raw(k, *bytes, *length);
    else
        *length = 0;
}

static void write_part(struct mk_codec *k, void (*code)(void *ctx, struct mk_codec *k), void *ctx)
{
    mk_bytes_u64(k->out, 0);
    size_t start = k->out->length;
    if (code)
        code(ctx, k);
    mk_bytes_put_u64(k->out, start - sizeof(uint64_t), k->out->length - start);
}

void mk_codec_part(struct mk_codec *k, void (*code)(void *ctx, struct mk_codec *k), void *ctx)
{
    if (k->out) {
        write_part(k, code, ctx);
        return;
    }
    uint64_t length = mk_reader_u64(&k->in);
    struct mk_codec part = *k;
    part.in = (struct mk_reader){ .at = mk_reader_bytes(&k->in, length), .left = length };
    mk_codec_check(k, !k->in.failed);
    if (k->bad || !code)
        return;
    code(ctx, &part);
    mk_codec_check(&part, part.in.left == 0);
    k->bad |= part.bad;
}

/* A struct of another kernel header, or an array of another length, is refused. */
static void code_bytes(struct mk_codec *k, void *at, uint32_t size)
{
    uint32_t length = size;
    if (size > sizeof(uint64_t))
        mk_codec_u32(k, &length);
    mk_codec_check(k, length == size);
    if (!mk_codec_failed(k))
        mk_codec_raw(k, at, size);
}

static uint64_t load(const struct mk_field *f, const void *at)
{
    uint64_t value = 0;
    memcpy(&value, at, f->size);
    return value;
}

static bool in_range(const struct mk_field *f, uint64_t value)
{
    switch (f->kind) {
    case MK_FIELD_RANGE: return value >= f->min && value <= f->max;
    case MK_FIELD_BITS: return !(value & ~f->max);
    default: return (int64_t)value >= (int64_t)f->min && (int64_t)value <= (int64_t)f->max;
    }
}

static void code_number(struct mk_codec *k, const struct mk_field *f, void *at)
{
    uint64_t shift = f->kind == MK_FIELD_TIME ? k->now : 0, value = load(f, at) - shift;
    mk_codec_raw(k, &value, f->size);
    if (k->out)
        return;
    value = load(f, &value);
    mk_codec_check(k, in_range(f, value));
    value += shift;
    if (!mk_codec_failed(k))
        memcpy(at, &value, f->size);
}

static void code_text(struct mk_codec *k, char *at, uint32_t size)
{
    code_bytes(k, at, size);
    mk_codec_check(k, memchr(at, 0, size));
    at[size - 1] = 0;
}

/* The structs of a list, and how many. */
static uint8_t *list_of(const struct mk_field *f, uint8_t *state, uint64_t *count)
{
    unsigned each = 0;
    *count = 0;
    if (f->kind == MK_FIELD_LIST)
        *count = f->max;
    if (f->kind != MK_FIELD_EACH)
        return state + f->at;
    memcpy(&each, state + f->other, sizeof(each));
    *count = each;
    return *(uint8_t **)(void *)(state + f->at);
}

static void code_list(struct mk_codec *k, const struct mk_field *f, uint8_t *state)
{
    uint64_t count;
    uint8_t *first = list_of(f, state, &count);
    for (uint64_t i = 0; i < count; i++)
        mk_codec_fields(k, f->fields, first + i * f->size);
}

static void code_field(struct mk_codec *k, const struct mk_field *f, uint8_t *state)
{
    void *at = state + f->at;
    switch (f->kind) {
    case MK_FIELD_RAW: code_bytes(k, at, f->size); break;
    case MK_FIELD_TEXT: code_text(k, at, f->size); break;
    case MK_FIELD_LIST:
    case MK_FIELD_EACH: code_list(k, f, state); break;
    case MK_FIELD_BLOB:
        if (!k->out)
            free(*(void **)at);
        mk_codec_blob(k, at, (size_t *)(void *)(state + f->other), f->max);
        break;
    default: code_number(k, f, at);
    }
}

void mk_codec_fields(struct mk_codec *k, const struct mk_field *fields, void *state)
{
    for (const struct mk_field *f = fields; f->kind != MK_FIELD_END; f++)
        code_field(k, f, state);
}

void mk_fields_free(const struct mk_field *fields, void *state)
{
    for (const struct mk_field *f = fields; f->kind != MK_FIELD_END; f++) {
        uint64_t count;
        uint8_t *at = list_of(f, state, &count);
        for (uint64_t i = 0; i < count; i++)
            mk_fields_free(f->fields, at + i * f->size);
        if (f->kind == MK_FIELD_BLOB) {
            free(*(void **)(void *)at);
            *(void **)(void *)at = NULL;
        }
    }
}
