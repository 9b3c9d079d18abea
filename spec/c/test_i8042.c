/* test_i8042.c - the keyboard controller and its keyboard (IBM PS/2 Hardware Interface Technical
 * Reference). Prints TAP. */
#include "pc.h"

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

/* Scancodes of set 1, in hex. */
static void type(const char *text)
{
    uint8_t codes[64];
    size_t n = 0;
    for (char *end; *text; text = end)
        codes[n++] = (uint8_t)strtoul(text, &end, 16);
    if (!mk_i8042_key(&kbd, codes, n))
        abort();
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
    tap_text(ask(0x20), "41", "i8042: command byte written");
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
    out8(0x60, 0xff);
    tap_is(in8(0x64) & 0x61, 0x61, "i8042: what is sent to the auxiliary port times out");
    tap_text(drain(), "fe", "i8042: with a resend");
    tap_is(in8(0x60), 0xfe, "i8042: an empty buffer reads the old byte");
    out8(0x64, 0xd1);
    out8(0x64, 0xae);
    tap_text(tell(0xee), "ee", "i8042: a command voids the one that waits for its parameter");
    tap_text(ask(0x90), "", "i8042: an unknown command has no answer");
    tap_is(ends, 0, "i8042: none of these ended the VM");
    machine_off();
}

/* PS/2 Hardware Interface Technical Reference, "Controller Commands"; 0xc0 to 0xc2, 0xe0: AT. */
static void test_i8042_tests(void)
{
    machine_on();
    out8(0x64, 0x65);
    tap_text(tell(0x5a), "", "i8042: a byte of its memory");
    tap_text(ask(0x25), "5a", "i8042: reads back");
    tap_text(ask(0x3f), "00", "i8042: each is its own");
    tap_text(ask(0xa4), "f1", "i8042: no password");
    tap_text(ask(0xa9), "00", "i8042: auxiliary interface test");
    out8(0x64, 0xa8);
    tap_text(ask(0x20), "45", "i8042: the auxiliary interface is enabled");
    out8(0x64, 0xa7);
    tap_text(ask(0x20), "65", "i8042: and disabled");
    tap_text(ask(0xc0), "a0", "i8042: input port: not locked");
    out8(0x64, 0xc2);
    tap_is(in8(0x64), 0xac, "i8042: its upper half in the status");
    out8(0x64, 0xc1);
    tap_is(in8(0x64), 0x0c, "i8042: its lower half");
    tap_text(ask(0xe0), "01", "i8042: test inputs: the keyboard's clock runs, the other does not");
    out8(0x64, 0xad);
    tap_text(ask(0xe0), "00", "i8042: a disabled interface holds it low");
    out8(0x64, 0xd1);
    out8(0x60, 0x0f);
    tap_text(ask(0xd0), "0f", "i8042: the output port reads back");
    out8(0x64, 0xd2);
    out8(0x60, 0x11);
    out8(0x64, 0xd0);
    tap_text(drain(), "11 1f", "i8042: with the keyboard's request");
    out8(0x64, 0xd3);
    out8(0x60, 0x22);
    tap_is(in8(0x64) & 0x21, 0x21, "i8042: a byte of the auxiliary port");
    out8(0x64, 0xd0);
    tap_text(drain(), "22 2f", "i8042: and its request");
    machine_off();
}

static void test_i8042_aux_irq(void)
{
    pic_start();
    out8(0x64, 0xd3);
    out8(0x60, 0x22);
    tap_is(take(), -1, "i8042: the auxiliary port does not interrupt unless allowed");
    out8(0x64, 0x60);
    out8(0x60, 0x47);
    tap_is(take(), BASE2 + 4, "i8042: then on line 12");
    out8(0xa0, EOI), out8(0x20, EOI);
    tap_text(drain(), "22", "i8042: for its byte");
    type("1e");
    tap_is(take(), BASE1 + 1, "i8042: and the keyboard on line 1");
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
    type("1e 9e");
    tap_text(drain(), "", "keyboard: nothing is sent");
    tap_text(tell(0xf4), "fa 1e 9e", "keyboard: scanning on: the key was kept");
    tap_text(tell(0xfe), "9e", "keyboard: resend repeats a key");
    tap_text(tell(0xf2), "fa ab 41", "keyboard: identity");
    tap_text(tell(0xfe), "41", "keyboard: what is sent again passes the translation again");
    tap_text(tell(0x00), "fe", "keyboard: no command");
    tap_text(tell(0xfe), "41", "keyboard: a resend request is not what is sent again");
    tap_text(tell(0xf8), "fa", "keyboard: types of keys are for set 3");
    tap_text(tell(0xfc), "fa", "keyboard: those of single keys");
    tap_text(tell(0x1c), "fa", "keyboard: one");
    tap_text(tell(0x1d), "fa", "keyboard: and more");
    tap_text(tell(0xf4), "fa", "keyboard: until a command");
    out8(0x64, 0xad);
    type("30 b0");
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
    machine_on();
    out8(0x64, 0x60);
    out8(0x60, 0x25); /* no translation */
    type("1d e0 4d 41 c1 e0 cd 9d");
    tap_text(drain(), "14 e0 74 83 f0 83 e0 f0 74 f0 14", "i8042: untranslated keys are set 2");
    tap_text(tell(0xf0), "fa", "keyboard: scancode set");
    tap_text(tell(0x00), "fa 02", "keyboard: untranslated, 2 reads as 2");
    tap_text(tell(0xf2), "fa ab 83", "keyboard: identity, untranslated");
    out8(0x60, 0xf0);
    out8(0x60, 0x01);
    drain();
    type("1d e0 4d e0 cd 9d");
    tap_text(drain(), "1d e0 4d e0 cd 9d", "keyboard: set 1 on demand");
    out8(0x64, 0x60);
    out8(0x60, 0x65);
    type("1e");
    tap_text(drain(), "03", "keyboard: the translation takes set 1 for set 2");
    machine_off();
    machine_on();
    out8(0x64, 0x60);
    out8(0x60, 0x25);
    type("e1 1d 45 e1 9d c5 e0 2a e0 37 e0 b7 e0 aa");
    tap_text(drain(), "e1 14 77 e1 f0 14 f0 77 e0 12 e0 7c e0 f0 7c e0 f0 12",
             "keyboard: pause and print in set 2");
    type("54 d4 41 c1");
    tap_text(drain(), "84 f0 84 83 f0 83", "keyboard: SysRq and F7, the codes above 0x7f");
    type("9e");
    in8(0x60);
    tap_text(tell(0xfe), "1c 1c", "keyboard: the second byte of a key, and again");
    machine_off();
}

