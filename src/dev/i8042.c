/* i8042.c - see i8042.h. Follows the IBM PS/2 Hardware Interface Technical Reference,
 * "Keyboard and Auxiliary Device Controller" and "Keyboards (101- and 102-Key)"; commands that are
 * the AT's alone, from the IBM PC/AT Technical Reference.
 *
 * Thread: any; every entry takes the lock. The lines are moved by update_irq(), without it.
 *
 * Limits and deliberate differences:
 * - Nothing is plugged into the auxiliary port: what is sent there times out, at once.
 * - A20 is a bit that reads back; addresses never wrap here. There is no password.
 * - Scancode sets 1 and 2; set 3 is answered with "resend".
 * - What the host typed is not lost when the guest disables or resets the keyboard: it waits, as a
 *   typist would who sees that nobody looks yet. No key repeats by itself.
 * - A guest that sends commands and never reads keeps the first MK_I8042_REPLIES answers. */
#include "dev/i8042.h"

#include "base/abi.h"

/* Status, port 0x64 */
#define STATUS_OUTPUT 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX 0x20
#define STATUS_TIMEOUT 0x40

/* Command byte: byte 0 of the controller's memory */
#define CONFIG_IRQ 0x01
#define CONFIG_AUX_IRQ 0x02
#define CONFIG_SYSTEM 0x04
#define CONFIG_NO_KEYBOARD 0x10
#define CONFIG_NO_AUX 0x20
#define CONFIG_TRANSLATE 0x40

/* Output port */
#define OUTPUT_RUN 0x01 /* 0: the CPU's reset line */
#define OUTPUT_A20 0x02
#define OUTPUT_FULL 0x10
#define OUTPUT_AUX_FULL 0x20
#define OUTPUT_CLOCKS 0xc0

#define INPUT_PORT 0xa0 /* not locked, colour display, no manufacturing jumper */

/* Controller commands */
#define CMD_READ_RAM 0x20  /* to 0x3f */
#define CMD_WRITE_RAM 0x60 /* to 0x7f */
#define CMD_TEST_PASSWORD 0xa4
#define CMD_DISABLE_AUX 0xa7
#define CMD_ENABLE_AUX 0xa8
#define CMD_TEST_AUX 0xa9
#define CMD_SELF_TEST 0xaa
#define CMD_TEST_KEYBOARD 0xab
#define CMD_DISABLE 0xad
#define CMD_ENABLE 0xae
#define CMD_READ_INPUT 0xc0
#define CMD_POLL_LOW 0xc1 /* input port bits 3..0 in the status register's upper half */
#define CMD_POLL_HIGH 0xc2
#define CMD_READ_OUTPUT 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_WRITE_KEYBOARD_BUFFER 0xd2
#define CMD_WRITE_AUX_BUFFER 0xd3
#define CMD_WRITE_AUX 0xd4
#define CMD_A20_OFF 0xdd
#define CMD_A20_ON 0xdf
#define CMD_READ_TEST 0xe0
#define CMD_PULSE 0xf0 /* 0xf0..0xff: pulses the output port lines whose bit is 0 */

#define NO_PASSWORD 0xf1

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
#define KBD_RESEND 0xfe
#define KBD_RESET 0xff
#define KBD_ACK 0xfa
#define KBD_PASSED 0xaa

#define TYPEMATIC_DEFAULT 0x2b /* 10.9 a second after 0.5 s */

#define EXTENDED 0xe0 /* and 0xe1: prefixes in both sets */
#define PAUSE 0xe1
#define BREAK 0x80
#define BREAK_SET2 0xf0

/* What waits for port 0x60: a byte, and of whom it is */
#define FROM_KEYBOARD 0x100 /* passes the translation */
#define FROM_AUX 0x200
#define TIMED_OUT 0x400
#define LET_GO 0x800 /* the second byte of such a key; translated, it stands for both */

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

static uint8_t to_set1(uint8_t byte)
{
    if (byte < MK_COUNT(set1_of))
        return set1_of[byte];
    return byte == 0x83 ? 0x41 : byte == 0x84 ? 0x54 : byte;
}

/* The set 2 code of a set 1 make code. From the top: F7 and SysRq have a second, unused one. */
static uint8_t to_set2(uint8_t code)
{
    uint8_t byte = 0x84;
    while (byte && to_set1(byte) != code)
        byte--;
    return byte;
}

/* --- what goes to the guest; the caller of these holds the lock --- */

static void reply(struct mk_i8042_state *s, uint16_t item)
{
    if (s->reply_count == MK_I8042_REPLIES)
        return;
    s->replies[(s->reply_head + s->reply_count++) % MK_I8042_REPLIES] = item;
}

