/* prim.c - see prim.h. */
#include "dev/prim.h"

#include <stdlib.h>
#include <string.h>

struct mk_prim *mk_prim_new(void)
{
    struct mk_prim *p = calloc(1, sizeof(*p));
    if (p)
        pthread_mutex_init(&p->lock, NULL);
    return p;
}

static void free_prim(struct mk_prim *p)
{
    pthread_mutex_destroy(&p->lock);
    free(p->bytes);
    mk_bytes_free(&p->held);
    free(p);
}

static void retire(void *self)
{
    struct mk_prim *p = self;
    if (p->on_retire)
        p->on_retire(p->ctx);
    free_prim(p);
}

/* --- const and sink --- */

static MK_HOT uint64_t const_in(void *self, struct mk_io *io)
{
    (void)io;
    return __atomic_load_n(&((const struct mk_prim *)self)->value, __ATOMIC_RELAXED);
}

static MK_HOT void drop(void *self, struct mk_io *io, uint64_t value)
{
    (void)self, (void)io, (void)value;
}

const struct mk_io_ops mk_const_ops = {
    .name = "const", .in = const_in, .out = drop, .width = 8, .retire = retire
};
const struct mk_io_ops mk_sink_ops = {
    .name = "sink", .out = drop, .width = 8, .coalesce = true, .retire = retire
};

/* --- latch: a byte of storage for each address --- */

static void latch_reset(void *self)
{
    struct mk_prim *p = self;
    memset(p->bytes, 0, p->length);
    for (size_t i = 0; i < p->length && i < 8; i++)
        p->bytes[i] = (uint8_t)(p->value >> 8 * i);
}

struct mk_prim *mk_prim_new_latch(uint64_t first, uint64_t last, unsigned stride, uint64_t value)
{
    struct mk_prim *p = mk_prim_new();
    if (!p)
        return NULL;
    p->first = first;
    p->stride = stride;
    p->value = value;
    p->length = (size_t)(last - first + 1) * stride + 8; /* a wide access to the last port */
    p->bytes = malloc(p->length);
    if (!p->bytes) {
        free_prim(p);
        return NULL;
    }
    latch_reset(p);
    return p;
}

/* As memory between processors: bytes never tear, nor does what is aligned to its size. */
uint64_t mk_latch_load(const struct mk_prim *p, size_t at, unsigned size)
{
    const uint8_t *from = p->bytes + at;
    uint64_t value = 0;
    if (size == 4 && at % 4 == 0)
        return __atomic_load_n((const uint32_t *)(const void *)from, __ATOMIC_RELAXED);
    if (size == 8 && at % 8 == 0)
        return __atomic_load_n((const uint64_t *)(const void *)from, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)__atomic_load_n(from + i, __ATOMIC_RELAXED) << 8 * i;
    return value;
}

void mk_latch_store(struct mk_prim *p, size_t at, unsigned size, uint64_t value)
{
    uint8_t *to = p->bytes + at;
    if (size == 4 && at % 4 == 0)
        __atomic_store_n((uint32_t *)(void *)to, (uint32_t)value, __ATOMIC_RELAXED);
    else if (size == 8 && at % 8 == 0)
        __atomic_store_n((uint64_t *)(void *)to, value, __ATOMIC_RELAXED);
    else
        for (unsigned i = 0; i < size; i++)
            __atomic_store_n(to + i, (uint8_t)(value >> 8 * i), __ATOMIC_RELAXED);
}

static size_t place_of(const struct mk_prim *p, const struct mk_io *io)
{
    return (size_t)(io->address - p->first) * p->stride;
}

static MK_HOT uint64_t latch_in(void *self, struct mk_io *io)
{
    return mk_latch_load(self, place_of(self, io), io->size);
}

static MK_HOT void latch_out(void *self, struct mk_io *io, uint64_t value)
{
    mk_latch_store(self, place_of(self, io), io->size, value);
}

static void latch_save(void *self, struct mk_bytes *out)
{
    const struct mk_prim *p = self;
    mk_bytes_add(out, p->bytes, p->length);
}

static void latch_load(void *self, const uint8_t *bytes, size_t length)
{
    struct mk_prim *p = self;
    memcpy(p->bytes, bytes, length < p->length ? length : p->length);
}

const struct mk_io_ops mk_latch_ops = { .name = "latch",
                                        .in = latch_in,
                                        .out = latch_out,
                                        .width = 8,
                                        .reset = latch_reset,
                                        .save = latch_save,
                                        .load = latch_load,
                                        .retire = retire };

/* --- fifo --- */

/* False: there was no memory for all that was added. */
static bool is_whole(struct mk_prim *p)
{
    bool whole = !p->held.failed;
    p->held.failed = false;
    return whole;
}

