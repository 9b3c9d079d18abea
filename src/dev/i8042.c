/* i8042.c - see i8042.h. Follows the IBM PS/2 Hardware Interface Technical Reference,
 * "Keyboard and Auxiliary Device Controller"; commands that are the AT's alone, from the IBM PC/AT
 * Technical Reference. The keyboard is in keyboard.h.
 *
 * Thread: any; every entry takes the lock, and ends in finish(), which moves the lines.
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
#include "dev/keyboard.h"

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
#define CONFIG_NO_AUX 0x20

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

/* --- what goes to the guest; the caller of these holds the lock --- */

/* Fills port 0x60 when it is empty and something waits. */
static void refill(struct mk_i8042_state *s)
{
    if (s->full || (!s->reply_count && !mk_keyboard_sends(s)))
        return;
    uint16_t item = s->reply_count ? mk_keyboard_pop_reply(s) : mk_keyboard_next_key(s);
    s->output = (uint8_t)item;
    if (item & MK_FROM_KEYBOARD && s->ram[0] & MK_I8042_TRANSLATE)
        s->output = mk_keyboard_to_set1(s->output) | (item & MK_LET_GO ? MK_KBD_BREAK : 0);
    s->source = item & (MK_FROM_AUX | MK_TIMED_OUT);
    s->full = true;
}

/* The lines that are wanted up: bit 0 the keyboard's, bit 1 the auxiliary port's. */
static uint8_t wanted_lines(const struct mk_i8042_state *s)
{
    if (!s->full)
        return 0;
    return s->ram[0] & (s->source & MK_FROM_AUX ? CONFIG_AUX_IRQ : CONFIG_IRQ);
}

static void set_lines(struct mk_i8042 *kbd, uint8_t want)
{
    for (unsigned i = 0; i < MK_COUNT(kbd->irq); i++)
        mk_irq_set(&kbd->irq[i], want >> i & 1);
}

/* Ends a locked section: offers the next byte and moves the lines. */
static void finish(struct mk_i8042 *kbd)
{
    refill(&kbd->state);
    set_lines(kbd, wanted_lines(&kbd->state));
    pthread_mutex_unlock(&kbd->dev.lock);
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
    mk_keyboard_reply(s, MK_KBD_RESEND | MK_FROM_AUX | MK_TIMED_OUT);
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
        mk_keyboard_reply(s, value);
    else if (command == CMD_WRITE_AUX_BUFFER)
        mk_keyboard_reply(s, value | MK_FROM_AUX);
    else
        to_aux(s);
    return command == CMD_WRITE_OUTPUT && !(value & OUTPUT_RUN);
}

static uint8_t read_output(const struct mk_i8042_state *s)
{
    uint8_t full = !s->full ? 0 : s->source & MK_FROM_AUX ? OUTPUT_AUX_FULL : OUTPUT_FULL;
    return s->output_port | full;
}

/* The clock lines are test inputs 0 and 1; that of a disabled interface is held low. */
static uint8_t read_test(const struct mk_i8042_state *s)
{
    return (s->ram[0] & MK_I8042_NO_KEYBOARD ? 0 : 1) | (s->ram[0] & CONFIG_NO_AUX ? 0 : 2);
}

static bool controller_command(struct mk_i8042_state *s, uint8_t command)
{
    s->parameter_of = 0;
    switch (command) {
    case CMD_READ_RAM ... CMD_READ_RAM + 0x1f: mk_keyboard_reply(s, s->ram[command & 0x1f]); break;
    case CMD_TEST_PASSWORD: mk_keyboard_reply(s, NO_PASSWORD); break;
    case CMD_DISABLE_AUX: s->ram[0] |= CONFIG_NO_AUX; break;
    case CMD_ENABLE_AUX: s->ram[0] &= (uint8_t)~CONFIG_NO_AUX; break;
    case CMD_TEST_AUX:
    case CMD_TEST_KEYBOARD: mk_keyboard_reply(s, 0x00); break;
    case CMD_SELF_TEST:
        s->ram[0] |= CONFIG_SYSTEM;
        mk_keyboard_reply(s, 0x55);
        break;
    case CMD_DISABLE: s->ram[0] |= MK_I8042_NO_KEYBOARD; break;
    case CMD_ENABLE: s->ram[0] &= (uint8_t)~MK_I8042_NO_KEYBOARD; break;
    case CMD_READ_INPUT: mk_keyboard_reply(s, INPUT_PORT); break;
    case CMD_POLL_LOW:
        s->poll = (uint8_t)(INPUT_PORT << 4);
        s->polling = true;
        break;
    case CMD_POLL_HIGH:
        s->poll = INPUT_PORT & 0xf0;
        s->polling = true;
        break;
    case CMD_READ_OUTPUT: mk_keyboard_reply(s, read_output(s)); break;
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
    case CMD_WRITE_OUTPUT:
    case CMD_WRITE_KEYBOARD_BUFFER:
    case CMD_WRITE_AUX_BUFFER:
    case CMD_WRITE_AUX: s->parameter_of = command; break;
    case CMD_A20_OFF: set_a20(s, false); break;
    case CMD_A20_ON: set_a20(s, true); break;
    case CMD_READ_TEST: mk_keyboard_reply(s, read_test(s)); break;
    }
    return command >= CMD_PULSE && !(command & OUTPUT_RUN);
}

static bool to_data(struct mk_i8042_state *s, uint8_t value)
{
    if (s->parameter_of)
        return controller_parameter(s, s->parameter_of, value);
    mk_keyboard_write(s, value);
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
    finish(kbd);
    if (reset)
        io->cpu->ops->end(io->cpu, MK_SHUTDOWN, 0, true, "reset by the keyboard controller");
}

static uint8_t status(const struct mk_i8042_state *s)
{
    uint8_t low = (s->full ? STATUS_OUTPUT : 0) | (s->ram[0] & STATUS_SYSTEM) |
                  (s->to_command ? STATUS_COMMAND : 0);
    if (s->polling)
        return s->poll | low;
    bool aux = s->full && s->source & MK_FROM_AUX, timeout = s->full && s->source & MK_TIMED_OUT;
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
        kbd->state.full = false;
        set_lines(kbd, 0); /* for a moment at least, so that the next byte is an edge */
    }
    finish(kbd);
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
    finish(kbd);
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
    *s = (struct mk_i8042_state){
        .ram = { CONFIG_IRQ | CONFIG_SYSTEM | CONFIG_NO_AUX | MK_I8042_TRANSLATE },
        .last = MK_KBD_PASSED | MK_FROM_KEYBOARD,
        .output_port = OUTPUT_CLOCKS | OUTPUT_RUN | OUTPUT_A20,
    };
    mk_keyboard_defaults(s);
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
    finish(kbd);
}

static void i8042_after_load(void *self)
{
    struct mk_i8042 *kbd = self;
    pthread_mutex_lock(&kbd->dev.lock);
    finish(kbd);
}

static const struct mk_io_ops ops = {
    .name = "i8042", .in = i8042_in, .out = i8042_out, .width = 1
};

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
