/* virtq.c - virtqueues in memory of any contents (src/dev/virtq.c). */
#include "fuzz.h"

#include "dev/virtq.h"

static struct mk_virtq_chain chain;

/* What a walk promises to those who use the chain. */
static void check_chain(const struct mk_virtq *q)
{
    uint64_t read_bytes = 0, write_bytes = 0;
    fuzz_check(chain.readable <= chain.count && chain.count <= q->size);
    for (unsigned i = 0; i < chain.count; i++) {
        bool write = i >= chain.readable;
        const struct mk_virtq_part *p = &chain.part[i];
        *(write ? &write_bytes : &read_bytes) += p->length;
        fuzz_check(p->length == 0 || mk_mem_has(&fuzz_mem, p->at, p->length, write));
    }
    fuzz_check(read_bytes == chain.read_bytes && write_bytes == chain.write_bytes);
}

static void use_chain(struct fuzz_in *in)
{
    static uint8_t room[70000];
    uint64_t from = fuzz_u16(in), length = fuzz_u16(in);
    bool fits = mk_inside(from, length, chain.read_bytes);
    fuzz_check(mk_virtq_read(&fuzz_mem, &chain, from, room, length) == fits || length == 0);
    fits = mk_inside(from, length, chain.write_bytes);
    fuzz_check(mk_virtq_write(&fuzz_mem, &chain, from, room, length) == fits || length == 0);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    struct mk_err err;
    struct mk_virtq q = { .size = (uint16_t)(1u << (fuzz_u8(&in) % 12)) };
    uint8_t flags = fuzz_u8(&in);
    q.indirect = flags & 1;
    q.event = flags & 2;
    if (flags & 4)
        q.size = fuzz_u16(&in);
    q.desc = flags & 8 ? fuzz_address(&in) : 0x1000;
    q.driver = flags & 16 ? fuzz_address(&in) : 0x2000;
    q.device = flags & 32 ? fuzz_address(&in) : 0x3000;
    fuzz_mem_reset();
    uint16_t last = flags & 64 ? fuzz_u16(&in) : 0, used = last, head;
    bool sound = mk_virtq_check(&fuzz_mem, &q, &err) == 0;
    while (in.left) {
        fuzz_steps++;
        fuzz_poke(&in);
        int rc = mk_virtq_next(&fuzz_mem, &q, last, &head, &err);
        if (rc > 0) {
            fuzz_check(head < q.size);
            last++;
            if (mk_virtq_walk(&fuzz_mem, &q, head, &chain, &err) == 0) {
                check_chain(&q);
                use_chain(&in);
            }
            rc = mk_virtq_push(&fuzz_mem, &q, used, head, fuzz_u32(&in), &err);
            fuzz_check(!sound || rc == 0);
        }
        mk_virtq_wants_irq(&fuzz_mem, &q, used, (uint16_t)(used + 1));
        used++;
        mk_virtq_want_notify(&fuzz_mem, &q, last);
    }
}

FUZZ_TARGET(virtq, fuzz_mem_open, one)
