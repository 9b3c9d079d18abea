/* test_virtq.c - split virtqueues that a driver has laid out in memory, right ones and hostile ones
 * (Virtual I/O Device 1.2, 2.7). No KVM. Prints TAP. */
#include "dev/virtq.h"

#include "tap.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define DESC 0x1000u
#define AVAIL 0x2000u
#define USED 0x3000u
#define TABLE 0x4000u
#define DATA 0x10000u
#define RAM (UINT64_C(1) << 20)
#define NEXT 1u
#define WRITE 2u
#define INDIRECT 4u

static struct mk_mem mem;
static struct mk_err err;
static struct mk_virtq_chain chain;
static struct mk_virtq q;

static void put(uint64_t at, uint64_t value, unsigned size)
{
    mk_mem_write(&mem, at, &value, size);
}

static uint64_t get(uint64_t at, unsigned size)
{
    uint64_t value = 0;
    mk_mem_read(&mem, at, &value, size);
    return value;
}

static void describe(uint64_t table, unsigned i, uint64_t at, uint32_t length, unsigned flags,
                     unsigned next)
{
    put(table + 16 * i, at, 8);
    put(table + 16 * i + 8, length, 4);
    put(table + 16 * i + 12, flags, 2);
    put(table + 16 * i + 14, next, 2);
}

static void offer(uint16_t index, uint16_t head)
{
    put(AVAIL + 4 + 2 * ((index - 1u) % q.size), head, 2);
    put(AVAIL + 2, index, 2);
}

static void queue_on(uint64_t ram)
{
    if (mk_mem_open(&mem, ram, &err) < 0)
        abort();
    q = (struct mk_virtq){
        .size = 8, .desc = DESC, .driver = AVAIL, .device = USED, .indirect = true
    };
    err = (struct mk_err){ 0 };
}

static void test_right(void)
{
    uint16_t head = 99;
    queue_on(RAM);
    tap_is(mk_virtq_check(&mem, &q, &err), 0, "a queue in RAM");
    tap_is(mk_virtq_next(&mem, &q, 0, &head, &err), 0, "nothing is available");
    describe(DESC, 3, DATA, 16, NEXT, 5);
    describe(DESC, 5, DATA + 100, 32, NEXT | WRITE, 1);
    describe(DESC, 1, DATA + 200, 1, WRITE, 0);
    offer(1, 3);
    tap_is(mk_virtq_next(&mem, &q, 0, &head, &err), 1, "a buffer");
    tap_is(head, 3, "with its head");
    tap_is(mk_virtq_walk(&mem, &q, head, &chain, &err), 0, "its parts");
    tap_ok(chain.count == 3 && chain.readable == 1 && chain.read_bytes == 16 &&
               chain.write_bytes == 33 && chain.part[2].at == DATA + 200,
           "to read, then to write");
    tap_is(mk_virtq_push(&mem, &q, 0, head, 33, &err), 0, "given back");
    tap_ok(get(USED + 2, 2) == 1 && get(USED + 4, 4) == 3 && get(USED + 8, 4) == 33,
           "in the used ring, with the bytes written");
    char bytes[8] = "";
    mk_mem_write(&mem, DATA, "0123456789abcdef", 16);
    tap_ok(mk_virtq_read(&mem, &chain, 10, bytes, 6) && memcmp(bytes, "abcdef", 6) == 0,
           "its bytes are read from any of them on");
    tap_ok(mk_virtq_write(&mem, &chain, 30, "xyz", 3) && get(DATA + 130, 2) == 0x7978 &&
               get(DATA + 200, 1) == 'z',
           "and written, over two parts");
    tap_ok(!mk_virtq_write(&mem, &chain, 31, "xyz", 3), "as far as there are any");
    mk_virtq_put(&mem, &q, 1, 5, 7, &err);
    tap_ok(get(USED + 2, 2) == 1 && get(USED + 12, 4) == 5 && get(USED + 16, 4) == 7,
           "one that is put there is not seen");
    mk_virtq_publish(&mem, &q, 2, &err);
    tap_is((long long)get(USED + 2, 2), 2, "before the count says so");
    put(AVAIL + 2, 0xffff, 2);
    put(AVAIL + 4 + 2 * 6, 2, 2);
    tap_ok(mk_virtq_next(&mem, &q, 0xfffe, &head, &err) == 1 && head == 2, "indices come round");
    mk_virtq_push(&mem, &q, 0xffff, 2, 0, &err);
    tap_is((long long)get(USED + 2, 2), 0, "in both rings");
    describe(DESC, 0, TABLE, 32, INDIRECT, 0);
    describe(TABLE, 0, DATA, 4, NEXT, 1);
    describe(TABLE, 1, DATA, 4, WRITE, 0);
    tap_ok(mk_virtq_walk(&mem, &q, 0, &chain, &err) == 0 && chain.count == 2, "an indirect table");
    mk_mem_close(&mem);
}

