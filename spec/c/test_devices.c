/* test_devices.c - the 8259A pair, the 8254 and the keyboard controller, used as a guest uses them:
 * through ports on a real bus, with a clock that the test moves. No KVM, no Lua.
 *
 * cc -Isrc spec/c/test_devices.c src/dev_pic.c src/dev_pit.c src/dev_i8042.c src/bus.c src/clock.c
 *    src/err.c -pthread
 * Prints TAP. Arguments: the number of random accesses and their seed. */
#include "abi.h"
#include "bus.h"
#include "clock.h"
#include "dev_i8042.h"
#include "dev_pic.h"
#include "dev_pit.h"
#include "tap.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MS 1000000u
#define SECOND 1000000000u
#define BASE1 0x20
#define BASE2 0x28
#define EOI 0x20

/* --- the machine --- */

static struct mk_bus bus;
static struct mk_clock vm_clock;
static struct mk_pic pic;
static struct mk_pit pit;
static struct mk_i8042 kbd;
static uint64_t fake_now;
static atomic_uint int_rises, rooms;
static unsigned ends, acks, acked_line;
static char end_text[100];
static enum mk_reason end_reason;
static bool end_all;

static uint64_t test_now(void)
{
    return fake_now;
}

static uint64_t cpu_reg(struct mk_cpu *self, enum mk_reg reg)
{
    (void)self, (void)reg;
    return 0;
}

static void MK_PRINTF(5, 6) cpu_end(struct mk_cpu *self, enum mk_reason reason, int64_t code,
                                    bool whole_vm, const char *fmt, ...)
{
    va_list ap;
    (void)self, (void)code;
    ends++;
    end_reason = reason;
    end_all = whole_vm;
    va_start(ap, fmt);
    vsnprintf(end_text, sizeof(end_text), fmt, ap);
    va_end(ap);
}

static void cpu_idle(struct mk_cpu *self, unsigned polls)
{
    (void)self, (void)polls;
}

static const struct mk_cpu_ops cpu_ops = { cpu_reg, cpu_end, cpu_idle };
static struct mk_cpu cpu = { 0, &cpu_ops };