/* What is left begins at 0 again. */
static void close_up(struct mk_prim *p)
{
    if (p->start && p->held.length > p->start)
        memmove(p->held.data, p->held.data + p->start, p->held.length - p->start);
    p->held.length -= p->start;
    p->start = 0;
}

/* True: a record, which is the caller's to free, is complete with this byte. */
static bool add(struct mk_prim *p, struct mk_io *io, uint8_t byte, struct mk_bytes *record)
{
    pthread_mutex_lock(&p->lock);
    bool ends = p->on >= 0 && byte == p->on;
    if (!ends)
        mk_bytes_u8(&p->held, byte);
    bool fits = is_whole(p), complete = ends || p->held.length >= p->record_size;
    if (complete) {
        *record = p->held;
        p->held = (struct mk_bytes){ 0 };
    }
    pthread_mutex_unlock(&p->lock);
    if (!fits)
        io->cpu->ops->end(io->cpu, MK_ERROR, 0, true, "out of memory for what a fifo collects");
    return complete;
}

static void fifo_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_prim *p = self;
    for (unsigned i = 0; i < io->size; i++) {
        struct mk_bytes record;
        if (!add(p, io, (uint8_t)(value >> 8 * i), &record))
            continue;
        p->on_record(p->ctx, io->cpu, record.length ? (const char *)record.data : "",
                     record.length);
        mk_bytes_free(&record);
    }
}

static void fifo_reset(void *self)
{
    struct mk_prim *p = self;
    pthread_mutex_lock(&p->lock);
    p->held.length = p->start = 0;
    pthread_mutex_unlock(&p->lock);
}

static void fifo_save(void *self, struct mk_bytes *out)
{
    struct mk_prim *p = self;
    pthread_mutex_lock(&p->lock);
    if (p->held.length > p->start)
        mk_bytes_add(out, p->held.data + p->start, p->held.length - p->start);
    pthread_mutex_unlock(&p->lock);
}

static void fifo_load(void *self, const uint8_t *bytes, size_t length)
{
    struct mk_prim *p = self;
    pthread_mutex_lock(&p->lock);
    p->held.length = 0;
    mk_bytes_add(&p->held, bytes, length < p->record_size ? length : p->record_size - 1);
    is_whole(p);
    pthread_mutex_unlock(&p->lock);
}

size_t mk_prim_take(struct mk_prim *p, void *to, size_t size)
{
    pthread_mutex_lock(&p->lock);
    if (size > p->held.length - p->start)
        size = p->held.length - p->start;
    if (size)
        memcpy(to, p->held.data + p->start, size);
    p->start += size;
    close_up(p);
    pthread_mutex_unlock(&p->lock);
    return size;
}

const struct mk_io_ops mk_fifo_ops = { .name = "fifo",
                                       .out = fifo_out,
                                       .width = 8,
                                       .coalesce = true,
                                       .reset = fifo_reset,
                                       .save = fifo_save,
                                       .load = fifo_load,
                                       .retire = retire };

/* --- source --- */

static uint64_t source_in(void *self, struct mk_io *io)
{
    struct mk_prim *p = self;
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&p->lock);
    size_t n = p->held.length - p->start;
    if (n > io->size)
        n = io->size;
    if (n)
        memcpy(&value, p->held.data + p->start, n); /* bytes that are missing read as ones */
    p->start += n;
    bool empty = n && p->start == p->held.length;
    pthread_mutex_unlock(&p->lock);
    io->passed = n == 0;
    if (empty && p->on_empty)
        p->on_empty(p->ctx, io->cpu);
    return value & mk_mask(io->size);
}

bool mk_prim_put(struct mk_prim *p, const void *from, size_t size)
{
    pthread_mutex_lock(&p->lock);
    close_up(p);
    bool fits = size <= MK_FIFO_RECORD - p->held.length;
    if (fits)
        mk_bytes_add(&p->held, from, size);
    fits &= is_whole(p);
    pthread_mutex_unlock(&p->lock);
    return fits;
}

static void source_load(void *self, const uint8_t *bytes, size_t length)
{
    fifo_reset(self);
    mk_prim_put(self, bytes, length);
}

const struct mk_io_ops mk_source_ops = { .name = "source",
                                         .in = source_in,
                                         .width = 8,
                                         .reset = fifo_reset,
                                         .save = fifo_save,
                                         .load = source_load,
                                         .retire = retire };

/* --- match --- */

static MK_HOT void match_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_prim *p = self;
    if (value == p->value)
        p->on_match(p->ctx, io);
    else
        io->passed = true;
}

const struct mk_io_ops mk_match_ops = {
    .name = "match", .out = match_out, .width = 8, .retire = retire
};