static void test_events(void)
{
    queue_on(RAM);
    tap_ok(mk_virtq_wants_irq(&mem, &q, 0, 1), "a driver wants interrupts");
    put(AVAIL, 1, 2);
    tap_ok(!mk_virtq_wants_irq(&mem, &q, 0, 1), "unless its flag says not (2.7.7)");
    q.event = true;
    put(AVAIL + 4 + 16, 5, 2);
    tap_ok(!mk_virtq_wants_irq(&mem, &q, 3, 5) && mk_virtq_wants_irq(&mem, &q, 5, 6) &&
               mk_virtq_wants_irq(&mem, &q, 3, 8),
           "with event indices, when the count passes its one");
    put(AVAIL + 4 + 16, 0xffff, 2);
    tap_ok(mk_virtq_wants_irq(&mem, &q, 0xffff, 0), "also where it comes round");
    mk_virtq_want_notify(&mem, &q, 7);
    tap_is((long long)get(USED + 4 + 64, 2), 7, "and the device says when it wants to be notified");
    mk_mem_close(&mem);
}

static void refused(int rc, const char *why, const char *name)
{
    tap_ok(rc < 0, name);
    tap_text(err.text, why, "and the reason is told");
    err = (struct mk_err){ 0 };
}

static void test_rings(void)
{
    static const uint16_t sizes[] = { 0, 3, 2048, 65535 };
    queue_on(RAM);
    for (unsigned i = 0; i < MK_COUNT(sizes); i++) {
        q.size = sizes[i];
        tap_ok(mk_virtq_check(&mem, &q, &err) < 0, "a size that is none is refused");
    }
    q.size = 8;
    q.driver = AVAIL + 1;
    refused(mk_virtq_check(&mem, &q, &err), "a ring is not aligned (8)",
            "a ring between two places");
    q.driver = 0xfeb00000;
    refused(mk_virtq_check(&mem, &q, &err), "a ring is not all in RAM (8)", "a ring in MMIO");
    q.driver = RAM - 8;
    refused(mk_virtq_check(&mem, &q, &err), "a ring is not all in RAM (8)", "a ring over the end");
    q.driver = UINT64_MAX - 1;
    refused(mk_virtq_check(&mem, &q, &err), "a ring is not all in RAM (8)", "a ring that wraps");
    q.driver = AVAIL;
    struct mk_region rom = { .gpa = 0xd0000000,
                             .size = 4096,
                             .kind = MK_ROM,
                             .read_only = true,
                             .mapped = true,
                             .name = "ROM" };
    if (!mk_mem_add(&mem, &rom, -1, &err))
        abort();
    q.device = 0xd0000000;
    refused(mk_virtq_check(&mem, &q, &err), "a ring is not all in RAM (8)", "a used ring in ROM");
    q.device = DESC;
    tap_is(mk_virtq_check(&mem, &q, &err), 0, "one over another is the driver's own affair");
    mk_mem_close(&mem);
}

static void test_hostile(void)
{
    uint16_t head;
    queue_on(RAM);
    put(AVAIL + 2, 9, 2);
    refused(mk_virtq_next(&mem, &q, 0, &head, &err),
            "more buffers are available than the queue has entries (9)", "too many buffers");
    offer(1, 8);
    refused(mk_virtq_next(&mem, &q, 0, &head, &err),
            "a buffer begins behind the descriptor table (8)", "a head that is none");
    describe(DESC, 0, DATA, 4, NEXT, 8);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err), "a descriptor lies behind its table (8)",
            "a next one that is none");
    describe(DESC, 0, DATA, 4, NEXT, 1);
    describe(DESC, 1, DATA, 4, NEXT, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "a buffer has more descriptors than its queue (8)", "a loop");
    describe(DESC, 0, DATA, 4, NEXT | WRITE, 1);
    describe(DESC, 1, DATA, 4, 0, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err), "a part to read follows one to write (1)",
            "the wrong order");
    describe(DESC, 0, DATA, UINT32_MAX, 0, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "4294967295 bytes at 0x10000 are not all in RAM", "a length that leaves RAM");
    describe(DESC, 0, UINT64_MAX - 3, 8, WRITE, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "8 bytes at 0xfffffffffffffffc are not all in RAM", "one that wraps");
    describe(DESC, 0, TABLE, 16, INDIRECT, 0);
    describe(TABLE, 0, TABLE, 16, INDIRECT, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "an indirect descriptor in an indirect table (0)", "indirect in indirect");
    describe(DESC, 0, TABLE, 24, INDIRECT, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "an indirect table has no whole descriptors (24)", "a part of an indirect descriptor");
    describe(DESC, 0, TABLE, 16, INDIRECT | NEXT, 1);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err), "an indirect descriptor has a next one (0)",
            "one that goes on");
    describe(DESC, 0, 0xfeb00000, 16, INDIRECT, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err), "a descriptor is not in RAM (0)",
            "a table in MMIO");
    describe(DESC, 0, TABLE, 0xfffffff0, INDIRECT, 0);
    for (unsigned i = 0; i < 9; i++)
        describe(TABLE, i, DATA, 1, NEXT, i + 1);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "a buffer has more descriptors than its queue (8)", "a long table");
    q.indirect = false;
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err),
            "an indirect descriptor was not negotiated (0)", "one that was not negotiated");
    mk_mem_close(&mem);
    queue_on(MK_HOLE + RAM);
    describe(DESC, 0, MK_HOLE - 4, 8, 0, 0);
    refused(mk_virtq_walk(&mem, &q, 0, &chain, &err), "8 bytes at 0xbffffffc are not all in RAM",
            "a buffer across the hole below 4 GiB");
    mk_mem_close(&mem);
}