static void count_rise(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void pic_acked(void *ctx, unsigned line)
{
    acks++;
    acked_line = line;
    mk_pit_on_ack(ctx, line);
}

static uint8_t in8(uint16_t port)
{
    return (uint8_t)mk_bus_in(&bus, &cpu, port, 1, NULL);
}

static void out8(uint16_t port, unsigned value)
{
    mk_bus_out(&bus, &cpu, port, 1, value, NULL);
}

static void machine_on(void)
{
    fake_now = SECOND;
    int_rises = 0;
    rooms = 0;
    ends = acks = 0;
    mk_bus_init(&bus, MK_SPACE_PORTS);
    mk_clock_init(&vm_clock);
    mk_pic_init(&pic);
    mk_pit_init(&pit, &vm_clock, (struct mk_irq){ mk_pic_set_line, &pic, 0 });
    mk_i8042_init(&kbd, (struct mk_irq){ mk_pic_set_line, &pic, 1 });
    pic.on_int = count_rise;
    pic.int_ctx = &int_rises;
    pic.on_ack = pic_acked;
    pic.ack_ctx = &pit;
    pit.now = test_now;
    pit.masked = mk_pic_masked;
    pit.masked_ctx = &pic;
    kbd.on_room = count_rise;
    kbd.room_ctx = &rooms;
    struct mk_err err;
    if (mk_pic_attach(&pic, &bus, &err) || mk_pit_attach(&pit, &bus, &err) ||
        mk_i8042_attach(&kbd, &bus, &err))
        abort();
}

static void machine_off(void)
{
    mk_bus_free(&bus);
    mk_pit_free(&pit);
    mk_i8042_free(&kbd);
    mk_pic_free(&pic);
    mk_clock_free(&vm_clock);
}

/* Time passes; what is due fires when it is due. */
static void advance(uint64_t ns)
{
    uint64_t until = fake_now + ns;
    for (uint64_t at; (at = mk_clock_next(&vm_clock)) <= until;) {
        if (at > fake_now)
            fake_now = at;
        mk_clock_run(&vm_clock, fake_now);
    }
    fake_now = until;
}

/* So many input clocks of the 8254, and a little, so that rounding cannot matter. */
static void clocks(uint64_t n)
{
    advance((n * SECOND + MK_PIT_HZ - 1) / MK_PIT_HZ + 1);
}

/* The vCPU takes an interrupt if there is one; -1: none. */
static int take(void)
{
    return mk_pic_pending(&pic) ? mk_pic_ack(&pic) : -1;
}

static void pic_program(unsigned icw1, unsigned icw4)
{
    out8(0x20, icw1);
    out8(0x21, BASE1);
    out8(0x21, 0x04);
    out8(0x21, icw4);
    out8(0xa0, icw1);
    out8(0xa1, BASE2);
    out8(0xa1, 0x02);
    out8(0xa1, 0x01);
}

static void pic_start(void)
{
    machine_on();
    pic_program(0x11, 0x01);
}

static void raise(unsigned line)
{
    mk_pic_set_line(&pic, line, true);
}

static void lower(unsigned line)
{
    mk_pic_set_line(&pic, line, false);
}

static uint8_t read_irr(uint16_t port)
{
    out8(port, 0x0a);
    return in8(port);
}

static uint8_t read_isr(uint16_t port)
{
    out8(port, 0x0b);
    return in8(port);
}

/* --- 8259A --- */

static void test_pic_init(void)
{
    machine_on();
    raise(3);
    tap_is(take(), -1, "pic: no interrupt before initialisation");
    tap_ok(mk_pic_masked(&pic, 3), "pic: a line counts as masked before initialisation");
    out8(0x21, 0xff);
    pic_program(0x11, 0x01);
    tap_is(in8(0x21), 0, "pic: ICW1 clears the mask register");
    tap_ok(!mk_pic_masked(&pic, 3), "pic: a line is free after initialisation");
    tap_is(read_irr(0x20), 0x08, "pic: an input that is high at ICW1 is requested");
    tap_is(take(), BASE1 + 3, "pic: and delivered at the new vector");
    lower(3);
    out8(0x20, EOI);
    out8(0x20, 0x13); /* single, with ICW4 */
    raise(5);
    tap_is(take(), -1, "pic: no interrupt after ICW1");
    out8(0x21, 0x4f);
    tap_is(take(), -1, "pic: nor after ICW2");
    out8(0x21, 0x01);
    tap_is(take(), 0x4d, "pic: single mode has no ICW3; ICW2 gives vector bits 7..3 alone");
    out8(0x20, 0x12); /* single, no ICW4 */
    out8(0x21, 0x50);
    tap_is(take(), 0x55, "pic: without ICW4 the sequence ends after ICW2");
    out8(0x21, 0xa5);
    tap_is(in8(0x21), 0xa5, "pic: then the odd port is the mask register");
    out8(0x20, EOI);
    out8(0x20, 0xc3); /* 4 is the highest */
    pic_program(0x11, 0x01);
    raise(6), raise(1);
    tap_is(take(), BASE1 + 1, "pic: ICW1 restores the priorities");
    read_isr(0x20);
    out8(0x20, 0x68);
    pic_program(0x11, 0x03);
    out8(0x20, 0x11);
    out8(0x21, BASE1), out8(0x21, 0x00), out8(0x21, 0x01);
    tap_is(in8(0x20), 0x62, "pic: ICW1 selects IRR for reading");
    lower(1), raise(1);
    tap_is(take(), BASE1 + 1, "pic: an interrupt");
    out8(0x21, 0x02);
    tap_is(take(), -1, "pic: and ends special mask mode");
    tap_is(read_isr(0x20), 0x02, "pic: and automatic EOI");
    out8(0x21, 0);
    out8(0x20, EOI);
    take();
    out8(0x20, EOI);
    raise(14);
    tap_is(take(), BASE1 + 2, "pic: without a slave in ICW3 input 2 is like any other");
    char owner[64];
    uint64_t where;
    tap_ok(!mk_bus_owned(&bus, 0x22, 0x3f, &where, owner) &&
               !mk_bus_owned(&bus, 0xa2, 0xff, &where, owner),
           "pic: it has no other ports");
    machine_off();
}

static void test_pic_default_kinds(void)
{
    pic_start();
    raise(0);
    tap_is(int_rises, 1, "pic: line 0 makes INT rise");
    lower(0);
    int_rises = 0;
    raise(4);
    tap_is(int_rises, 1, "pic: the VMM is told when INT rises");
    raise(6);
    tap_is(int_rises, 1, "pic: and not again while it is up");
    tap_is(read_irr(0x20), 0x50, "pic: IRR shows both requests");
    tap_is(take(), BASE1 + 4, "pic: the lower line goes first");
    tap_is(read_irr(0x20), 0x40, "pic: INTA clears its request");
    tap_is(read_isr(0x20), 0x10, "pic: and sets its in-service bit");
    tap_is(take(), -1, "pic: a lower priority waits");
    raise(1);
    tap_is(take(), BASE1 + 1, "pic: a higher priority nests");
    tap_is(read_isr(0x20), 0x12, "pic: both are in service");
    out8(0x20, EOI);
    tap_is(read_isr(0x20), 0x10, "pic: a non-specific EOI ends the highest");
    out8(0x20, 0x64);
    tap_is(read_isr(0x20), 0x00, "pic: a specific EOI ends the one named");
    lower(1);
    raise(1);
    tap_is(take(), BASE1 + 1, "pic: and rotates nothing");
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 6, "pic: then the waiting one comes");
    out8(0x20, 0x61);
    tap_is(read_isr(0x20), 0x40, "pic: a specific EOI for another line changes nothing");
    out8(0x20, 0x40);
    tap_is(read_isr(0x20), 0x40, "pic: OCW2 010 is no operation");
    machine_off();
}

static void test_pic_mask(void)
{
    pic_start();
    out8(0x21, 0x10);
    raise(4);
    tap_is(take(), -1, "pic: a masked line does not interrupt");
    tap_is(read_irr(0x20), 0x10, "pic: but is requested");
    tap_ok(mk_pic_masked(&pic, 4) && !mk_pic_masked(&pic, 5) && !mk_pic_masked(&pic, 12),
           "pic: mk_pic_masked tells which");
    out8(0x21, 0x00);
    tap_is(take(), BASE1 + 4, "pic: unmasking delivers it");
    out8(0x20, EOI);
    out8(0x21, 0x04);
    raise(12);
    tap_is(take(), -1, "pic: masking the cascade silences the slave");
    tap_ok(mk_pic_masked(&pic, 12) && !mk_pic_masked(&pic, 5),
           "pic: its lines count as masked then");
    out8(0x21, 0x00);
    tap_is(take(), BASE2 + 4, "pic: until it is unmasked");
    raise(8);
    out8(0x20, EOI);
    tap_is(take(), BASE2 + 0, "pic: line 8 is the slave's highest");
    machine_off();
}

static void test_pic_trigger(void)
{
    pic_start();
    raise(5);
    tap_is(take(), BASE1 + 5, "pic: an edge interrupts");
    out8(0x20, EOI);
    tap_is(take(), -1, "pic: a line that stays up does so once");
    lower(5);
    raise(5);
    tap_is(take(), BASE1 + 5, "pic: the next edge interrupts again");
    out8(0x20, EOI);
    lower(5);
    raise(5);
    lower(5);
    tap_is(take(), -1, "pic: an edge request drops with its line");
    tap_is(read_irr(0x20), 0, "pic: and leaves IRR");

    out8(0x4d0, 0xff);
    out8(0x4d1, 0xff);
    tap_is(in8(0x4d0) | in8(0x4d1) << 8, 0xdef8, "elcr: lines 0, 1, 2, 8 and 13 stay edges");
    raise(5);
    tap_is(take(), BASE1 + 5, "pic: a level interrupts");
    tap_is(take(), -1, "pic: not while it is in service");
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 5, "pic: and again after the EOI while it is up");
    lower(5);
    out8(0x20, EOI);
    tap_is(take(), -1, "pic: not when it went down");
    out8(0x4d0, 0);
    pic_program(0x19, 0x01);
    raise(1);
    tap_is(take(), BASE1 + 1, "pic: ICW1 can make all inputs levels");
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 1, "pic: LTIM repeats");
    machine_off();
}