static void test_i8042_overflow(void)
{
    static uint8_t codes[MK_I8042_KEYS];
    static const uint8_t cycle[] = { 0x2a, 0x2d, 0xad, 0xaa };
    uint8_t leds;
    for (unsigned i = 0; i < sizeof(codes); i++)
        codes[i] = cycle[i % 4];
    machine_on();
    tap_ok(mk_i8042_key(&kbd, codes, sizeof(codes)), "keys: as many as there is room for");
    tap_is((long long)mk_i8042_queued(&kbd, &leds), MK_I8042_KEYS - 1,
           "keys: all but the byte on offer wait");
    tap_ok(!mk_i8042_key(&kbd, codes, 2), "keys: what does not fit is refused");
    tap_is((long long)mk_i8042_queued(&kbd, &leds), MK_I8042_KEYS - 1, "keys: all of it");
    unsigned wrong = 0, n = 0;
    for (; in8(0x64) & 1; n++)
        wrong += in8(0x60) != cycle[n % 4];
    tap_ok(n == MK_I8042_KEYS && wrong == 0, "keys: arrive in order");
    machine_off();
}

static void test_i8042_irq(void)
{
    pic_start();
    type("1e 9e 30 b0");
    unsigned n = 0, codes[8] = { 0 };
    while (n < 8 && take() == BASE1 + 1) {
        codes[n++] = in8(0x60);
        out8(0x20, EOI);
    }
    tap_is(n, 4, "i8042: an interrupt for each byte");
    tap_ok(codes[0] == 0x1e && codes[1] == 0x9e && codes[2] == 0x30 && codes[3] == 0xb0,
           "i8042: in order");
    type("1e 9e");
    tap_is(take(), BASE1 + 1, "i8042: a key");
    out8(0x20, EOI);
    tap_is(take(), -1, "i8042: no second interrupt until it is read");
    drain();
    tap_is(take(), -1, "i8042: polling takes the request along");
    out8(0x64, 0x60);
    out8(0x60, 0x64);
    type("1e 9e");
    tap_is(take(), -1, "i8042: none with the interrupt disabled");
    out8(0x64, 0x60);
    out8(0x60, 0x65);
    tap_is(take(), BASE1 + 1, "i8042: enabling it delivers");
    machine_off();

    machine_on();
    type("1e 9e");
    pic_program(0x11, 0x01);
    tap_is(take(), BASE1 + 1, "i8042: a key typed before the PIC was initialised is not lost");
    machine_off();
}

static void test_i8042_state(void)
{
    pic_start();
    struct mk_err err = { 0 };
    type("1e 9e 30 b0");
    struct mk_bytes state = save();
    mk_i8042_dev.reset(&kbd);
    tap_is(take(), -1, "i8042: a reset takes its request back");
    tap_text(drain(), "", "i8042: and empties the queue");
    tap_is(load(&state, &err), 0, "i8042: a saved state loads");
    mk_bytes_free(&state);
    tap_is(take(), BASE1 + 1, "i8042: and interrupts");
    tap_text(drain(), "1e 9e 30 b0", "i8042: with all its keys");
    struct mk_i8042 bad = kbd;
    bad.state.head = MK_I8042_KEYS;
    tap_ok(load_damaged(&kbd, &bad, &err) == -1 && err.code == EBADMSG,
           "i8042: a queue outside itself is refused");
    memset(&bad.state, 0xff, sizeof(bad.state));
    bad.state.head = MK_I8042_KEYS - 1;
    bad.state.count = MK_I8042_KEYS;
    bad.state.reply_head = bad.state.reply_count = 5;
    bad.state.set = 2;
    tap_is(load_damaged(&kbd, &bad, &err), 0, "i8042: ones within range are survived");
    for (unsigned i = 0; i < 3 * MK_I8042_KEYS; i++)
        in8(0x60);
    machine_off();
}

int main(void)
{
    test_i8042_controller();
    test_i8042_tests();
    test_i8042_aux_irq();
    test_i8042_reset();
    test_i8042_keyboard();
    test_i8042_sets();
    test_i8042_overflow();
    test_i8042_irq();
    test_i8042_state();
    return tap_done();
}
