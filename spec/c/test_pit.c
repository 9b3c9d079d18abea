/* test_pit.c - the 8254 (Intel data sheet 231164) and port 0x61. Prints TAP. */
#include "pc.h"

static void pit_count(unsigned channel, unsigned control, unsigned count)
{
    out8(0x43, channel << 6 | 0x30 | control);
    out8((uint16_t)(0x40 + channel), count & 0xff);
    out8((uint16_t)(0x40 + channel), count >> 8);
    clocks(1); /* loads it */
}

/* Two reads of a counter: low byte, high byte. */
static unsigned pit_pair(unsigned channel)
{
    unsigned low = in8((uint16_t)(0x40 + channel));
    return low | in8((uint16_t)(0x40 + channel)) << 8;
}

static unsigned pit_read(unsigned channel)
{
    out8(0x43, channel << 6); /* latch */
    return pit_pair(channel);
}

static unsigned pit_status(unsigned channel)
{
    out8(0x43, 0xe0 | 2u << channel);
    return in8((uint16_t)(0x40 + channel));
}

/* OUT of channel 2 at successive input clocks, as a text of 0 and 1. */
static const char *wave(unsigned n)
{
    static char text[64];
    for (unsigned i = 0; i < n; i++, clocks(1))
        text[i] = in8(0x61) & 0x20 ? '1' : '0';
    text[n] = 0;
    return text;
}

static void test_pit_modes(void)
{
    pic_start();
    out8(0x61, 1);
    pit_count(2, 0x00, 4);
    tap_text(wave(8), "00001111", "pit: mode 0 rises at the terminal count and stays");
    tap_is(pit_read(2), 0x10000 - 4, "pit: and counts on");
    pit_count(2, 0x04, 3);
    tap_text(wave(9), "110110110", "pit: mode 2 is low for one clock in three");
    pit_count(2, 0x0c, 3);
    tap_text(wave(9), "110110110", "pit: mode 6 is mode 2");
    pit_count(2, 0x06, 4);
    tap_text(wave(9), "110011001", "pit: mode 3 is a square wave");
    pit_count(2, 0x06, 5);
    tap_text(wave(10), "1110011100", "pit: an odd count is high for one clock longer");
    pit_count(2, 0x08, 3);
    tap_text(wave(8), "11101111", "pit: mode 4 strobes once");
    out8(0x61, 0);
    pit_count(2, 0x02, 3);
    tap_text(wave(3), "111", "pit: mode 1 waits for the gate");
    out8(0x61, 1);
    clocks(1);
    tap_text(wave(6), "000111", "pit: and is low for the count");
    out8(0x61, 0);
    out8(0x61, 1);
    clocks(2);
    out8(0x61, 0);
    out8(0x61, 1);
    clocks(1);
    tap_text(wave(5), "00011", "pit: mode 1 can be triggered again meanwhile");
    out8(0x61, 0);
    pit_count(2, 0x0a, 2);
    out8(0x61, 1);
    clocks(1);
    tap_text(wave(6), "110111", "pit: mode 5 strobes after the gate rose");
    machine_off();
}

static void test_pit_counts(void)
{
    pic_start();
    out8(0x61, 1);
    pit_count(2, 0x04, 1000);
    tap_is(pit_read(2), 1000, "pit: mode 2 starts at the count");
    clocks(10);
    tap_is(pit_read(2), 990, "pit: and counts down by one");
    clocks(989);
    tap_is(pit_read(2), 1, "pit: to 1");
    clocks(1);
    tap_is(pit_read(2), 1000, "pit: and begins again");
    pit_count(2, 0x06, 1000);
    clocks(10);
    tap_is(pit_read(2), 980, "pit: mode 3 counts down by two");
    clocks(490);
    tap_is(pit_read(2), 1000, "pit: once in each half");
    pit_count(2, 0x06, 7);
    tap_is(pit_read(2), 6, "pit: an odd count starts one lower");
    pit_count(2, 0x04, 0);
    clocks(1);
    tap_is(pit_read(2), 0xffff, "pit: 0 means 65536");
    pit_count(1, 0x04, 18);
    clocks(17);
    tap_is(pit_read(1), 1, "pit: channel 1 counts");
    machine_off();
}

