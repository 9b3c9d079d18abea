/* i8042.c - see i8042.h. Follows the IBM PS/2 Hardware Interface Technical Reference,
 * "Keyboard and Auxiliary Device Controller" and "Keyboards (101- and 102-Key)".
 *
 * Thread: any; every entry takes the lock. The line is moved by settle(), without it.
 *
 * Limits and deliberate differences:
 * - No mouse: its interface reads as disabled for ever, bytes for it are swallowed.
 * - A20 is a bit that reads back; addresses never wrap here.
 * - Scancode sets 1 and 2; set 3 and its commands are answered with "resend".
 * - What the host typed is not lost when the guest disables or resets the keyboard: it waits, as a
 *   typist would who sees that nobody looks yet. No key repeats by itself.
 * - A guest that sends commands and never reads keeps the first MK_I8042_REPLIES answers. */
#include "dev/i8042.h"

#include "base/abi.h"
#include "dev/bus.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* Status, port 0x64 */
#define STATUS_OUTPUT 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10

/* Command byte */
#define CONFIG_IRQ 0x01
#define CONFIG_SYSTEM 0x04
#define CONFIG_NO_KEYBOARD 0x10
#define CONFIG_NO_MOUSE 0x20
#define CONFIG_TRANSLATE 0x40

/* Output port */
#define OUTPUT_RUN 0x01 /* 0: the CPU's reset line */
#define OUTPUT_A20 0x02
#define OUTPUT_FULL 0x10

/* Controller commands */
#define CMD_READ_CONFIG 0x20
#define CMD_WRITE_CONFIG 0x60
#define CMD_SELF_TEST 0xaa
#define CMD_TEST_KEYBOARD 0xab
#define CMD_DISABLE 0xad
#define CMD_ENABLE 0xae
#define CMD_READ_OUTPUT 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_WRITE_KEYBOARD_BUFFER 0xd2
#define CMD_WRITE_MOUSE_BUFFER 0xd3
#define CMD_WRITE_MOUSE 0xd4
#define CMD_A20_OFF 0xdd
#define CMD_A20_ON 0xdf
#define CMD_PULSE 0xf0 /* 0xf0..0xff: pulses the output port lines whose bit is 0 */

/* Keyboard commands and answers */
#define KBD_LEDS 0xed
#define KBD_ECHO 0xee
#define KBD_SET 0xf0
#define KBD_ID 0xf2
#define KBD_TYPEMATIC 0xf3
#define KBD_ENABLE 0xf4
#define KBD_DISABLE 0xf5
#define KBD_DEFAULTS 0xf6
#define KBD_RESEND 0xfe
#define KBD_RESET 0xff
#define KBD_ACK 0xfa
#define KBD_PASSED 0xaa

#define TYPEMATIC_DEFAULT 0x2b /* 10.9 a second after 0.5 s */

#define EXTENDED 0xe0
#define BREAK 0x80
#define ROOM (MK_I8042_KEYS / 4)

/* --- scancodes --- */

/* Set 1 make codes to set 2. */
static const uint8_t set2_of[128] = {
    /* 00 */ 0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45,
    /* 0c */ 0x4e, 0x55, 0x66, 0x0d, 0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43,
    /* 18 */ 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b, 0x23, 0x2b, 0x34, 0x33,
    /* 24 */ 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a,
    /* 30 */ 0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05,
    /* 3c */ 0x06, 0x04, 0x0c, 0x03, 0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c,
    /* 48 */ 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69, 0x72, 0x7a, 0x70, 0x71,
    /* 54 */ 0x84, 0x60, 0x61, 0x78, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f,
};

struct key {
    const char *name;
    uint8_t code; /* set 1 */
    bool extended;
};

