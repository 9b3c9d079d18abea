/* test_devices.c - the chips of pc.h together: used by several threads, and at random.
 *
 * Prints TAP. Arguments: the number of random accesses and their seed. */
#include "pc.h"

#include <pthread.h>

/* --- threads: a guest, a typist, and a second vCPU that runs the clock; real time --- */

#define TYPED 3000u

static atomic_bool threads_stop;

static void *typist(void *arg)
{
    (void)arg;
    static const uint8_t codes[2][2] = { { 0x12, 0x92 }, { 0x10, 0x90 } };
    for (unsigned i = 0; i < TYPED;)
        i += mk_i8042_key(&kbd, codes[i % 2], 2);
    return NULL;
}

static void *second_vcpu(void *arg)
{
    (void)arg;
    while (!atomic_load(&threads_stop))
        mk_clock_run(&vm_clock);
    return NULL;
}

static void test_threads(void)
{
    static const uint8_t cycle[] = { 0x12, 0x92, 0x10, 0x90 };
    pthread_t threads[2];
    unsigned ticks = 0, codes = 0, wrong = 0, other = 0;
    pic_start();
    mk_clock_start(&vm_clock);
    atomic_store(&threads_stop, false);
    uint64_t until = now() + 300 * MS, late = now() + 20ull * SECOND;
    out8(0x43, 0x34);
    out8(0x40, 1193 & 0xff);
    out8(0x40, 1193 >> 8);
    pthread_create(&threads[0], NULL, typist, NULL);
    pthread_create(&threads[1], NULL, second_vcpu, NULL);
    while (now() < until || (codes < 2 * TYPED && now() < late)) {
        int vector = take();
        if (vector < 0)
            continue;
        if (vector == BASE1 + 1)
            wrong += in8(0x60) != cycle[codes++ % 4];
        ticks += vector == BASE1;
        other += vector > BASE1 + 1;
        out8(0x20, EOI);
    }
    pthread_join(threads[0], NULL);
    atomic_store(&threads_stop, true);
    pthread_join(threads[1], NULL);
    mk_clock_stop(&vm_clock);
    uint64_t end = now(), start = (uint64_t)pit.state.channel[0].start;
    mk_clock_run(&vm_clock);
    ticks += serve();
    tap_is(codes, 2 * TYPED, "threads: every key arrives by an interrupt");
    tap_is(wrong, 0, "threads: in order");
    tap_is(other, 0, "threads: nothing spurious");
    tap_is(ticks, (long long)((end - start) * MK_PIT_HZ / SECOND / 1193),
           "threads: no tick is lost, none is invented");
    machine_off();
}

/* --- random accesses --- */

static uint64_t random_state;

static uint32_t rnd(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

struct fuzz {
    unsigned bad_vector, bad_service, bad_input, bad_owed, bad_queue, bad_timer, bad_end, taken;
};

static void fuzz_ack(struct fuzz *f)
{
    int vector = mk_pic_ack(&pic);
    const struct mk_pic_chip *chip = pic.state.chip;
    unsigned input = (unsigned)vector & 7, base = (unsigned)vector & 0xf8;
    bool mine = base == chip[0].base, slaves = base == chip[1].base;
    bool kept = (mine && (chip[0].icw4 & 2 || chip[0].isr >> input & 1)) ||
                (slaves && (chip[1].icw4 & 2 || chip[1].isr >> input & 1));
    f->bad_vector += vector < 0 || vector > 255 || !(mine || slaves);
    f->bad_service += !kept && input != 7;
    f->taken++;
}

static void fuzz_port(struct fuzz *f)
{
    static const uint16_t ports[] = {
        0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64,
    };
    static const uint8_t sizes[] = { 1, 1, 1, 2, 4 };
    uint16_t port = ports[rnd(MK_COUNT(ports))];
    uint8_t size = sizes[rnd(MK_COUNT(sizes))];
    if (rnd(2))
        f->bad_input += mk_bus_in(&bus, &cpu, port, size, NULL) > mk_mask(size);
    else
        mk_bus_out(&bus, &cpu, port, size, rnd(4) ? rnd(256) : rnd(0x7fffffff), NULL);
}

static void fuzz_world(struct fuzz *f)
{
    uint8_t codes[8] = { 0x1e, 0x9e, 0xe0, 0x53, 0xe0, 0xd3, 0xff, 0x00 };
    switch (rnd(8)) {
    case 0: mk_pic_set_line(&pic, rnd(20), rnd(2)); break;
    case 1: mk_pic_pulse(&pic, rnd(20)); break;
    case 2: mk_i8042_key(&kbd, codes, rnd(9)); break;
    case 3: fuzz_ack(f); break;
    case 4: pic_program(0x11, rnd(32)); break;
    case 5: pass(rnd(50 * MS)); break;
    case 6: pass(rnd(2000)); break;
    case 7:
        mk_clock_run(&vm_clock);
        f->bad_timer += next_due() <= now();
        break;
    }
}

/* A byte of a saved state becomes another: it loads, or it is refused. */
static void fuzz_state(void)
{
    struct mk_bytes state = save();
    struct mk_bytes bad = save();
    bad.data[rnd((unsigned)bad.length)] = (uint8_t)rnd(256);
    if (load(&bad, NULL) < 0)
        load(&state, NULL);
    mk_bytes_free(&state);
    mk_bytes_free(&bad);
}

static void test_fuzz(unsigned accesses, uint64_t seed)
{
    struct fuzz f = { 0 };
    random_state = seed;
    machine_on();
    for (unsigned i = 0; i < accesses; i++) {
        fuzz_port(&f);
        if (rnd(2))
            fuzz_world(&f);
        if (!rnd(500))
            fuzz_state();
        if (pic.intr && rnd(4))
            fuzz_ack(&f);
        f.bad_owed += pit.state.owed > MK_PIT_HZ / 120 || (pit.irq.level != (pit.state.owed > 0));
        f.bad_queue += kbd.state.count > MK_I8042_KEYS || kbd.state.reply_count > MK_I8042_REPLIES;
        f.bad_end += ends && end_reason != MK_SHUTDOWN;
    }
    printf("# %u accesses, seed %llu: %u interrupts taken, %u resets\n", accesses,
           (unsigned long long)seed, f.taken, ends);
    tap_ok(f.taken > accesses / 10, "fuzz: interrupts were taken");
    tap_is(f.bad_vector, 0, "fuzz: every vector is one of the two chips'");
    tap_is(f.bad_service, 0, "fuzz: and in service unless spurious or automatic");
    tap_is(f.bad_input, 0, "fuzz: every IN is as wide as it was asked for");
    tap_is(f.bad_owed, 0, "fuzz: ticks owed are bounded, and the line tells of them");
    tap_is(f.bad_queue, 0, "fuzz: queues are bounded");
    tap_is(f.bad_timer, 0, "fuzz: a clock that ran has nothing due");
    tap_is(f.bad_end, 0, "fuzz: nothing but a reset ends the VM");
    machine_off();
}

int main(int argc, char **argv)
{
    test_threads();
    test_fuzz(argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1000000,
              argc > 2 ? strtoull(argv[2], NULL, 0) : 1);
    return tap_done();
}