static void test_pit_access(void)
{
    pic_start();
    out8(0x61, 1);
    out8(0x43, 0x94); /* channel 2, low byte, mode 2 */
    out8(0x42, 200);
    clocks(11);
    tap_is(in8(0x42), 190, "pit: low-byte access");
    tap_is(in8(0x42), 190, "pit: again the low byte");
    out8(0x43, 0xa4); /* high byte */
    out8(0x42, 3);
    clocks(2);
    tap_is(in8(0x42), 2, "pit: high-byte access: 0x300 - 1");
    pit_count(2, 0x04, 0x1234);
    clocks(0x34);
    tap_is(in8(0x42), 0x00, "pit: low byte, then");
    tap_is(in8(0x42), 0x12, "pit: the high byte");
    out8(0x43, 0x80);
    clocks(0x200);
    out8(0x43, 0x80);
    tap_is(in8(0x42), 0x00, "pit: a latched count stays, a second latch is ignored");
    tap_is(in8(0x42), 0x12, "pit: both its bytes");
    tap_is(pit_pair(2), 0x1000, "pit: afterwards the counter is read again");
    tap_is(in8(0x43), 0xff, "pit: the control word cannot be read");
    machine_off();
}

static void test_pit_read_back(void)
{
    pic_start();
    out8(0x61, 1);
    out8(0x43, 0xb4);
    tap_is(pit_status(2), 0xf4, "pit: status: OUT high, null count, control word");
    out8(0x42, 100);
    out8(0x42, 0);
    tap_is(pit_status(2), 0xf4, "pit: null until the next clock");
    clocks(1);
    tap_is(pit_status(2), 0xb4, "pit: loaded");
    clocks(99);
    tap_is(pit_status(2), 0x34, "pit: OUT low in the last clock of mode 2");
    clocks(1);
    pit_count(0, 0x04, 500);
    out8(0x43, 0xc0 | 0x0a); /* count and status of channels 0 and 2 */
    clocks(50);
    tap_is(in8(0x42), 0xb4, "pit: read-back of both: the status comes first");
    tap_is(pit_pair(2), 99, "pit: then the count");
    tap_is(in8(0x40), 0xb4, "pit: of another channel too");
    tap_is(pit_pair(0), 500, "pit: with its count");
    out8(0x43, 0xd0 | 0x08); /* count alone, channel 2 alone */
    tap_is(pit_pair(0), 450, "pit: read-back leaves a channel that was not named");
    clocks(7);
    tap_is(pit_pair(2), 49, "pit: read-back of the count alone");
    out8(0x42, 10);
    out8(0x42, 0);
    tap_is(pit_status(2) & 0x40, 0x40, "pit: a new count waits for the end of the period");
    tap_is(pit_read(2), 42, "pit: while the old one runs on");
    clocks(42);
    tap_is(pit_read(2), 10, "pit: and follows it");
    tap_is(pit_status(2) & 0x40, 0, "pit: null count is over");
    out8(0x61, 0);
    tap_is(pit_status(2) & 0x40, 0, "pit: and stays so while the gate is low");
    pit_count(2, 0x02, 7);
    tap_is(pit_status(2), 0xf2, "pit: in mode 1 it waits for the trigger");
    machine_off();
}

static void test_pit_bcd(void)
{
    pic_start();
    out8(0x61, 1);
    pit_count(2, 0x05, 0x1000);
    clocks(1);
    tap_is(pit_read(2), 0x0999, "pit: BCD counts in decimal");
    pit_count(2, 0x05, 0x1234);
    tap_is(pit_read(2), 0x1234, "pit: every digit counts");
    clocks(235);
    tap_is(pit_read(2), 0x0999, "pit: as it should");
    pit_count(2, 0x01, 0);
    clocks(1);
    tap_is(pit_read(2), 0x9999, "pit: BCD 0 means 10000");
    clocks(10000 - 2);
    tap_is(in8(0x61) & 0x20, 0x00, "pit: BCD mode 0 is not over at 9999");
    clocks(1);
    tap_is(in8(0x61) & 0x20, 0x20, "pit: but at 10000");
    machine_off();
}

