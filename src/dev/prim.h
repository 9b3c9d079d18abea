/* prim.h - simple devices that a script composes, answered in C: a constant, a latch, a sink, a
 * fifo that hands whole records on, a source of bytes that were put there, and a match that hands
 * one value on.
 *
 * Each is hooked to a bus with its ops and freed when the bus lets go of it. They may be used by
 * several vCPUs at once. */
#ifndef MK_PRIM_H
#define MK_PRIM_H

#include "codec/bytes.h"
#include "dev/bus.h"

#define MK_FIFO_RECORD 65536 /* bytes after which a record is handed on unfinished */
#define MK_LATCH_MAX (16u << 20)
#define MK_LATCHES_MAX (128u << 20) /* bytes of all latches of a VM, before the last */

struct mk_prim {
    pthread_mutex_t lock;
    uint64_t value;  /* const, match; what a latch begins with */
    uint64_t first;  /* latch: address of bytes[0] */
    unsigned stride; /* bytes of storage from one address to the next */
    uint8_t *bytes;
    size_t length;
    struct mk_bytes held; /* fifo, source */
    size_t start;         /* source: bytes before it were read */
    int on;               /* fifo: the byte that ends a record, -1: none */
    size_t record_size;   /* fifo: bytes of a record that has no end mark */
    /* fifo: a whole record, without its end mark. It is called without the lock. */
    void (*on_record)(void *ctx, struct mk_cpu *cpu, const char *bytes, size_t length);
    /* source: the last byte was read. It is called without the lock; may be NULL. */
    void (*on_empty)(void *ctx, struct mk_cpu *cpu);
    /* match: `value` was written. */
    void (*on_match)(void *ctx, struct mk_io *io);
    void *ctx;
    void (*on_retire)(void *ctx); /* may be NULL */
};

extern const struct mk_io_ops mk_const_ops; /* reads are `value`, writes go nowhere */
extern const struct mk_io_ops mk_latch_ops; /* reads are what was written last */
extern const struct mk_io_ops mk_sink_ops;  /* writes go nowhere; reads are not its business */
extern const struct mk_io_ops mk_fifo_ops;  /* writes are collected; reads are not its business */
/* Reads take bytes that were put there; when there are none, they go to what lies beneath, as
 * writes do. */
extern const struct mk_io_ops mk_source_ops;
extern const struct mk_io_ops mk_match_ops; /* other values go to what lies beneath */

/* NULL when memory ran out. */
struct mk_prim *mk_prim_new(void);
/* The same with storage for a latch: `stride` bytes for each address. */
struct mk_prim *mk_prim_new_latch(uint64_t first, uint64_t last, unsigned stride, uint64_t value);
/* `size` bytes of a latch, `at` bytes into its storage: [at, at + size) lies in `length`. */
uint64_t mk_latch_load(const struct mk_prim *p, size_t at, unsigned size);
void mk_latch_store(struct mk_prim *p, size_t at, unsigned size, uint64_t value);
/* Takes at most `size` bytes of a fifo's unfinished record, or of what a source holds. */
size_t mk_prim_take(struct mk_prim *p, void *to, size_t size);
/* More bytes for a source, behind those that wait, MK_FIFO_RECORD in all at the most: false when
 * they do not fit, or memory ran out. */
bool mk_prim_put(struct mk_prim *p, const void *from, size_t size);

#endif