/* --- what another vCPU changes meanwhile --- */

static uint64_t random_state;

static uint32_t rnd(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static _Atomic bool over;
static _Atomic unsigned scribbled, reached; /* writes, rounds: no more of those than of these */

/* As a vCPU does, whose writes a sanitizer does not see either. */
__attribute__((no_sanitize("thread"))) static void *scribble(void *arg)
{
    uint8_t *table = mk_mem_writable(&mem, DESC, 0x82);
    uint64_t state = 1;
    (void)arg;
    while (!atomic_load(&over)) {
        if (atomic_load(&scribbled) > atomic_load(&reached)) {
            sched_yield();
            continue;
        }
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint16_t value = (uint16_t)(state >> 50);
        __builtin_memcpy(table + (state >> 33) % 0x80, &value, sizeof(value));
        atomic_fetch_add(&scribbled, 1);
    }
    return NULL;
}

static void scatter(void)
{
    static const uint64_t places[] = { DATA, TABLE, DESC, RAM - 8, UINT64_MAX - 7, 0xfeb00000 };
    static const uint32_t lengths[] = { 0, 1, 16, 32, 4096, 0x80000000, UINT32_MAX };
    for (unsigned i = 0; i < 16; i++)
        describe(rnd(2) ? DESC : TABLE, rnd(8), places[rnd(MK_COUNT(places))],
                 lengths[rnd(MK_COUNT(lengths))], rnd(8), rnd(10));
    put(AVAIL + 2, rnd(12), 2);
    for (unsigned i = 0; i < 8; i++)
        put(AVAIL + 4 + 2 * i, rnd(9), 2);
}

static bool is_sound(void)
{
    bool fine = chain.readable <= chain.count && chain.count <= q.size;
    for (unsigned i = 0; i < chain.count; i++)
        fine &= chain.part[i].length == 0 ||
                mk_mem_has(&mem, chain.part[i].at, chain.part[i].length, i >= chain.readable);
    return fine;
}

static void test_fuzz(unsigned rounds, uint64_t seed, bool meanwhile)
{
    unsigned bad = 0, walked = 0;
    pthread_t thread;
    uint16_t head;
    random_state = seed;
    queue_on(RAM);
    atomic_store(&over, false);
    if (meanwhile && pthread_create(&thread, NULL, scribble, NULL))
        abort();
    for (unsigned i = 0; i < rounds || (meanwhile && atomic_load(&scribbled) < rounds); i++) {
        atomic_store(&reached, i);
        scatter();
        q.indirect = rnd(2);
        if (mk_virtq_next(&mem, &q, (uint16_t)rnd(12), &head, &err) != 1)
            continue;
        bad += head >= q.size;
        if (mk_virtq_walk(&mem, &q, head, &chain, &err) == 0) {
            walked++;
            bad += !is_sound();
            mk_virtq_push(&mem, &q, (uint16_t)rnd(65536), head, rnd(4096), &err);
        }
    }
    atomic_store(&over, true);
    if (meanwhile)
        pthread_join(thread, NULL);
    printf("# %u rounds, seed %llu: %u buffers\n", rounds, (unsigned long long)seed, walked);
    tap_ok(walked > rounds / 100, "fuzz: buffers were found");
    tap_is(bad, 0, "fuzz: and each lies in RAM");
    mk_mem_close(&mem);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 20000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    test_right();
    test_events();
    test_rings();
    test_hostile();
    test_fuzz(rounds, seed, false);
    test_fuzz(rounds, seed, true);
    return tap_done();
}