static void test_pit_gate(void)
{
    pic_start();
    tap_is(in8(0x61) & 0x0f, 0, "port 0x61: gate and speaker are off at first");
    out8(0x61, 0xff);
    tap_is(in8(0x61) & 0xcf, 0x0f, "port 0x61: four bits can be written");
    pit_count(2, 0x00, 1000);
    clocks(100);
    out8(0x61, 0);
    clocks(5000);
    tap_is(pit_read(2), 900, "pit: a low gate stops mode 0");
    out8(0x61, 1);
    clocks(50);
    tap_is(pit_read(2), 850, "pit: a high one lets it go on");
    pit_count(2, 0x04, 1000);
    clocks(100);
    out8(0x61, 0);
    clocks(3);
    tap_is(in8(0x61) & 0x20, 0x20, "pit: OUT of mode 2 is high with the gate low");
    out8(0x61, 1);
    clocks(1);
    tap_is(pit_read(2), 1000, "pit: a rising gate begins the period anew");
    unsigned toggles = 0;
    for (unsigned i = 0, last = in8(0x61) & 0x10; i < 1000; i++, last = in8(0x61) & 0x10) {
        advance(5000);
        toggles += (in8(0x61) & 0x10) != last;
    }
    tap_ok(toggles > 300 && toggles < 350, "port 0x61: the refresh bit toggles every 15 us");
    machine_off();
}

static unsigned serve_for(uint64_t ns, uint64_t step)
{
    unsigned n = 0;
    for (uint64_t t = 0; t < ns; t += step) {
        advance(step);
        n += serve();
    }
    return n;
}

/* 8254 data sheet, "Mode Definitions": a new count in mode 3 is loaded at the end of the
 * half-cycle; in mode 0 the first of two bytes stops the counting and lowers OUT. */
static void test_pit_new_counts(void)
{
    pic_start();
    out8(0x61, 1);
    pit_count(2, 0x06, 8);
    wave(2);
    out8(0x42, 4), out8(0x42, 0);
    tap_is(pit_status(2) & 0x40, 0x40, "pit: a new count waits");
    tap_text(wave(8), "11001100", "pit: mode 3 takes it when the high half ends");
    tap_is(pit_status(2) & 0x40, 0, "pit: then it is loaded");
    pit_count(2, 0x06, 8);
    wave(5);
    out8(0x42, 5), out8(0x42, 0);
    tap_text(wave(8), "00011100", "pit: or when the low half ends");
    pit_count(2, 0x00, 100);
    wave(10);
    out8(0x42, 3);
    tap_is(pit_read(2), 90, "pit: mode 0 stops at the first byte");
    clocks(200);
    out8(0x61, 0);
    out8(0x61, 1);
    tap_is(pit_read(2), 90, "pit: until the second");
    tap_is(pit_status(2) & 0x80, 0, "pit: with OUT low");
    out8(0x42, 0);
    clocks(1);
    tap_text(wave(5), "00011", "pit: then it counts anew");
    pit_count(0, 0x06, 60000);
    advance(10 * MS);
    out8(0x40, 1000 & 0xff), out8(0x40, 1000 >> 8);
    /* 30000 clocks high, 500 low: an edge at 25.56 ms, the next at 26.40 ms */
    tap_is(serve_for(16 * MS, 10000), 1, "pit: the shorter low half interrupts in time");
    machine_off();
}