/* An answer of the keyboard. */
static void answer(struct mk_i8042_state *s, uint8_t byte)
{
    if (byte != KBD_RESEND)
        s->last = byte | FROM_KEYBOARD;
    reply(s, byte | FROM_KEYBOARD);
}

static uint16_t pop_reply(struct mk_i8042_state *s)
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
    uint8_t code = to_set2(byte & (uint8_t)~BREAK);
    if (!(byte & BREAK))
        return code;
    s->carry = code;
    return BREAK_SET2;
}

/* The next byte of a key as it gets to the controller. */
static uint16_t key_byte(struct mk_i8042_state *s)
{
    s->last = pop_key(s) | FROM_KEYBOARD;
    if (s->carry && s->ram[0] & CONFIG_TRANSLATE)
        s->last = pop_key(s) | FROM_KEYBOARD | LET_GO;
    return s->last;
}

static bool keyboard_sends(const struct mk_i8042_state *s)
{
    return s->scanning && !(s->ram[0] & CONFIG_NO_KEYBOARD) && !s->keyboard_parameter_of &&
           (s->count || s->carry);
}

/* Fills port 0x60 when it is empty and something waits. */
static void refill(struct mk_i8042_state *s)
{
    if (s->full || (!s->reply_count && !keyboard_sends(s)))
        return;
    uint16_t item = s->reply_count ? pop_reply(s) : key_byte(s);
    s->output = (uint8_t)item;
    if (item & FROM_KEYBOARD && s->ram[0] & CONFIG_TRANSLATE)
        s->output = to_set1(s->output) | (item & LET_GO ? BREAK : 0);
    s->source = item & (FROM_AUX | TIMED_OUT);
    s->full = true;
}

/* The lines that are wanted up: bit 0 the keyboard's, bit 1 the auxiliary port's. */
static uint8_t wanted_lines(const struct mk_i8042_state *s)
{
    if (!s->full)
        return 0;
    return s->ram[0] & (s->source & FROM_AUX ? CONFIG_AUX_IRQ : CONFIG_IRQ);
}

/* Moves the lines a step: one that is up already drops for a moment when a byte was read, so that
 * the next is an edge. False when they are as they should be. */
static bool line_step(struct mk_i8042 *kbd)
{
    struct mk_i8042_state *s = &kbd->state;
    uint8_t want = wanted_lines(s), before = s->line;
    if (kbd->drop)
        want &= (uint8_t)~before;
    kbd->drop = false;
    if (want == before)
        return false;
    s->line = want;
    pthread_mutex_unlock(&kbd->dev.lock);
    for (unsigned i = 0; i < 2; i++)
        if ((want ^ before) >> i & 1)
            mk_irq_set(&kbd->irq[i], want >> i & 1);
    pthread_mutex_lock(&kbd->dev.lock);
    return true;
}

/* Ends a locked section: offers the next byte and moves the lines. That calls out, so it is done
 * unlocked, and by one thread at a time, or a stale level could arrive last: who comes second
 * leaves the work to the first. */