static void test_pic_cascade(void)
{
    pic_start();
    raise(2);
    tap_is(take(), -1, "pic: line 2 is no device's");
    raise(14);
    tap_is(read_irr(0x20), 0x04, "pic: the slave's INT is the master's input 2");
    tap_is(take(), BASE2 + 6, "pic: a slave's vector");
    tap_is(acks << 8 | acked_line, 0x100 | 14, "pic: the VMM is told which line was acknowledged");
    tap_is(read_isr(0x20) << 8 | read_isr(0xa0), 0x0440, "pic: in service in both chips");
    raise(10);
    tap_is(take(), -1, "pic: not fully nested: the slave waits for the master's EOI");
    raise(1);
    tap_is(take(), BASE1 + 1, "pic: line 1 is above the slave");
    out8(0x20, EOI);
    raise(3);
    tap_is(take(), -1, "pic: line 3 is below it");
    out8(0xa0, EOI);
    out8(0x20, EOI);
    tap_is(take(), BASE2 + 2, "pic: after both EOIs the slave's next");
    out8(0xa0, EOI);
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 3, "pic: then line 3");
    machine_off();

    machine_on();
    pic_program(0x11, 0x11);
    raise(14);
    take();
    raise(10);
    tap_is(take(), BASE2 + 2, "pic: special fully nested: a higher slave input interrupts");
    raise(15);
    tap_is(take(), -1, "pic: a lower one does not");
    machine_off();
}

static void test_pic_spurious(void)
{
    pic_start();
    raise(3);
    lower(3);
    tap_is(mk_pic_ack(&pic), BASE1 + 7, "pic: a request gone before INTA is spurious 7");
    tap_is(read_isr(0x20), 0, "pic: with no in-service bit");
    raise(7);
    tap_is(take(), BASE1 + 7, "pic: the real 7");
    tap_is(read_isr(0x20), 0x80, "pic: has one");
    out8(0x20, EOI);
    raise(11);
    lower(11);
    tap_is(mk_pic_ack(&pic), BASE2 + 7, "pic: gone from the slave: spurious 15");
    tap_is(read_isr(0x20) << 8 | read_isr(0xa0), 0x0400, "pic: in service in the master alone");
    out8(0x20, EOI);
    tap_is(mk_pic_ack(&pic), BASE1 + 7, "pic: an INTA out of nothing is spurious 7");
    tap_is(acks << 8 | acked_line, 0x107, "pic: no line is acknowledged by a spurious one");
    machine_off();
}

static void test_pic_eoi_modes(void)
{
    machine_on();
    pic_program(0x11, 0x03);
    raise(4);
    take();
    tap_is(read_isr(0x20), 0, "pic: automatic EOI leaves nothing in service");
    raise(6);
    tap_is(take(), BASE1 + 6, "pic: so a lower priority follows at once");
    out8(0x20, 0x80);
    lower(4), lower(6);
    raise(4);
    take();
    lower(4);
    raise(4), raise(6);
    tap_is(take(), BASE1 + 6, "pic: rotate in automatic EOI: the served one became the lowest");
    out8(0x20, 0x00);
    tap_is(take(), BASE1 + 4, "pic: the other follows");
    lower(4), lower(6);
    raise(4), raise(6);
    tap_is(take(), BASE1 + 4, "pic: cleared, the order stays (6 is still the lowest)");
    machine_off();
}

static void test_pic_rotate(void)
{
    pic_start();
    raise(3);
    take();
    out8(0x20, 0xa0);
    tap_is(read_isr(0x20), 0, "pic: rotate on non-specific EOI ends the interrupt");
    lower(3);
    raise(3), raise(4);
    tap_is(take(), BASE1 + 4, "pic: and makes it the lowest");
    out8(0x20, 0xe4);
    tap_is(read_isr(0x20), 0, "pic: rotate on specific EOI ends the one named");
    lower(3), lower(4);
    raise(4), raise(5);
    tap_is(take(), BASE1 + 5, "pic: and makes that the lowest");
    out8(0x20, EOI);
    out8(0x20, 0xc6);
    lower(5);
    raise(7), raise(5);
    tap_is(take(), BASE1 + 7, "pic: set priority: 6 lowest makes 7 the highest");
    machine_off();
}

static void test_pic_special_mask(void)
{
    pic_start();
    raise(3);
    take();
    raise(5);
    tap_is(take(), -1, "pic: 5 waits for 3");
    out8(0x21, 0x08);
    tap_is(take(), -1, "pic: masking 3 alone does not help");
    out8(0x20, 0x68);
    tap_is(take(), BASE1 + 5, "pic: in special mask mode it does");
    out8(0x20, EOI);
    tap_is(read_isr(0x20), 0x08, "pic: a non-specific EOI passes over the masked one");
    lower(5);
    out8(0x20, 0x48);
    raise(5);
    tap_is(take(), -1, "pic: normal mask mode again");
    machine_off();
}