static void test_pit_ticks(void)
{
    pic_start();
    pit_count(0, 0x04, 11932);
    tap_is(serve(), 0, "pit: programming alone does not interrupt");
    tap_is(serve_for(10ull * SECOND, MS), 999, "pit: mode 2 at 100 Hz: 10 s, 999 ticks (999.98)");
    pit_count(0, 0x06, 11932);
    tap_is(serve_for(10ull * SECOND, MS), 999, "pit: mode 3 the same");
    uint64_t programmed = now();
    pit_count(0, 0x00, 1193);
    tap_is((long long)((next_due() - programmed) * MK_PIT_HZ / SECOND), 1194,
           "pit: mode 0 ends count + 1 clocks after the write");
    clocks(1192);
    tap_is(serve(), 0, "pit: mode 0 waits until then");
    clocks(1);
    tap_is(pic.intr, true, "pit: and interrupts");
    tap_is(serve() + serve_for(SECOND, MS), 1, "pit: once");
    out8(0x40, 100);
    out8(0x40, 0);
    tap_is(serve_for(SECOND, MS), 1, "pit: and again after a new count");
    pit_count(0, 0x08, 100);
    tap_is(serve_for(SECOND, MS), 1, "pit: mode 4 interrupts once");
    pit_count(0, 0x02, 100);
    tap_is(serve_for(SECOND, MS), 0, "pit: mode 1 never does: the gate of channel 0 is fixed");
    pit_count(0, 0x04, 11932);
    advance(25 * MS);
    out8(0x40, 5966 & 0xff);
    out8(0x40, 5966 >> 8);
    pass(100 * MS); /* 2 ticks, one at 30 ms, then one each 5 ms until 125 */
    mk_clock_run(&vm_clock);
    tap_is(serve(), 2 + 1 + 18, "pit: a new rate begins at the end of the period, late or not");
    tap_is(serve_for(100 * MS, MS), 20, "pit: and stays");
    pit_count(0, 0x04, 11932);
    advance(55 * MS);
    pit_count(0, 0x04, 5966);
    tap_is(serve(), 1, "pit: a control word leaves one tick of the old rate pending");
    advance(15 * MS);
    tap_is(pic.intr, true, "pit: a tick is pending");
    out8(0x43, 0x30);
    tap_is(pic.intr, false, "pit: mode 0 lowers OUT, and the request goes");
    tap_ok(next_due() == UINT64_MAX, "pit: a stopped channel 0 needs no host timer");
    machine_off();
}

static void test_pit_lost_ticks(void)
{
    pic_start();
    pit.lose_ticks = true;
    pit_count(0, 0x04, 11932);
    tap_is(serve_for(101 * MS, MS), 10, "pit: that loses ticks: not those that come in time");
    pass(257 * MS);
    mk_clock_run(&vm_clock);
    tap_is(serve(), 1, "pit: of those that the guest could not take one is left");
    tap_is(serve_for(5 * MS, MS), 0, "pit: and what was due soon after is lost, too");
    tap_is(serve_for(100 * MS, MS), 10, "pit: then it keeps the pace");
    pass(60ull * SECOND);
    mk_clock_run(&vm_clock);
    tap_is(serve(), 1, "pit: one of an hour");
    pit_count(0, 0x00, 11932);
    advance(11 * MS);
    tap_is(serve(), 1, "pit: and the one of mode 0");
    machine_off();
}

static void test_pit_backlog(void)
{
    pic_start();
    pit_count(0, 0x04, 11932);
    pass(255 * MS); /* the VMM was not there */
    mk_clock_run(&vm_clock);
    tap_is(serve(), 25, "pit: a late VMM delivers the missed ticks one after another");
    tap_is(serve_for(100 * MS, MS), 10, "pit: and keeps the pace");
    for (unsigned i = 0; i < 30; i++)
        advance(10 * MS); /* the VMM is there, the guest has interrupts disabled */
    tap_is(serve(), 30, "pit: ticks a guest could not take in time come later");
    pass(60ull * SECOND);
    mk_clock_run(&vm_clock);
    tap_is(serve(), 99, "pit: a second's worth at the most");
    advance(500 * MS);
    pass(900 * MS);
    mk_clock_run(&vm_clock);
    tap_is(serve(), 99, "pit: in sum");
    out8(0x21, 0x01);
    advance(500 * MS);
    out8(0x21, 0x00);
    tap_is(serve(), 1, "pit: while the line is masked ticks are lost, as on a PC");
    pass(200 * MS);
    out8(0x21, 0x01); /* a handler masks its line for a moment, while the VMM is late */
    mk_clock_run(&vm_clock);
    out8(0x21, 0x00);
    tap_is(serve(), 20, "pit: but not those of before it was masked");
    advance(10 * MS);
    tap_is(take(), BASE1, "pit: a tick is taken");
    pass(35 * MS);
    mk_clock_run(&vm_clock);
    tap_is(take(), -1, "pit: the next tick waits for the EOI of this one");
    out8(0x20, EOI);
    tap_is(serve(), 3, "pit: and then they come");
    pass(35 * MS);
    pit_read(0);
    tap_is(serve(), 4, "pit: reading the count delivers what it shows to be over");
    machine_off();
}

