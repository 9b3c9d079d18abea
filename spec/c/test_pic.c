/* test_pic.c - the 8259A pair (Intel data sheet 231468). Prints TAP. */
#include "pc.h"

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
    struct mk_bytes state = save();
    mk_devs_reset(&devices);
    raise(1);
    tap_is(take(), -1, "pic: reset needs new ICWs");
    unsigned rises = int_rises;
    out8(0x20, EOI);
    load(&state, NULL);
    mk_bytes_free(&state);
    tap_is(read_isr(0xa0) << 8 | read_isr(0x20), 0x0404, "pic: a loaded state is as it was");
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 6, "pic: and delivers what was pending");
    tap_is(int_rises, rises + 1, "pic: telling the VMM");
    struct mk_pic bad = pic;
    bad.state.chip[0] = bad.state.chip[1] = (struct mk_pic_chip){
        .edge = 0xff,
        .lowest = 7,
        .base = 0x20,
        .elcr = 0xff,
        .icw3 = 4,
        .ready = 1,
    };
    tap_is(load_damaged(&pic, &bad, NULL), 0, "pic: edges and levels that cannot be are loaded");
    tap_is(in8(0x4d0) | in8(0x4d1) << 8, 0xdef8, "pic: but cut to their range: ELCR");
    tap_is(read_irr(0x20), 0, "pic: no edge of a line that is down");
    raise(14);
    tap_is(take(), 0x26, "pic: vector, cascade");
    bad.state.chip[1].base = 0x23;
    tap_is(load_damaged(&pic, &bad, NULL), -1, "pic: a vector that no ICW2 gives is refused");
    memset(&bad.state, 0xff, sizeof(bad.state));
    tap_is(load_damaged(&pic, &bad, NULL), -1, "pic: so is a state of ones");
    pic_program(0x11, 0x01);
    for (unsigned line = 0; line < 16; line++)
        lower(line);
    raise(4);
    tap_is(take(), BASE1 + 4, "pic: and can be initialised again");
    machine_off();
}

int main(void)
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
    return tap_done();
}