/* Where two names share a key the first is the usual one. */
static const struct key keys[] = {
    { "esc", 0x01, false },      { "escape", 0x01, false },   { "backspace", 0x0e, false },
    { "tab", 0x0f, false },      { "enter", 0x1c, false },    { "return", 0x1c, false },
    { "space", 0x39, false },    { "ctrl", 0x1d, false },     { "lctrl", 0x1d, false },
    { "rctrl", 0x1d, true },     { "shift", 0x2a, false },    { "lshift", 0x2a, false },
    { "rshift", 0x36, false },   { "alt", 0x38, false },      { "lalt", 0x38, false },
    { "ralt", 0x38, true },      { "altgr", 0x38, true },     { "super", 0x5b, true },
    { "rsuper", 0x5c, true },    { "menu", 0x5d, true },      { "capslock", 0x3a, false },
    { "numlock", 0x45, false },  { "scrolllock", 0x46, false }, { "print", 0x37, true },
    { "f1", 0x3b, false },       { "f2", 0x3c, false },       { "f3", 0x3d, false },
    { "f4", 0x3e, false },       { "f5", 0x3f, false },       { "f6", 0x40, false },
    { "f7", 0x41, false },       { "f8", 0x42, false },       { "f9", 0x43, false },
    { "f10", 0x44, false },      { "f11", 0x57, false },      { "f12", 0x58, false },
    { "up", 0x48, true },        { "down", 0x50, true },      { "left", 0x4b, true },
    { "right", 0x4d, true },     { "home", 0x47, true },      { "end", 0x4f, true },
    { "pageup", 0x49, true },    { "pagedown", 0x51, true },  { "insert", 0x52, true },
    { "delete", 0x53, true },    { "kp0", 0x52, false },      { "kp1", 0x4f, false },
    { "kp2", 0x50, false },      { "kp3", 0x51, false },      { "kp4", 0x4b, false },
    { "kp5", 0x4c, false },      { "kp6", 0x4d, false },      { "kp7", 0x47, false },
    { "kp8", 0x48, false },      { "kp9", 0x49, false },      { "kpenter", 0x1c, true },
    { "kpplus", 0x4e, false },   { "kpminus", 0x4a, false },  { "kpstar", 0x37, false },
    { "kpslash", 0x35, true },   { "kpdot", 0x53, false },
};

#define CODE_SHIFT 0x2a
#define CODE_CTRL 0x1d

/* The keys of a US keyboard by what they type; the index is the set 1 code. */
static const char plain[] = "\0\033" "1234567890-=\b" "\tqwertyuiop[]\n" "\0asdfghjkl;'`"
                            "\0\\zxcvbnm,./" "\0\0\0 ";
static const char shifted[] = "\0\0" "!@#$%^&*()_+\0" "\0QWERTYUIOP{}\0" "\0ASDFGHJKL:\"~"
                              "\0|ZXCVBNM<>?" "\0\0\0\0";

/* A key with the modifier it needs (0: none). */
struct stroke {
    uint8_t modifier, code;
    bool extended;
};

static uint8_t code_in(const char *layout, size_t size, char c)
{
    const char *at = c ? memchr(layout, c, size) : NULL;
    return at ? (uint8_t)(at - layout) : 0;
}

/* False when no key of a US keyboard types `c`. */
static bool stroke_of(char c, struct stroke *stroke)
{
    if (c == '\r')
        c = '\n';
    if (c == 0x7f)
        c = '\b';
    *stroke = (struct stroke){ .code = code_in(plain, sizeof(plain), c) };
    if (stroke->code)
        return true;
    *stroke = (struct stroke){ CODE_SHIFT, code_in(shifted, sizeof(shifted), c), false };
    if (!stroke->code && c > 0 && c <= 26)
        *stroke = (struct stroke){ CODE_CTRL, code_in(plain, sizeof(plain), (char)(c + 'a' - 1)),
                                   false };
    return stroke->code != 0;
}

static bool stroke_named(const char *name, struct stroke *stroke)
{
    if (name[0] && !name[1])
        return stroke_of(name[0], stroke);
    for (size_t i = 0; i < MK_COUNT(keys); i++)
        if (!strcasecmp(keys[i].name, name)) {
            *stroke = (struct stroke){ 0, keys[i].code, keys[i].extended };
            return true;
        }
    return false;
}