static void test_pit_absurd_rate(void)
{
    pic_start();
    pit_count(0, 0x04, 1);
    unsigned n = serve_for(SECOND, 10000);
    tap_is(n, MK_PIT_HZ / 120, "pit: a count of 1 interrupts every 120 clocks");
    pit_count(0, 0x04, 50);
    n = serve_for(SECOND, 10000);
    tap_is(n, MK_PIT_HZ / 150, "pit: a count of 50 at every third period");
    uint64_t before = next_due();
    pass(3600ull * SECOND);
    mk_clock_run(&vm_clock);
    tap_ok(next_due() > now() && next_due() > before,
           "pit: an hour late: one step, then the future");
    tap_is(serve(), MK_PIT_HZ / 150, "pit: and a second's worth of ticks");
    machine_off();
}

static void test_pit_init_between(void)
{
    pic_start();
    pit_count(0, 0x04, 11932);
    advance(35 * MS);
    pic_program(0x11, 0x01);
    tap_is(serve(), 3, "pit: initialising the PIC does not stop the timer");
    tap_is(serve_for(100 * MS, MS), 10, "pit: ticks follow");
    mk_pit_dev.reset(&pit);
    tap_is(serve_for(SECOND, MS), 0, "pit: after a reset it is silent");
    machine_off();
}

static void test_pit_state(void)
{
    pic_start();
    struct mk_err err = { 0 };
    pit_count(0, 0x04, 11932);
    pit_count(2, 0x04, 0);
    out8(0x61, 1);
    advance(25 * MS);
    unsigned count = pit_read(0), count2 = pit_read(2);
    struct mk_bytes state = save();
    mk_devs_reset(&devices);
    serve();
    pass(7777 * MS);
    tap_is(load(&state, &err), 0, "pit: a saved state loads");
    mk_bytes_free(&state);
    tap_is(pit_read(0), count, "pit: and goes on where it was");
    tap_is(pit_read(2), count2, "pit: in every channel");
    tap_is(serve(), 2, "pit: with the ticks that were owed");
    tap_is(serve_for(100 * MS, MS), 10, "pit: and the timer running");
    const struct mk_pit good = pit;
    struct mk_pit bad = good;
    bad.state.speaker = 0x0f;
    bad.state.owed = 0xffffffff;
    tap_is(load_damaged(&pit, &bad, NULL), 0, "pit: more ticks owed than can be are loaded");
    tap_is(in8(0x61) & 0xcf, 0x0f, "pit: with the speaker");
    tap_is(serve(), 99, "pit: as many as can be");
    bad = good;
    bad.state.channel[2].reload = 0;
    tap_ok(load_damaged(&pit, &bad, &err) == -1 && err.code == EBADMSG,
           "pit: a count of nothing is refused");
    bad = good;
    bad.state.channel[0].start = INT64_MIN;
    tap_is(load_damaged(&pit, &bad, NULL), -1, "pit: so is a start before all time");
    bad = good;
    bad.state.channel[0].ticked = UINT64_MAX;
    tap_is(load_damaged(&pit, &bad, NULL), -1, "pit: and ticks that cannot have been");
    mk_devs_reset(&devices);
    machine_off();
}

int main(void)
{
    test_pit_modes();
    test_pit_new_counts();
    test_pit_counts();
    test_pit_access();
    test_pit_read_back();
    test_pit_bcd();
    test_pit_gate();
    test_pit_ticks();
    test_pit_lost_ticks();
    test_pit_backlog();
    test_pit_absurd_rate();
    test_pit_init_between();
    test_pit_state();
    return tap_done();
}
