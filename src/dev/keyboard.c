/* keyboard.c - the keyboard at an 8042: its scancodes and commands. See keyboard.h. IBM PS/2
 * Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)"; what differs from it is
 * said in i8042.c. The caller holds the controller's lock. */
#include "dev/keyboard.h"

#include "base/util.h"

/* Keyboard commands and answers */
#define KBD_LEDS 0xed
#define KBD_ECHO 0xee
#define KBD_SET 0xf0
#define KBD_ID 0xf2
#define KBD_TYPEMATIC 0xf3
#define KBD_ENABLE 0xf4
#define KBD_DISABLE 0xf5
#define KBD_DEFAULTS 0xf6
#define KBD_ALL_KEYS 0xf7 /* to 0xfa: the types of keys, which set 3 alone has */
#define KBD_KEYS 0xfb     /* to 0xfd: the same of keys that are listed */
#define KBD_RESET 0xff
#define KBD_ACK 0xfa

#define TYPEMATIC_DEFAULT 0x2b /* 10.9 a second after 0.5 s */

#define EXTENDED 0xe0 /* and 0xe1: prefixes in both sets */
#define PAUSE 0xe1
#define BREAK_SET2 0xf0

/* --- scancodes --- */

/* The controller's translation of what the keyboard sends, below 0x80. */
static const uint8_t set1_of[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

uint8_t mk_keyboard_to_set1(uint8_t byte)
{
    if (byte < MK_COUNT(set1_of))
        return set1_of[byte];
    return byte == 0x83 ? 0x41 : byte == 0x84 ? 0x54 : byte;
}

/* The set 2 code of a set 1 make code. From the top: F7 and SysRq have a second, unused one. */
static uint8_t to_set2(uint8_t code)
{
    uint8_t byte = 0x84;
    while (byte && mk_keyboard_to_set1(byte) != code)
        byte--;
    return byte;
}

/* --- what it sends --- */

void mk_keyboard_reply(struct mk_i8042_state *s, uint16_t item)
{
    if (s->reply_count == MK_I8042_REPLIES)
        return;
    s->replies[(s->reply_head + s->reply_count++) % MK_I8042_REPLIES] = item;
}

/* An answer of the keyboard. */
static void answer(struct mk_i8042_state *s, uint8_t byte)
{
    if (byte != MK_KBD_RESEND)
        s->last = byte | MK_FROM_KEYBOARD;
    mk_keyboard_reply(s, byte | MK_FROM_KEYBOARD);
}

uint16_t mk_keyboard_pop_reply(struct mk_i8042_state *s)
{
    uint16_t item = s->replies[s->reply_head];
    s->reply_head = (s->reply_head + 1) % MK_I8042_REPLIES;
    s->reply_count--;
    return item;
}

/* The next byte that the keyboard sends, in its set. */
static uint8_t pop_key(struct mk_i8042_state *s)
{
    uint8_t byte = s->carry;
    s->carry = 0;
    if (byte)
        return byte;
    byte = s->keys[s->head];
    s->head = (s->head + 1) % MK_I8042_KEYS;
    s->count--;
    if (s->set == 1 || byte == EXTENDED || byte == PAUSE)
        return byte;
    uint8_t code = to_set2(byte & (uint8_t)~MK_KBD_BREAK);
    if (!(byte & MK_KBD_BREAK))
        return code;
    s->carry = code;
    return BREAK_SET2;
}

/* The next byte of a key as it gets to the controller. */
uint16_t mk_keyboard_next_key(struct mk_i8042_state *s)
{
    s->last = pop_key(s) | MK_FROM_KEYBOARD;
    if (s->carry && s->ram[0] & MK_I8042_TRANSLATE)
        s->last = pop_key(s) | MK_FROM_KEYBOARD | MK_LET_GO;
    return s->last;
}

bool mk_keyboard_sends(const struct mk_i8042_state *s)
{
    return s->scanning && !(s->ram[0] & MK_I8042_NO_KEYBOARD) && !s->keyboard_parameter_of &&
           (s->count || s->carry);
}

/* --- what it is sent --- */

void mk_keyboard_defaults(struct mk_i8042_state *s)
{
    s->set = 2;
    s->leds = 0;
    s->typematic = TYPEMATIC_DEFAULT;
    s->scanning = true;
    s->keyboard_parameter_of = 0;
}

static void keyboard_id(struct mk_i8042_state *s)
{
    answer(s, KBD_ACK);
    answer(s, 0xab);
    answer(s, 0x83);
}

static void keyboard_command(struct mk_i8042_state *s, uint8_t command)
{
    switch (command) {
    case KBD_LEDS:
    case KBD_SET:
    case KBD_KEYS ... KBD_KEYS + 2:
    case KBD_TYPEMATIC: s->keyboard_parameter_of = command; break;
    case KBD_ECHO: answer(s, KBD_ECHO); return;
    case KBD_ID: keyboard_id(s); return;
    case KBD_ENABLE: s->scanning = true; break;
    case KBD_DISABLE:
        mk_keyboard_defaults(s);
        s->scanning = false;
        break;
    case KBD_DEFAULTS: mk_keyboard_defaults(s); break;
    case KBD_ALL_KEYS ... KBD_ALL_KEYS + 3: break;
    case MK_KBD_RESEND: mk_keyboard_reply(s, s->last); return;
    case KBD_RESET:
        mk_keyboard_defaults(s);
        answer(s, KBD_ACK);
        answer(s, MK_KBD_PASSED);
        return;
    default: answer(s, MK_KBD_RESEND); return;
    }
    answer(s, KBD_ACK);
}

static void scancode_set(struct mk_i8042_state *s, uint8_t set)
{
    if (set > 2) {
        answer(s, MK_KBD_RESEND);
        return;
    }
    answer(s, KBD_ACK);
    if (set)
        s->set = set;
    else
        answer(s, s->set);
}

/* A list of keys goes on until the next command. */
static void keyboard_parameter(struct mk_i8042_state *s, uint8_t command, uint8_t value)
{
    if (command < KBD_KEYS)
        s->keyboard_parameter_of = 0;
    if (command == KBD_SET) {
        scancode_set(s, value);
        return;
    }
    if (command == KBD_LEDS)
        s->leds = value & 7;
    else if (command == KBD_TYPEMATIC)
        s->typematic = value;
    answer(s, KBD_ACK);
}

/* A byte to the keyboard; sending one enables its interface. A command may come in place of a
 * parameter, and then the command it belonged to is void. */
void mk_keyboard_write(struct mk_i8042_state *s, uint8_t value)
{
    uint8_t command = s->keyboard_parameter_of;
    s->ram[0] &= (uint8_t)~MK_I8042_NO_KEYBOARD;
    if (command && value < 0x80) {
        keyboard_parameter(s, command, value);
        return;
    }
    s->keyboard_parameter_of = 0;
    keyboard_command(s, value);
}