/* Both append to `out` and return how many bytes that were, three at the most. */
static size_t put_make(uint8_t *out, const struct stroke *stroke)
{
    size_t n = 0;
    if (stroke->modifier)
        out[n++] = stroke->modifier;
    if (stroke->extended)
        out[n++] = EXTENDED;
    out[n++] = stroke->code;
    return n;
}

static size_t put_break(uint8_t *out, const struct stroke *stroke)
{
    size_t n = 0;
    if (stroke->extended)
        out[n++] = EXTENDED;
    out[n++] = stroke->code | BREAK;
    if (stroke->modifier)
        out[n++] = stroke->modifier | BREAK;
    return n;
}

/* --- what goes to the guest; the caller of these holds the lock --- */

static void reply(struct mk_i8042_state *s, uint8_t byte)
{
    if (s->reply_count == MK_I8042_REPLIES)
        return;
    s->replies[(s->reply_head + s->reply_count++) % MK_I8042_REPLIES] = byte;
}

/* An answer of the keyboard; it passes the translation that scancodes pass. */
static void answer(struct mk_i8042_state *s, uint8_t byte)
{
    s->last = byte;
    if (s->config & CONFIG_TRANSLATE) {
        static const uint8_t pairs[][2] = {
            { 0x01, 0x43 }, { 0x02, 0x41 }, { 0x83, 0x41 },
        };
        for (size_t i = 0; i < MK_COUNT(pairs); i++)
            if (pairs[i][0] == byte) {
                byte = pairs[i][1];
                break;
            }
    }
    reply(s, byte);
}

static uint8_t take_reply(struct mk_i8042_state *s)
{
    uint8_t byte = s->replies[s->reply_head];
    s->reply_head = (s->reply_head + 1) % MK_I8042_REPLIES;
    s->reply_count--;
    return byte;
}

/* The next byte of a key, in the set the guest gets. */
static uint8_t take_key(struct mk_i8042_state *s)
{
    uint8_t byte = s->carry;
    s->carry = 0;
    if (byte)
        return byte;
    byte = s->keys[s->head];
    s->head = (s->head + 1) % MK_I8042_KEYS;
    s->count--;
    uint8_t code = set2_of[byte & 0x7f]; /* none for a prefix, which is the same in both sets */
    if (s->set == 1 || (s->config & CONFIG_TRANSLATE) || !code)
        return byte;
    if (!(byte & BREAK))
        return code;
    s->carry = code;
    return 0xf0;
}

static bool keyboard_sends(const struct mk_i8042_state *s)
{
    return s->scanning && !(s->config & CONFIG_NO_KEYBOARD) && !s->keyboard_parameter_of &&
           (s->count || s->carry);
}

/* Fills port 0x60 when it is empty and something waits. */
static void refill(struct mk_i8042_state *s)
{
    if (s->full)
        return;
    if (s->reply_count)
        s->output = take_reply(s);
    else if (keyboard_sends(s))
        s->output = s->last = take_key(s);
    else
        return;
    s->full = true;
}

/* What the line should do next; false: nothing. */
static bool line_step(struct mk_i8042 *kbd)
{
    struct mk_i8042_state *s = &kbd->state;
    bool want = s->full && (s->config & CONFIG_IRQ), drop = kbd->drop;
    kbd->drop = false;
    if (s->line ? want && !drop : !want)
        return false;
    s->line = !s->line;
    bool level = s->line;
    pthread_mutex_unlock(&kbd->lock);
    mk_irq_set(&kbd->irq, level);
    pthread_mutex_lock(&kbd->lock);
    return true;
}

/* Ends a locked section: offers the next byte and moves the line. That calls out, so it is done
 * unlocked, and by one thread at a time, or a stale level could arrive last: who comes second
 * leaves the work to the first. */