static void test_pic_poll(void)
{
    pic_start();
    out8(0x20, 0x0c);
    tap_is(in8(0x20), 0, "pic: poll with nothing pending");
    raise(0);
    out8(0x20, 0x0c);
    tap_is(in8(0x20), 0x80, "pic: poll gives input 0");
    tap_is(acks << 8 | acked_line, 0x100, "pic: and acknowledges it");
    out8(0x20, EOI);
    acks = 0;
    raise(5);
    out8(0x20, 0x0c);
    tap_is(in8(0x20), 0x85, "pic: poll gives the input");
    tap_is(read_isr(0x20), 0x20, "pic: and is an acknowledgement");
    tap_is(take(), -1, "pic: so INT is down");
    out8(0x20, EOI);
    raise(9);
    tap_is(acks << 8 | acked_line, 0x105, "pic: a polled line is acknowledged");
    out8(0x20, 0x0c);
    tap_is(in8(0x20), 0x82, "pic: the slave shows as input 2");
    tap_is(acks, 1, "pic: which is no line");
    out8(0xa1, 0x10);
    out8(0xa0, 0x0c);
    tap_is(in8(0xa1), 0x81, "pic: and is polled itself; any read answers");
    tap_is(acks << 8 | acked_line, 0x209, "pic: its line is acknowledged");
    tap_is(in8(0xa1), 0x10, "pic: the next read is the mask again");
    machine_off();
}

static void test_pic_pulse_and_state(void)
{
    pic_start();
    mk_pic_pulse(&pic, 10);
    tap_is(take(), BASE2 + 2, "pic: a pulse is one interrupt");
    out8(0xa0, EOI);
    out8(0x20, EOI);
    mk_pic_pulse(&pic, 10);
    tap_is(take(), BASE2 + 2, "pic: the next pulse another");
    out8(0xa0, EOI);
    out8(0x20, EOI);
    out8(0x4d0, 0x60); /* 5 and 6 are levels */
    mk_pic_pulse(&pic, 5);
    tap_is(take(), BASE1 + 5, "pic: a level pulse");
    out8(0x20, EOI);
    tap_is(take(), -1, "pic: ends with its acknowledgement");
    raise(5);
    mk_pic_pulse(&pic, 5);
    mk_pic_pulse(&pic, 6);
    raise(6);
    take();
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 5, "pic: a pulse does not lower a line that a device holds");
    lower(5);
    out8(0x20, EOI);
    take();
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 6, "pic: nor one that a device takes over");
    lower(6);
    out8(0x20, EOI);
    out8(0x4d0, 0);
    mk_pic_pulse(&pic, 10);
    take();
    raise(6);
    struct mk_pic_state state;
    mk_pic_save(&pic, &state);
    mk_pic_reset(&pic);
    raise(1);
    tap_is(take(), -1, "pic: reset needs new ICWs");
    unsigned rises = int_rises;
    out8(0x20, EOI);
    mk_pic_load(&pic, &state);
    tap_is(read_isr(0xa0) << 8 | read_isr(0x20), 0x0404, "pic: a loaded state is as it was");
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 6, "pic: and delivers what was pending");
    tap_is(int_rises, rises + 1, "pic: telling the VMM");
    state.chip[0] = state.chip[1] = (struct mk_pic_chip){
        .edge = 0xff, .lowest = 0x87, .base = 0x23, .elcr = 0xff, .icw3 = 4, .ready = 1,
    };
    state.chip[1].master = 1;
    mk_pic_load(&pic, &state);
    tap_is(in8(0x4d0) | in8(0x4d1) << 8, 0xdef8, "pic: a damaged state is cut to its range: ELCR");
    tap_is(read_irr(0x20), 0, "pic: no edge of a line that is down");
    raise(14);
    tap_is(take(), 0x26, "pic: vector, cascade");
    memset(&state, 0xff, sizeof(state));
    mk_pic_load(&pic, &state);
    tap_is(mk_pic_ack(&pic), 0xff, "pic: a state of ones is survived");
    pic_program(0x11, 0x01);
    for (unsigned line = 0; line < 16; line++)
        lower(line);
    raise(4);
    tap_is(take(), BASE1 + 4, "pic: and can be initialised again");
    machine_off();
}

/* --- 8254 --- */

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
    tap_is(in8(0x61) & 0xcf, 3, "port 0x61: two bits can be written");
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