static void update_irq(struct mk_i8042 *kbd)
{
    refill(&kbd->state);
    if (!kbd->updating) {
        kbd->updating = true;
        while (line_step(kbd))
            ;
        kbd->updating = false;
    }
    pthread_mutex_unlock(&kbd->dev.lock);
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
    case KBD_KEYS ... KBD_KEYS + 2:
    case KBD_TYPEMATIC: s->keyboard_parameter_of = command; break;
    case KBD_ECHO: answer(s, KBD_ECHO); return;
    case KBD_ID: keyboard_id(s); return;
    case KBD_ENABLE: s->scanning = true; break;
    case KBD_DISABLE:
        keyboard_defaults(s);
        s->scanning = false;
        break;
    case KBD_DEFAULTS: keyboard_defaults(s); break;
    case KBD_ALL_KEYS ... KBD_ALL_KEYS + 3: break;
    case KBD_RESEND: reply(s, s->last); return;
    case KBD_RESET:
        keyboard_defaults(s);
        answer(s, KBD_ACK);
        answer(s, KBD_PASSED);
        return;
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
static void to_keyboard(struct mk_i8042_state *s, uint8_t value)
{
    uint8_t command = s->keyboard_parameter_of;
    s->ram[0] &= (uint8_t)~CONFIG_NO_KEYBOARD;
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

/* A byte to the auxiliary port; it enables it, as one to the keyboard does. */
static void to_aux(struct mk_i8042_state *s)
{
    s->ram[0] &= (uint8_t)~CONFIG_NO_AUX;
    reply(s, KBD_RESEND | FROM_AUX | TIMED_OUT);
}

/* These two return true when the CPU's reset line was pulled. */
static bool controller_parameter(struct mk_i8042_state *s, uint8_t command, uint8_t value)
{
    s->parameter_of = 0;
    if (command <= CMD_WRITE_RAM + 0x1f)
        s->ram[command & 0x1f] = value;
    else if (command == CMD_WRITE_OUTPUT)
        s->output_port = value & (uint8_t) ~(OUTPUT_FULL | OUTPUT_AUX_FULL);
    else if (command == CMD_WRITE_KEYBOARD_BUFFER)
        reply(s, value);
    else if (command == CMD_WRITE_AUX_BUFFER)
        reply(s, value | FROM_AUX);
    else
        to_aux(s);
    return command == CMD_WRITE_OUTPUT && !(value & OUTPUT_RUN);
}

static uint8_t read_output(const struct mk_i8042_state *s)
{
    uint8_t full = !s->full ? 0 : s->source & FROM_AUX ? OUTPUT_AUX_FULL : OUTPUT_FULL;
    return s->output_port | full;
}

/* The clock lines are test inputs 0 and 1; that of a disabled interface is held low. */
static uint8_t read_test(const struct mk_i8042_state *s)
{
    return (s->ram[0] & CONFIG_NO_KEYBOARD ? 0 : 1) | (s->ram[0] & CONFIG_NO_AUX ? 0 : 2);
}

static bool controller_command(struct mk_i8042_state *s, uint8_t command)
{
    s->parameter_of = 0;
    switch (command) {
    case CMD_READ_RAM ... CMD_READ_RAM + 0x1f: reply(s, s->ram[command & 0x1f]); break;
    case CMD_TEST_PASSWORD: reply(s, NO_PASSWORD); break;
    case CMD_DISABLE_AUX: s->ram[0] |= CONFIG_NO_AUX; break;
    case CMD_ENABLE_AUX: s->ram[0] &= (uint8_t)~CONFIG_NO_AUX; break;
    case CMD_TEST_AUX:
    case CMD_TEST_KEYBOARD: reply(s, 0x00); break;
    case CMD_SELF_TEST:
        s->ram[0] |= CONFIG_SYSTEM;
        reply(s, 0x55);
        break;
    case CMD_DISABLE: s->ram[0] |= CONFIG_NO_KEYBOARD; break;
    case CMD_ENABLE: s->ram[0] &= (uint8_t)~CONFIG_NO_KEYBOARD; break;
    case CMD_READ_INPUT: reply(s, INPUT_PORT); break;
    case CMD_POLL_LOW:
        s->poll = (uint8_t)(INPUT_PORT << 4);
        s->polling = true;
        break;
    case CMD_POLL_HIGH:
        s->poll = INPUT_PORT & 0xf0;
        s->polling = true;
        break;
    case CMD_READ_OUTPUT: reply(s, read_output(s)); break;
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
    case CMD_WRITE_OUTPUT:
    case CMD_WRITE_KEYBOARD_BUFFER:
    case CMD_WRITE_AUX_BUFFER:
    case CMD_WRITE_AUX: s->parameter_of = command; break;
    case CMD_A20_OFF: set_a20(s, false); break;
    case CMD_A20_ON: set_a20(s, true); break;
    case CMD_READ_TEST: reply(s, read_test(s)); break;
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
    pthread_mutex_lock(&kbd->dev.lock);
    kbd->state.polling = false;
    kbd->state.to_command = io->address == MK_PORT_KBD_STATUS;
    if (kbd->state.to_command)
        reset = controller_command(&kbd->state, (uint8_t)value);
    else
        reset = to_data(&kbd->state, (uint8_t)value);
    update_irq(kbd);
    if (reset)
        io->cpu->ops->end(io->cpu, MK_SHUTDOWN, 0, true, "reset by the keyboard controller");
}

static uint8_t status(const struct mk_i8042_state *s)
{
    uint8_t low = (s->full ? STATUS_OUTPUT : 0) | (s->ram[0] & STATUS_SYSTEM) |
                  (s->to_command ? STATUS_COMMAND : 0);
    if (s->polling)
        return s->poll | low;
    bool aux = s->full && s->source & FROM_AUX, timeout = s->full && s->source & TIMED_OUT;
    return low | STATUS_UNLOCKED | (aux ? STATUS_AUX : 0) | (timeout ? STATUS_TIMEOUT : 0);
}

static uint64_t i8042_in(void *self, struct mk_io *io)
{
    struct mk_i8042 *kbd = self;
    uint8_t value;
    pthread_mutex_lock(&kbd->dev.lock);
    if (io->address == MK_PORT_KBD_STATUS) {
        value = status(&kbd->state);
    } else {
        value = kbd->state.output; /* the old byte again when there is no new one */
        if (kbd->state.full)
            kbd->drop = true;
        kbd->state.full = false;
    }
    update_irq(kbd);
    return value;
}

/* --- the host's side --- */

bool mk_i8042_key(struct mk_i8042 *kbd, const uint8_t *scancodes, size_t n)
{
    struct mk_i8042_state *s = &kbd->state;
    pthread_mutex_lock(&kbd->dev.lock);
    bool fits = n <= (size_t)(MK_I8042_KEYS - s->count);
    for (size_t i = 0; fits && i < n; i++)
        s->keys[(s->head + s->count++) % MK_I8042_KEYS] = scancodes[i];
    update_irq(kbd);
    return fits;
}

size_t mk_i8042_queued(struct mk_i8042 *kbd, uint8_t *leds)
{
    pthread_mutex_lock(&kbd->dev.lock);
    size_t n = kbd->state.count;
    *leds = kbd->state.leds;
    pthread_mutex_unlock(&kbd->dev.lock);
    return n;
}

/* --- as a device --- */

static void power_up(struct mk_i8042_state *s)
{
    uint8_t line = s->line; /* update_irq() lowers them */
    *s = (struct mk_i8042_state){
        .line = line,
        .ram = { CONFIG_IRQ | CONFIG_SYSTEM | CONFIG_NO_AUX | CONFIG_TRANSLATE },
        .last = KBD_PASSED | FROM_KEYBOARD,
        .output_port = OUTPUT_CLOCKS | OUTPUT_RUN | OUTPUT_A20,
    };
    keyboard_defaults(s);
}

struct mk_dev *mk_i8042_init(struct mk_i8042 *kbd, struct mk_irq keyboard, struct mk_irq aux)
{
    *kbd = (struct mk_i8042){ .irq = { keyboard, aux } };
    power_up(&kbd->state);
    return &kbd->dev;
}

static void i8042_reset(void *self)
{
    struct mk_i8042 *kbd = self;
    pthread_mutex_lock(&kbd->dev.lock);
    power_up(&kbd->state);
    update_irq(kbd);
}

static void i8042_after_load(void *self)
{
    struct mk_i8042 *kbd = self;
    pthread_mutex_lock(&kbd->dev.lock);
    update_irq(kbd);
}

static const struct mk_io_ops ops = {
    .name = "i8042", .in = i8042_in, .out = i8042_out, .width = 1
};

/* But the levels of the lines: they are as they are, and update_irq() moves them. */
#define KBD struct mk_i8042
static const struct mk_field fields[] = {
    MK_RANGE(KBD, state.head, 0, MK_I8042_KEYS - 1),
    MK_RANGE(KBD, state.count, 0, MK_I8042_KEYS),
    MK_RAW(KBD, state.source),
    MK_RAW(KBD, state.last),
    MK_RAW(KBD, state.replies),
    MK_RANGE(KBD, state.reply_head, 0, MK_I8042_REPLIES - 1),
    MK_RANGE(KBD, state.reply_count, 0, MK_I8042_REPLIES),
    MK_RAW(KBD, state.ram),
    MK_RAW(KBD, state.output_port),
    MK_RAW(KBD, state.output),
    MK_RAW(KBD, state.poll),
    MK_RAW(KBD, state.parameter_of),
    MK_RAW(KBD, state.keyboard_parameter_of),
    MK_RANGE(KBD, state.set, 1, 2),
    MK_RAW(KBD, state.leds),
    MK_RAW(KBD, state.typematic),
    MK_RAW(KBD, state.carry),
    MK_RAW(KBD, state.full),
    MK_RAW(KBD, state.to_command),
    MK_RAW(KBD, state.polling),
    MK_RAW(KBD, state.scanning),
    MK_RAW(KBD, state.keys),
    { 0 },
};

const struct mk_dev_ops mk_i8042_dev = {
    .name = "i8042",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_KBD_DATA, MK_PORT_KBD_DATA, &ops },
                { MK_SPACE_PORTS, MK_PORT_KBD_STATUS, MK_PORT_KBD_STATUS, &ops } },
    .fields = fields,
    .after_load = i8042_after_load,
    .reset = i8042_reset,
};