static void settle(struct mk_i8042 *kbd)
{
    bool plenty = kbd->state.count > ROOM;
    refill(&kbd->state);
    bool room = plenty && kbd->state.count <= ROOM;
    if (!kbd->settling) {
        kbd->settling = true;
        while (line_step(kbd))
            ;
        kbd->settling = false;
    }
    pthread_mutex_unlock(&kbd->lock);
    if (room && kbd->on_room)
        kbd->on_room(kbd->room_ctx);
}

/* --- the keyboard --- */

static void keyboard_defaults(struct mk_i8042_state *s)
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
    case KBD_TYPEMATIC: s->keyboard_parameter_of = command; break;
    case KBD_ECHO: answer(s, KBD_ECHO); return;
    case KBD_ID: keyboard_id(s); return;
    case KBD_ENABLE: s->scanning = true; break;
    case KBD_DISABLE: keyboard_defaults(s); s->scanning = false; break;
    case KBD_DEFAULTS: keyboard_defaults(s); break;
    case KBD_RESEND: reply(s, s->last); return;
    case KBD_RESET: keyboard_defaults(s); answer(s, KBD_ACK); answer(s, KBD_PASSED); return;
    default: answer(s, KBD_RESEND); return;
    }
    answer(s, KBD_ACK);
}

static void scancode_set(struct mk_i8042_state *s, uint8_t set)
{
    if (set > 2) {
        answer(s, KBD_RESEND);
        return;
    }
    answer(s, KBD_ACK);
    if (set)
        s->set = set;
    else
        answer(s, s->set);
}

static void keyboard_parameter(struct mk_i8042_state *s, uint8_t command, uint8_t value)
{
    s->keyboard_parameter_of = 0;
    if (command == KBD_SET) {
        scancode_set(s, value);
        return;
    }
    if (command == KBD_LEDS)
        s->leds = value & 7;
    else
        s->typematic = value;
    answer(s, KBD_ACK);
}

/* A byte to the keyboard; sending one enables its interface. A command may come in place of a
 * parameter, and then the command it belonged to is void. */
static void to_keyboard(struct mk_i8042_state *s, uint8_t value)
{
    uint8_t command = s->keyboard_parameter_of;
    s->config &= (uint8_t)~CONFIG_NO_KEYBOARD;
    if (command && value < 0x80) {
        keyboard_parameter(s, command, value);
        return;
    }
    s->keyboard_parameter_of = 0;
    keyboard_command(s, value);
}

/* --- the controller --- */

static void set_a20(struct mk_i8042_state *s, bool on)
{
    s->output_port = on ? s->output_port | OUTPUT_A20 : s->output_port & (uint8_t)~OUTPUT_A20;
}

/* These two return true when the CPU's reset line was pulled. */
static bool controller_parameter(struct mk_i8042_state *s, uint8_t command, uint8_t value)
{
    s->parameter_of = 0;
    if (command == CMD_WRITE_CONFIG)
        s->config = value | CONFIG_NO_MOUSE;
    else if (command == CMD_WRITE_OUTPUT)
        set_a20(s, value & OUTPUT_A20);
    else if (command == CMD_WRITE_KEYBOARD_BUFFER)
        reply(s, value);
    return command == CMD_WRITE_OUTPUT && !(value & OUTPUT_RUN);
}

static bool controller_command(struct mk_i8042_state *s, uint8_t command)
{
    s->parameter_of = 0;
    switch (command) {
    case CMD_READ_CONFIG: reply(s, s->config); break;
    case CMD_SELF_TEST: s->config |= CONFIG_SYSTEM; reply(s, 0x55); break;
    case CMD_TEST_KEYBOARD: reply(s, 0x00); break;
    case CMD_DISABLE: s->config |= CONFIG_NO_KEYBOARD; break;
    case CMD_ENABLE: s->config &= (uint8_t)~CONFIG_NO_KEYBOARD; break;
    case CMD_READ_OUTPUT: reply(s, s->output_port | (s->full ? OUTPUT_FULL : 0)); break;
    case CMD_WRITE_CONFIG:
    case CMD_WRITE_OUTPUT:
    case CMD_WRITE_KEYBOARD_BUFFER:
    case CMD_WRITE_MOUSE_BUFFER:
    case CMD_WRITE_MOUSE: s->parameter_of = command; break;
    case CMD_A20_OFF: set_a20(s, false); break;
    case CMD_A20_ON: set_a20(s, true); break;
    }
    return command >= CMD_PULSE && !(command & OUTPUT_RUN);
}