/* A guest that takes every interrupt at once. Returns how many it took. */
static unsigned serve(void)
{
    unsigned n = 0;
    for (int vector; n < 100000 && (vector = take()) >= 0; n++) {
        if (vector != BASE1)
            return 0;
        out8(0x20, EOI);
    }
    return n;
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

static void test_pit_ticks(void)
{
    pic_start();
    pit_count(0, 0x04, 11932);
    tap_is(serve(), 0, "pit: programming alone does not interrupt");
    tap_is(serve_for(10ull * SECOND, MS), 999, "pit: mode 2 at 100 Hz: 10 s, 999 ticks (999.98)");
    pit_count(0, 0x06, 11932);
    tap_is(serve_for(10ull * SECOND, MS), 999, "pit: mode 3 the same");
    uint64_t programmed = fake_now;
    pit_count(0, 0x00, 1193);
    tap_is((long long)((mk_clock_next(&vm_clock) - programmed) * MK_PIT_HZ / SECOND), 1194,
           "pit: mode 0 ends count + 1 clocks after the write");
    clocks(1192);
    tap_is(serve(), 0, "pit: mode 0 waits until then");
    clocks(1);
    tap_is(mk_pic_pending(&pic), true, "pit: and interrupts");
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
    fake_now += 100 * MS; /* 2 ticks, one at 30 ms, then one each 5 ms until 125 */
    mk_clock_run(&vm_clock, fake_now);
    tap_is(serve(), 2 + 1 + 18, "pit: a new rate begins at the end of the period, late or not");
    tap_is(serve_for(100 * MS, MS), 20, "pit: and stays");
    pit_count(0, 0x04, 11932);
    advance(55 * MS);
    pit_count(0, 0x04, 5966);
    tap_is(serve(), 1, "pit: a control word leaves one tick of the old rate pending");
    advance(15 * MS);
    tap_is(mk_pic_pending(&pic), true, "pit: a tick is pending");
    out8(0x43, 0x30);
    tap_is(mk_pic_pending(&pic), false, "pit: mode 0 lowers OUT, and the request goes");
    tap_ok(mk_clock_next(&vm_clock) == UINT64_MAX, "pit: a stopped channel 0 needs no host timer");
    machine_off();
}

static void test_pit_backlog(void)
{
    pic_start();
    pit_count(0, 0x04, 11932);
    fake_now += 255 * MS; /* the VMM was not there */
    mk_clock_run(&vm_clock, fake_now);
    tap_is(serve(), 25, "pit: a late VMM delivers the missed ticks one after another");
    tap_is(serve_for(100 * MS, MS), 10, "pit: and keeps the pace");
    for (unsigned i = 0; i < 30; i++)
        advance(10 * MS); /* the VMM is there, the guest has interrupts disabled */
    tap_is(serve(), 30, "pit: ticks a guest could not take in time come later");
    fake_now += 60ull * SECOND;
    mk_clock_run(&vm_clock, fake_now);
    tap_is(serve(), 99, "pit: a second's worth at the most");
    advance(500 * MS);
    fake_now += 900 * MS;
    mk_clock_run(&vm_clock, fake_now);
    tap_is(serve(), 99, "pit: in sum");
    out8(0x21, 0x01);
    advance(500 * MS);
    out8(0x21, 0x00);
    tap_is(serve(), 1, "pit: while the line is masked ticks are lost, as on a PC");
    fake_now += 200 * MS;
    out8(0x21, 0x01); /* a handler masks its line for a moment, while the VMM is late */
    mk_clock_run(&vm_clock, fake_now);
    out8(0x21, 0x00);
    tap_is(serve(), 20, "pit: but not those of before it was masked");
    advance(10 * MS);
    tap_is(take(), BASE1, "pit: a tick is taken");
    fake_now += 35 * MS;
    mk_clock_run(&vm_clock, fake_now);
    tap_is(take(), -1, "pit: the next tick waits for the EOI of this one");
    out8(0x20, EOI);
    tap_is(serve(), 3, "pit: and then they come");
    fake_now += 35 * MS;
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
    uint64_t before = mk_clock_next(&vm_clock);
    mk_clock_run(&vm_clock, fake_now += 3600ull * SECOND);
    tap_ok(mk_clock_next(&vm_clock) > fake_now && mk_clock_next(&vm_clock) > before,
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
    mk_pit_reset(&pit);
    tap_is(serve_for(SECOND, MS), 0, "pit: after a reset it is silent");
    machine_off();
}

static void test_pit_state(void)
{
    pic_start();
    struct mk_pit_state state, bad;
    struct mk_err err = { 0 };
    pit_count(0, 0x04, 11932);
    pit_count(2, 0x04, 0);
    out8(0x61, 1);
    advance(25 * MS);
    unsigned count = pit_read(0), count2 = pit_read(2);
    mk_pit_save(&pit, &state);
    mk_pit_reset(&pit);
    serve();
    fake_now += 7777 * MS;
    tap_is(mk_pit_load(&pit, &state, &err), 0, "pit: a saved state loads");
    tap_is(pit_read(0), count, "pit: and goes on where it was");
    tap_is(pit_read(2), count2, "pit: in every channel");
    tap_is(serve(), 2, "pit: with the ticks that were owed");
    tap_is(serve_for(100 * MS, MS), 10, "pit: and the timer running");
    bad = state;
    bad.channel[2].reload = 0;
    tap_ok(mk_pit_load(&pit, &bad, &err) == -1 && err.code == EINVAL,
           "pit: a count of nothing is refused");
    bad = state;
    bad.channel[0].start = INT64_MIN;
    tap_is(mk_pit_load(&pit, &bad, NULL), -1, "pit: so is a start before all time");
    bad = state;
    bad.channel[0].ticked = UINT64_MAX;
    tap_is(mk_pit_load(&pit, &bad, NULL), -1, "pit: and ticks that cannot have been");
    tap_is(serve_for(100 * MS, MS), 10, "pit: a refused state changes nothing");
    bad = state;
    bad.speaker = 0xff;
    bad.owed = 0xffffffff;
    tap_is(mk_pit_load(&pit, &bad, NULL), 0, "pit: other fields are cut to their range");
    tap_is(in8(0x61) & 0xc3, 3, "pit: the speaker's");
    tap_is(serve(), 99, "pit: the ticks owed");
    machine_off();
}

/* --- i8042 --- */

/* What the guest reads while the output buffer is full, in hex. */
static const char *drain(void)
{
    static char text[256];
    size_t n = 0;
    text[0] = 0;
    while (in8(0x64) & 1 && n + 4 < sizeof(text))
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%02x", n ? " " : "", in8(0x60));
    return text;
}

static const char *ask(unsigned command)
{
    out8(0x64, command);
    return drain();
}

static const char *tell(unsigned byte)
{
    out8(0x60, byte);
    return drain();
}

static void test_i8042_controller(void)
{
    machine_on();
    tap_is(in8(0x64), 0x14, "i8042: status: system flag, not locked, nothing to read");
    tap_text(ask(0xaa), "55", "i8042: self test");
    tap_text(ask(0xab), "00", "i8042: keyboard interface test");
    tap_text(ask(0x20), "65", "i8042: command byte as firmware leaves it");
    out8(0x64, 0x60);
    tap_is(in8(0x64) & 0x08, 0x08, "i8042: status tells a command from");
    out8(0x60, 0x41);
    tap_is(in8(0x64) & 0x0c, 0x00, "i8042: data; the system flag is the command byte's");
    tap_text(ask(0x20), "61", "i8042: command byte written; the mouse stays disabled");
    tap_text(ask(0xd0), "c3", "i8042: output port: A20 on");
    out8(0x64, 0xd1);
    out8(0x60, 0xc1);
    tap_text(ask(0xd0), "c1", "i8042: A20 off");
    out8(0x64, 0xdf);
    tap_text(ask(0xd0), "c3", "i8042: A20 on by the short way");
    out8(0x64, 0xdd);
    tap_text(ask(0xd0), "c1", "i8042: and off");
    out8(0x64, 0xd2);
    tap_text(tell(0x99), "99", "i8042: a byte written to the keyboard buffer comes back");
    out8(0x64, 0xd4);
    tap_text(tell(0xff), "", "i8042: no mouse answers");
    tap_is(in8(0x60), 0x99, "i8042: an empty buffer reads the old byte");
    out8(0x64, 0xd1);
    out8(0x64, 0xae);
    tap_text(tell(0xee), "ee", "i8042: a command voids the one that waits for its parameter");
    tap_text(ask(0x77), "", "i8042: an unknown command has no answer");
    tap_is(ends, 0, "i8042: none of these ended the VM");
    machine_off();
}

static void test_i8042_reset(void)
{
    machine_on();
    out8(0x64, 0xff);
    tap_is(ends, 0, "i8042: pulsing no line resets nothing");
    out8(0x64, 0xfe);
    tap_is(ends, 1, "i8042: 0xfe resets");
    tap_is(end_reason, MK_SHUTDOWN, "i8042: reason shutdown");
    tap_ok(end_all, "i8042: of the whole VM");
    tap_text(end_text, "reset by the keyboard controller", "i8042: and says so");
    out8(0x64, 0xd1);
    out8(0x60, 0x02);
    tap_is(ends, 2, "i8042: so does bit 0 of the output port");
    machine_off();
}

static void test_i8042_keyboard(void)
{
    machine_on();
    tap_text(tell(0xff), "fa aa", "keyboard: reset");
    tap_text(tell(0xee), "ee", "keyboard: echo");
    tap_text(tell(0xfe), "ee", "keyboard: resend repeats an answer");
    tap_text(tell(0xf2), "fa ab 41", "keyboard: identity, translated");
    tap_text(tell(0xed), "fa", "keyboard: LEDs");
    tap_text(tell(0x02), "fa", "keyboard: take a parameter");
    tap_is(kbd.state.leds, 2, "keyboard: and light up");
    tap_text(tell(0xf3), "fa", "keyboard: typematic");
    tap_text(tell(0x20), "fa", "keyboard: takes a parameter");
    tap_text(tell(0xf0), "fa", "keyboard: scancode set");
    tap_text(tell(0x00), "fa 41", "keyboard: it is set 2, translated");
    tap_text(tell(0xf0), "fa", "keyboard: scancode set");
    tap_text(tell(0x03), "fe", "keyboard: set 3 is refused");
    tap_text(tell(0xf0), "fa", "keyboard: scancode set");
    tap_text(tell(0x02), "fa", "keyboard: set 2 is not");
    tap_text(tell(0xed), "fa", "keyboard: in place of a parameter");
    tap_text(tell(0xee), "ee", "keyboard: a command is a command");
    tap_text(tell(0x05), "fe", "keyboard: and voids the one before");
    tap_text(tell(0xf5), "fa", "keyboard: scanning off");
    tap_is(kbd.state.leds, 0, "keyboard: which restores the defaults");
    mk_keyboard_type(&kbd, "a", 1, NULL, NULL);
    tap_text(drain(), "", "keyboard: nothing is sent");
    tap_text(tell(0xf4), "fa 1e 9e", "keyboard: scanning on: the key was kept");
    tap_text(tell(0xfe), "9e", "keyboard: resend repeats a key");
    out8(0x64, 0xad);
    mk_keyboard_type(&kbd, "b", 1, NULL, NULL);
    tap_text(drain(), "", "i8042: a disabled interface passes nothing");
    tap_text(ask(0xae), "30 b0", "i8042: enabled, it passes what waited");
    out8(0x64, 0xad);
    tap_text(tell(0xee), "ee", "i8042: a byte to the keyboard");
    tap_text(ask(0x20), "65", "i8042: enables the interface");
    for (unsigned i = 0; i < 100; i++)
        out8(0x60, 0xee);
    unsigned answers = 0;
    for (; in8(0x64) & 1 && answers < 1000; answers++)
        in8(0x60);
    tap_is(answers, MK_I8042_REPLIES + 1, "keyboard: answers nobody reads are bounded");
    machine_off();
}

static void test_i8042_sets(void)
{
    static const char *const names[] = { "ctrl", "right", "f7" };
    machine_on();
    out8(0x64, 0x60);
    out8(0x60, 0x25); /* no translation */
    mk_keyboard_press(&kbd, names, 3, NULL);
    tap_text(drain(), "14 e0 74 83 f0 83 e0 f0 74 f0 14", "i8042: untranslated keys are set 2");
    tap_text(tell(0xf0), "fa", "keyboard: scancode set");
    tap_text(tell(0x00), "fa 02", "keyboard: untranslated, 2 reads as 2");
    tap_text(tell(0xf2), "fa ab 83", "keyboard: identity, untranslated");
    out8(0x60, 0xf0);
    out8(0x60, 0x01);
    drain();
    mk_keyboard_press(&kbd, names, 2, NULL);
    tap_text(drain(), "1d e0 4d e0 cd 9d", "keyboard: set 1 on demand");
    machine_off();
}

static void test_i8042_typing(void)
{
    static const char *const chord[] = { "ctrl", "alt", "Delete" };
    static const char *const letter[] = { "A" };
    static const char *const wrong[] = { "ctrl", "hyper" };
    static const char *many[MK_KEYBOARD_CHORD + 1];
    struct mk_err err = { 0 };
    size_t typed = 99;
    machine_on();
    tap_is(mk_keyboard_type(&kbd, "aB1!\r", 5, &typed, &err), 0, "type: a text");
    tap_is((long long)typed, 5, "type: all of it");
    tap_text(drain(), "1e 9e 2a 30 b0 aa 02 82 2a 02 82 aa 1c 9c", "type: with shift where needed");
    mk_keyboard_type(&kbd, "~|\"? /\t\b\x7f\x1b\x03", 11, NULL, NULL);
    tap_text(drain(), "2a 29 a9 aa 2a 2b ab aa 2a 28 a8 aa 2a 35 b5 aa 39 b9 35 b5 0f 8f "
             "0e 8e 0e 8e 01 81 1d 2e ae 9d", "type: symbols and control characters");
    tap_is(mk_keyboard_type(&kbd, "ab\xc3\xa4", 4, &typed, &err), -1, "type: no key for UTF-8");
    tap_ok(err.code == EINVAL && typed == 0, "type: EINVAL, nothing typed");
    tap_text(drain(), "", "type: indeed nothing");
    tap_is(mk_keyboard_type(&kbd, "\0", 1, &typed, &err), -1, "type: nor for NUL");
    unsigned without = 0;
    for (int c = ' '; c < 0x7f; c++) {
        char text = (char)c;
        without += mk_keyboard_type(&kbd, &text, 1, NULL, NULL) != 0;
        drain();
    }
    tap_is(without, 0, "type: every printable ASCII character has a key");

    tap_is(mk_keyboard_press(&kbd, chord, 3, &err), 0, "press: ctrl alt delete");
    tap_text(drain(), "1d 38 e0 53 e0 d3 b8 9d", "press: down in order, up in reverse");
    mk_keyboard_press(&kbd, letter, 1, &err);
    tap_text(drain(), "2a 1e 9e aa", "press: a capital needs shift");
    tap_is(mk_keyboard_press(&kbd, wrong, 2, &err), -1, "press: an unknown key");
    tap_ok(err.code == EINVAL && strstr(err.text, "\"hyper\""), "press: is named");
    tap_text(drain(), "", "press: and the known one is not pressed");
    for (unsigned i = 0; i < MK_COUNT(many); i++)
        many[i] = "A";
    tap_is(mk_keyboard_press(&kbd, many, MK_COUNT(many), &err), -1, "press: too many keys");
    tap_is(mk_keyboard_press(&kbd, many, MK_KEYBOARD_CHORD, &err), 0, "press: the most");
    tap_is((long long)mk_i8042_queued(&kbd), MK_KEYBOARD_CHORD * 4 - 1,
           "press: all but the byte on offer wait");
    machine_off();
}

/* Every name that people are told of has a key. */
static void test_i8042_names(void)
{
    static const char *const names[] = {
        "esc", "enter", "tab", "backspace", "space", "ctrl", "rctrl", "shift", "rshift", "alt",
        "altgr", "super", "menu", "capslock", "up", "down", "left", "right", "home", "end",
        "pageup", "pagedown", "insert", "delete", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8",
        "f9", "f10", "f11", "f12", "kp0", "kpenter",
    };
    machine_on();
    unsigned seen[0x180] = { 0 }, twice = 0, unknown = 0;
    for (size_t i = 0; i < MK_COUNT(names); i++) {
        unknown += mk_keyboard_press(&kbd, &names[i], 1, NULL) != 0;
        unsigned code = in8(0x60), extended = code == 0xe0 ? 0x100 : 0;
        if (extended)
            code = in8(0x60);
        twice += seen[extended + (code & 0x7f)]++;
        drain();
    }
    tap_is(unknown, 0, "press: every name has a key");
    tap_is(twice, 0, "press: names are different keys");
    machine_off();
}

static void test_i8042_overflow(void)
{
    struct mk_err err = { 0 };
    size_t typed = 0, total = 0;
    static char text[65536];
    memset(text, 'X', sizeof(text));
    machine_on();
    tap_is(mk_keyboard_type(&kbd, text, sizeof(text), &typed, &err), -1, "type: 64 KiB at once");
    tap_ok(err.code == ENOBUFS, "type: ENOBUFS");
    /* 4 codes a letter; the first left the queue for port 0x60, which makes no room for four */
    tap_is((long long)typed, MK_I8042_KEYS / 4, "type: as many whole keys as fit");
    uint8_t five[5] = { 1, 2, 3, 4, 5 };
    tap_is(mk_i8042_key(&kbd, five, 5, &err), -1, "keys that do not fit are refused");
    tap_is((long long)mk_i8042_queued(&kbd), MK_I8042_KEYS - 1, "all of them");
    unsigned wrong = 0, codes = 0, refills = 0;
    static const uint8_t cycle[] = { 0x2a, 0x2d, 0xad, 0xaa };
    for (total = typed; in8(0x64) & 1; codes++) {
        wrong += in8(0x60) != cycle[codes % 4];
        if (rooms == refills || total == sizeof(text))
            continue;
        refills = rooms;
        mk_keyboard_type(&kbd, text, sizeof(text) - total, &typed, &err);
        total += typed;
    }
    tap_is(codes, 4 * sizeof(text), "type: typing on when there is room, all 64 KiB arrive");
    tap_is(wrong, 0, "type: no key in halves");
    tap_is(rooms, 85, "type: the typist is told each time a quarter is left"); /* 64512/768 + 1 */
    machine_off();
}

static void test_i8042_irq(void)
{
    pic_start();
    mk_keyboard_type(&kbd, "ab", 2, NULL, NULL);
    unsigned n = 0, codes[8] = { 0 };
    while (n < 8 && take() == BASE1 + 1) {
        codes[n++] = in8(0x60);
        out8(0x20, EOI);
    }
    tap_is(n, 4, "i8042: an interrupt for each byte");
    tap_ok(codes[0] == 0x1e && codes[1] == 0x9e && codes[2] == 0x30 && codes[3] == 0xb0,
           "i8042: in order");
    mk_keyboard_type(&kbd, "a", 1, NULL, NULL);
    tap_is(take(), BASE1 + 1, "i8042: a key");
    out8(0x20, EOI);
    tap_is(take(), -1, "i8042: no second interrupt until it is read");
    drain();
    tap_is(take(), -1, "i8042: polling takes the request along");
    out8(0x64, 0x60);
    out8(0x60, 0x64);
    mk_keyboard_type(&kbd, "a", 1, NULL, NULL);
    tap_is(take(), -1, "i8042: none with the interrupt disabled");
    out8(0x64, 0x60);
    out8(0x60, 0x65);
    tap_is(take(), BASE1 + 1, "i8042: enabling it delivers");
    machine_off();

    machine_on();
    mk_keyboard_type(&kbd, "a", 1, NULL, NULL);
    pic_program(0x11, 0x01);
    tap_is(take(), BASE1 + 1, "i8042: a key typed before the PIC was initialised is not lost");
    machine_off();
}

static void test_i8042_state(void)
{
    pic_start();
    struct mk_i8042_state state;
    struct mk_err err = { 0 };
    mk_keyboard_type(&kbd, "ab", 2, NULL, NULL);
    mk_i8042_save(&kbd, &state);
    mk_i8042_reset(&kbd);
    tap_is(take(), -1, "i8042: a reset takes its request back");
    tap_text(drain(), "", "i8042: and empties the queue");
    tap_is(mk_i8042_load(&kbd, &state, &err), 0, "i8042: a saved state loads");
    tap_is(take(), BASE1 + 1, "i8042: and interrupts");
    tap_text(drain(), "1e 9e 30 b0", "i8042: with all its keys");
    state.head = MK_I8042_KEYS;
    tap_ok(mk_i8042_load(&kbd, &state, &err) == -1 && err.code == EINVAL,
           "i8042: a queue outside itself is refused");
    memset(&state, 0xff, sizeof(state));
    state.head = MK_I8042_KEYS - 1;
    state.count = MK_I8042_KEYS;
    state.reply_head = state.reply_count = 5;
    tap_is(mk_i8042_load(&kbd, &state, &err), 0, "i8042: ones within range are survived");
    for (unsigned i = 0; i < 3 * MK_I8042_KEYS; i++)
        in8(0x60);
    machine_off();
}

/* --- threads: a guest, a typist, and a second vCPU that runs the clock; real time --- */

#define TYPED 3000u

static atomic_bool threads_stop;

static void *typist(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < TYPED;)
        i += !mk_keyboard_type(&kbd, i % 2 ? "q" : "e", 1, NULL, NULL);
    return NULL;
}

static void *second_vcpu(void *arg)
{
    (void)arg;
    while (!atomic_load(&threads_stop))
        mk_clock_run(&vm_clock, mk_now());
    return NULL;
}

static void test_threads(void)
{
    static const uint8_t cycle[] = { 0x12, 0x92, 0x10, 0x90 };
    pthread_t threads[2];
    unsigned ticks = 0, codes = 0, wrong = 0, other = 0;
    pic_start();
    pit.now = mk_now;
    atomic_store(&threads_stop, false);
    uint64_t begin = mk_now(), until = begin + 300 * MS, late = begin + 20ull * SECOND;
    pit_count(0, 0x04, 1193);
    pthread_create(&threads[0], NULL, typist, NULL);
    pthread_create(&threads[1], NULL, second_vcpu, NULL);
    while (mk_now() < until || (codes < 2 * TYPED && mk_now() < late)) {
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
    uint64_t end = mk_now(), start = (uint64_t)pit.state.channel[0].start;
    mk_clock_run(&vm_clock, end);
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
    case 2: mk_i8042_key(&kbd, codes, rnd(9), NULL); break;
    case 3: fuzz_ack(f); break;
    case 4: pic_program(0x11, rnd(32)); break;
    case 5: fake_now += rnd(50 * MS); break;
    case 6: fake_now += rnd(2000); break;
    case 7:
        mk_clock_run(&vm_clock, fake_now);
        f->bad_timer += mk_clock_next(&vm_clock) <= fake_now;
        break;
    }
}

static void fuzz_state(void)
{
    struct mk_pit_state pit_state;
    struct mk_pic_state pic_state;
    struct mk_i8042_state kbd_state;
    mk_pit_save(&pit, &pit_state);
    mk_pic_save(&pic, &pic_state);
    mk_i8042_save(&kbd, &kbd_state);
    uint8_t *bytes = rnd(2) ? (uint8_t *)&pit_state : (uint8_t *)&kbd_state;
    bytes[rnd(sizeof(pit_state))] = (uint8_t)rnd(256);
    ((uint8_t *)&pic_state)[rnd(sizeof(pic_state))] = (uint8_t)rnd(256);
    mk_pit_load(&pit, &pit_state, NULL);
    mk_pic_load(&pic, &pic_state);
    mk_i8042_load(&kbd, &kbd_state, NULL);
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
        if (mk_pic_pending(&pic) && rnd(4))
            fuzz_ack(&f);
        f.bad_owed += pit.state.owed > MK_PIT_HZ / 120 || (pit.state.line != (pit.state.owed > 0));
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
    test_pic_init();
    test_pic_default_kinds();
    test_pic_mask();
    test_pic_trigger();
    test_pic_cascade();
    test_pic_spurious();
    test_pic_eoi_modes();
    test_pic_rotate();
    test_pic_special_mask();
    test_pic_poll();
    test_pic_pulse_and_state();
    test_pit_modes();
    test_pit_counts();
    test_pit_access();
    test_pit_read_back();
    test_pit_bcd();
    test_pit_gate();
    test_pit_ticks();
    test_pit_backlog();
    test_pit_absurd_rate();
    test_pit_init_between();
    test_pit_state();
    test_i8042_controller();
    test_i8042_reset();
    test_i8042_keyboard();
    test_i8042_sets();
    test_i8042_typing();
    test_i8042_names();
    test_i8042_overflow();
    test_i8042_irq();
    test_i8042_state();
    test_threads();
    test_fuzz(argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1000000,
              argc > 2 ? strtoull(argv[2], NULL, 0) : 1);
    return tap_done();
}
