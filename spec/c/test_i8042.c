/* test_i8042.c - the keyboard controller and its keyboard (IBM PS/2 Hardware Interface Technical Reference). Prints TAP. */
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

int main(void)
{
    test_i8042_controller();
    test_i8042_reset();
    test_i8042_keyboard();
    test_i8042_sets();
    test_i8042_typing();
    test_i8042_names();
    test_i8042_overflow();
    test_i8042_irq();
    test_i8042_state();
    return tap_done();
}