static bool to_data(struct mk_i8042_state *s, uint8_t value)
{
    if (s->parameter_of)
        return controller_parameter(s, s->parameter_of, value);
    to_keyboard(s, value);
    return false;
}

static void i8042_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_i8042 *kbd = self;
    bool reset;
    pthread_mutex_lock(&kbd->lock);
    kbd->state.to_command = io->address == MK_PORT_KBD_STATUS;
    if (kbd->state.to_command)
        reset = controller_command(&kbd->state, (uint8_t)value);
    else
        reset = to_data(&kbd->state, (uint8_t)value);
    settle(kbd);
    if (reset)
        io->cpu->ops->end(io->cpu, MK_SHUTDOWN, 0, true, "reset by the keyboard controller");
}

static uint8_t status(const struct mk_i8042_state *s)
{
    return (uint8_t)((s->full ? STATUS_OUTPUT : 0) | (s->config & STATUS_SYSTEM) |
                     (s->to_command ? STATUS_COMMAND : 0) | STATUS_UNLOCKED);
}

static uint64_t i8042_in(void *self, struct mk_io *io)
{
    struct mk_i8042 *kbd = self;
    uint8_t value;
    pthread_mutex_lock(&kbd->lock);
    if (io->address == MK_PORT_KBD_STATUS) {
        value = status(&kbd->state);
    } else {
        value = kbd->state.output; /* the old byte again when there is no new one */
        if (kbd->state.full)
            kbd->drop = true;
        kbd->state.full = false;
    }
    settle(kbd);
    return value;
}

const struct mk_io_ops mk_i8042_ops = {
    .name = "i8042", .in = i8042_in, .out = i8042_out, .width = 1,
};

/* --- life --- */

static void power_up(struct mk_i8042_state *s)
{
    uint8_t line = s->line; /* settle() lowers it */
    *s = (struct mk_i8042_state){
        .line = line,
        .config = CONFIG_IRQ | CONFIG_SYSTEM | CONFIG_NO_MOUSE | CONFIG_TRANSLATE,
        .output_port = 0xc0 | OUTPUT_RUN | OUTPUT_A20,
    };
    keyboard_defaults(s);
}

void mk_i8042_init(struct mk_i8042 *kbd, struct mk_irq irq)
{
    *kbd = (struct mk_i8042){ .irq = irq };
    pthread_mutex_init(&kbd->lock, NULL);
    power_up(&kbd->state);
}

void mk_i8042_free(struct mk_i8042 *kbd)
{
    pthread_mutex_destroy(&kbd->lock);
}

void mk_i8042_reset(struct mk_i8042 *kbd)
{
    pthread_mutex_lock(&kbd->lock);
    power_up(&kbd->state);
    settle(kbd);
}

int mk_i8042_attach(struct mk_i8042 *kbd, struct mk_bus *bus, struct mk_err *err)
{
    if (mk_bus_hook(bus, MK_PORT_KBD_DATA, MK_PORT_KBD_DATA, &mk_i8042_ops, kbd, NULL) &&
        mk_bus_hook(bus, MK_PORT_KBD_STATUS, MK_PORT_KBD_STATUS, &mk_i8042_ops, kbd, NULL))
        return 0;
    return mk_fail_errno(err, ENOMEM, "i8042");
}

/* --- the host's side --- */

static bool enqueue(struct mk_i8042 *kbd, const uint8_t *scancodes, size_t n)
{
    struct mk_i8042_state *s = &kbd->state;
    pthread_mutex_lock(&kbd->lock);
    bool fits = n <= (size_t)(MK_I8042_KEYS - s->count);
    for (size_t i = 0; fits && i < n; i++)
        s->keys[(s->head + s->count++) % MK_I8042_KEYS] = scancodes[i];
    settle(kbd);
    return fits;
}

static int no_room(struct mk_err *err)
{
    return mk_fail(err, ENOBUFS, "keyboard: %d scancodes wait already: the guest does not read "
                   "them from port 0x60 as fast as they are typed", MK_I8042_KEYS);
}

int mk_i8042_key(struct mk_i8042 *kbd, const uint8_t *scancodes, size_t n, struct mk_err *err)
{
    return enqueue(kbd, scancodes, n) ? 0 : no_room(err);
}

size_t mk_i8042_queued(struct mk_i8042 *kbd)
{
    pthread_mutex_lock(&kbd->lock);
    size_t n = kbd->state.count;
    pthread_mutex_unlock(&kbd->lock);
    return n;
}

static int check_text(const char *text, size_t length, struct mk_err *err)
{
    struct stroke stroke;
    for (size_t i = 0; i < length; i++)
        if (!stroke_of(text[i], &stroke))
            return mk_fail(err, EINVAL, "keyboard: no key of a US keyboard types byte 0x%02x "
                           "(at %zu)", (unsigned char)text[i], i);
    return 0;
}

int mk_keyboard_type(struct mk_i8042 *kbd, const char *text, size_t length, size_t *typed,
                     struct mk_err *err)
{
    size_t done = 0, ignored;
    typed = typed ? typed : &ignored;
    *typed = 0;
    if (check_text(text, length, err))
        return -1;
    for (; done < length; done++) {
        struct stroke stroke;
        uint8_t codes[6];
        stroke_of(text[done], &stroke);
        size_t n = put_make(codes, &stroke);
        n += put_break(codes + n, &stroke);
        if (!enqueue(kbd, codes, n))
            break;
    }
    *typed = done;
    return done == length ? 0 : no_room(err);
}

int mk_keyboard_press(struct mk_i8042 *kbd, const char *const *names, size_t n,
                      struct mk_err *err)
{
    struct stroke strokes[MK_KEYBOARD_CHORD];
    uint8_t codes[MK_KEYBOARD_CHORD * 6];
    size_t length = 0;
    if (n > MK_KEYBOARD_CHORD)
        return mk_fail(err, EINVAL, "keyboard: %zu keys at once, %d is the most", n,
                       MK_KEYBOARD_CHORD);
    for (size_t i = 0; i < n; i++)
        if (!stroke_named(names[i], &strokes[i]))
            return mk_fail(err, EINVAL, "keyboard: no key is named \"%.40s\"", names[i]);
    for (size_t i = 0; i < n; i++)
        length += put_make(codes + length, &strokes[i]);
    for (size_t i = n; i-- > 0;)
        length += put_break(codes + length, &strokes[i]);
    return mk_i8042_key(kbd, codes, length, err);
}

void mk_i8042_save(struct mk_i8042 *kbd, struct mk_i8042_state *state)
{
    pthread_mutex_lock(&kbd->lock);
    *state = kbd->state;
    pthread_mutex_unlock(&kbd->lock);
}

int mk_i8042_load(struct mk_i8042 *kbd, const struct mk_i8042_state *state, struct mk_err *err)
{
    if (state->head >= MK_I8042_KEYS || state->count > MK_I8042_KEYS ||
        state->reply_head >= MK_I8042_REPLIES || state->reply_count > MK_I8042_REPLIES)
        return mk_fail(err, EINVAL, "i8042: saved state is damaged: its queues are out of range");
    pthread_mutex_lock(&kbd->lock);
    uint8_t line = kbd->state.line;
    kbd->state = *state;
    kbd->state.line = line; /* as it is; settle() moves it where the state wants it */
    settle(kbd);
    return 0;
}
