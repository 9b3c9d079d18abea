/* pic.c - see pic.h. Follows the Intel 8259A data sheet (order 231468), "Programming the
 * 8259A": ICW1-ICW4, OCW1-OCW3; ELCR as in the 82371 (PIIX) data sheet.
 *
 * Thread: any; every entry takes the lock, hooks are called after it is released.
 *
 * Limits and deliberate differences:
 * - 8086 mode only: the CALL sequence of the MCS-80 and buffered mode do not exist here.
 * - The slave hangs on input 2; the identity it is given in ICW3 is not compared.
 * - The data sheet wants a new rising edge after ICW1. Here an input that is high at ICW1 counts as
 *   having just risen: no BIOS has drained the devices before, and a key typed before the guest
 *   initialised its controller would otherwise silence the keyboard for good.
 * - Master and slave see one INTA at one instant. A slave request that vanished after INT rose is
 *   spurious input 7 of the slave, as if it had vanished between the two INTA pulses. */
#include "dev/pic.h"

#include "base/abi.h"

enum { MASTER, SLAVE };

#define CASCADE 2 /* master input that the slave's INT drives */
#define NO_CAUSE 0xff

#define ICW1_START 0x10
#define ICW1_LEVEL 0x08
#define ICW1_SINGLE 0x02
#define ICW1_ICW4 0x01
#define ICW4_NESTED 0x10 /* special fully nested mode */
#define ICW4_AEOI 0x02

#define OCW3_SELECT 0x08
#define OCW3_POLL 0x04

#define BIT(n) ((uint8_t)(1u << (n)))

/* --- one chip --- */

static uint8_t cascade_mask(const struct mk_pic_chip *chip)
{
    return chip->master && !(chip->icw1 & ICW1_SINGLE) ? chip->icw3 & BIT(CASCADE) : 0;
}

/* The cascade input follows the slave's INT, whatever the trigger mode of the others. */
static uint8_t level_inputs(const struct mk_pic_chip *chip)
{
    uint8_t chosen = chip->icw1 & ICW1_LEVEL ? 0xff : chip->elcr;
    return chosen | cascade_mask(chip);
}

static uint8_t irr(const struct mk_pic_chip *chip)
{
    uint8_t level = level_inputs(chip);
    return (chip->line & level) | (chip->edge & (uint8_t)~level);
}

/* 0 is the highest priority. */
static unsigned rank(const struct mk_pic_chip *chip, int input)
{
    return ((unsigned)input - chip->lowest - 1) & 7;
}

/* The input of highest priority among `inputs`, or -1. */
static int highest(const struct mk_pic_chip *chip, uint8_t inputs)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned input = (chip->lowest + i) & 7;
        if (inputs & BIT(input))
            return (int)input;
    }
    return -1;
}

/* The level being served. In special mask mode one that is masked does not count. */
static int in_service(const struct mk_pic_chip *chip)
{
    return highest(chip, chip->special_mask ? chip->isr & (uint8_t)~chip->imr : chip->isr);
}

/* The input that INT is up for, or -1. */
static int wanted(const struct mk_pic_chip *chip)
{
    if (!chip->ready)
        return -1;
    int input = highest(chip, irr(chip) & (uint8_t)~chip->imr);
    int busy = in_service(chip);
    if (input < 0 || busy < 0 || rank(chip, input) < rank(chip, busy))
        return input;
    /* Special fully nested: the slave may interrupt the service of its own lower inputs. */
    if (input == busy && (chip->icw4 & ICW4_NESTED) && (cascade_mask(chip) & BIT(input)))
        return input;
    return -1;
}

static void chip_line(struct mk_pic_chip *chip, unsigned input, bool level)
{
    uint8_t bit = BIT(input);
    if (!level) {
        chip->line &= (uint8_t)~bit;
        chip->edge &= (uint8_t)~bit;
    } else if (!(chip->line & bit)) {
        chip->line |= bit;
        chip->edge |= bit;
    }
}

/* The input follows who holds it up. */
static void drive(struct mk_pic_chip *chip, unsigned input)
{
    chip_line(chip, input, (chip->own | chip->shared) & BIT(input));
}

/* What INTA does to one chip. */
static void enter_service(struct mk_pic_chip *chip, int input)
{
    uint8_t bit = BIT(input);
    chip->edge &= (uint8_t)~bit;
    if (chip->pulse & bit) {
        chip->pulse &= (uint8_t)~bit;
        chip->own &= (uint8_t)~bit;
        drive(chip, (unsigned)input);
    }
    if (!(chip->icw4 & ICW4_AEOI))
        chip->isr |= bit;
    else if (chip->rotate_aeoi)
        chip->lowest = (uint8_t)input;
}

static void write_icw1(struct mk_pic_chip *chip, uint8_t value)
{
    chip->icw1 = value;
    chip->icw3 = chip->icw4 = 0;
    chip->edge = chip->line;
    chip->isr = chip->imr = 0;
    chip->lowest = 7;
    chip->read_isr = chip->poll = chip->special_mask = chip->rotate_aeoi = false;
    chip->ready = false;
    chip->step = 2;
}

/* Ends the sequence when no further ICW was announced by ICW1. */
static void next_icw(struct mk_pic_chip *chip)
{
    bool more3 = chip->step == 2 && !(chip->icw1 & ICW1_SINGLE);
    bool more4 = chip->step != 4 && (chip->icw1 & ICW1_ICW4);
    chip->step = more3 ? 3 : more4 ? 4 : 0;
    chip->ready = chip->step == 0;
}

static void write_odd(struct mk_pic_chip *chip, uint8_t value)
{
    switch (chip->step) {
    case 2: chip->base = value & 0xf8; break;
    case 3: chip->icw3 = value; break;
    case 4: chip->icw4 = value; break;
    default: chip->imr = value; return;
    }
    next_icw(chip);
}

static void end_of_interrupt(struct mk_pic_chip *chip, int input, bool rotate)
{
    if (input < 0)
        return;
    chip->isr &= (uint8_t)~BIT(input);
    if (rotate)
        chip->lowest = (uint8_t)input;
}

/* Bits 7..5 of OCW2 are R (rotate), SL (specific level), EOI. */
static void write_ocw2(struct mk_pic_chip *chip, uint8_t value)
{
    uint8_t input = value & 7;
    switch (value >> 5) {
    case 0: chip->rotate_aeoi = false; break;
    case 1: end_of_interrupt(chip, in_service(chip), false); break;
    case 2: break; /* no operation */
    case 3: end_of_interrupt(chip, input, false); break;
    case 4: chip->rotate_aeoi = true; break;
    case 5: end_of_interrupt(chip, in_service(chip), true); break;
    case 6: chip->lowest = input; break;
    case 7: end_of_interrupt(chip, input, true); break;
    }
}

static void write_ocw3(struct mk_pic_chip *chip, uint8_t value)
{
    if (value & 0x40) /* ESMM: bit 5 counts */
        chip->special_mask = value & 0x20;
    if (value & 0x02) /* RR: bit 0 counts */
        chip->read_isr = value & 0x01;
    chip->poll = value & OCW3_POLL;
}

static void write_even(struct mk_pic_chip *chip, uint8_t value)
{
    if (value & ICW1_START)
        write_icw1(chip, value);
    else if (value & OCW3_SELECT)
        write_ocw3(chip, value);
    else
        write_ocw2(chip, value);
}

/* The read after a poll command is an INTA of this chip alone. */
static uint8_t read_poll(struct mk_pic_chip *chip, int *taken)
{
    chip->poll = false;
    *taken = wanted(chip);
    if (*taken < 0)
        return 0;
    enter_service(chip, *taken);
    return (uint8_t)(0x80 | *taken);
}

/* --- the pair --- */

/* Recomputes both INT outputs; true when the master's rose. Caller holds the lock. */
static bool update(struct mk_pic *pic)
{
    struct mk_pic_chip *chip = pic->state.chip;
    chip_line(&chip[MASTER], CASCADE, wanted(&chip[SLAVE]) >= 0);
    int input = wanted(&chip[MASTER]);
    if (input >= 0)
        pic->state.cause = (uint8_t)input;
    return !atomic_exchange_explicit(&pic->intr, input >= 0, memory_order_acq_rel) && input >= 0;
}

/* Ends a locked section: unlocks, then tells whom it concerns. `line` is -1 when none was taken. */
static void finish(struct mk_pic *pic, int line)
{
    bool rose = update(pic);
    pthread_mutex_unlock(&pic->dev.lock);
    if (line >= 0 && pic->on_ack)
        pic->on_ack(pic->ack_ctx, (unsigned)line);
    if (rose && pic->on_int)
        pic->on_int(pic->int_ctx);
}

static bool has_requests(const struct mk_pic *pic)
{
    return irr(&pic->state.chip[MASTER]) || irr(&pic->state.chip[SLAVE]);
}

/* The same after an input has changed. */
static void finish_input(struct mk_pic *pic, bool level)
{
    bool rose = update(pic);
    bool blocked = level && !atomic_load(&pic->intr);
    pthread_mutex_unlock(&pic->dev.lock);
    if (rose && pic->on_int)
        pic->on_int(pic->int_ctx);
    if (blocked && pic->on_blocked)
        pic->on_blocked(pic->int_ctx);
}

/* Vector and device line (-1: spurious) of an INTA. */
static int acknowledge(struct mk_pic_state *s, int *line)
{
    struct mk_pic_chip *master = &s->chip[MASTER], *slave = &s->chip[SLAVE];
    int input = wanted(master);
    *line = -1;
    if (input < 0 && !(s->cause < 8 && (cascade_mask(master) & BIT(s->cause))))
        return master->base | 7;
    if (input < 0)
        input = CASCADE;
    enter_service(master, input);
    if (!(cascade_mask(master) & BIT(input))) {
        *line = input;
        return master->base | input;
    }
    input = wanted(slave);
    if (input < 0) /* spurious for the slave only: the master's ISR bit waits for an EOI */
        return slave->base | 7;
    enter_service(slave, input);
    *line = 8 + input;
    return slave->base | input;
}

static struct mk_pic_chip *chip_at(struct mk_pic *pic, uint16_t port)
{
    return &pic->state.chip[(port & ~1u) == MK_PORT_PIC2 ? SLAVE : MASTER];
}

static uint64_t pic_in(void *self, struct mk_io *io)
{
    struct mk_pic *pic = self;
    int taken = -1;
    uint8_t value;
    pthread_mutex_lock(&pic->dev.lock);
    struct mk_pic_chip *chip = chip_at(pic, io->address);
    if (chip->poll)
        value = read_poll(chip, &taken);
    else if (io->address & 1)
        value = chip->imr;
    else
        value = chip->read_isr ? chip->isr : irr(chip);
    if (taken >= 0)
        taken = chip->master ? (taken == CASCADE ? -1 : taken) : taken + 8;
    finish(pic, taken);
    return value;
}

static void pic_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pic *pic = self;
    pthread_mutex_lock(&pic->dev.lock);
    struct mk_pic_chip *chip = chip_at(pic, io->address);
    if (io->address & 1)
        write_odd(chip, (uint8_t)value);
    else
        write_even(chip, (uint8_t)value);
    finish(pic, -1);
}

static uint64_t elcr_in(void *self, struct mk_io *io)
{
    struct mk_pic *pic = self;
    pthread_mutex_lock(&pic->dev.lock);
    uint8_t value = pic->state.chip[io->address & 1].elcr;
    pthread_mutex_unlock(&pic->dev.lock);
    return value;
}

/* Lines 0, 1, 2, 8 and 13 are edge-triggered on every PC. */
static const uint8_t elcr_writable[2] = { 0xf8, 0xde };

static void elcr_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pic *pic = self;
    unsigned which = io->address & 1;
    pthread_mutex_lock(&pic->dev.lock);
    pic->state.chip[which].elcr = (uint8_t)value & elcr_writable[which];
    finish(pic, -1);
}

static bool device_line(unsigned line)
{
    return line < 16 && line != CASCADE;
}

static void set_bit(uint8_t *bits, unsigned input, bool value)
{
    *bits = (uint8_t)(value ? *bits | BIT(input) : *bits & ~BIT(input));
}

void mk_pic_set_line(void *self, unsigned line, bool level)
{
    struct mk_pic *pic = self;
    if (!device_line(line))
        return;
    pthread_mutex_lock(&pic->dev.lock);
    struct mk_pic_chip *chip = &pic->state.chip[line >> 3];
    chip->pulse &= (uint8_t)~BIT(line & 7);
    set_bit(&chip->own, line & 7, level);
    drive(chip, line & 7);
    finish_input(pic, level);
}

void mk_pic_set_shared(void *self, unsigned line, bool level)
{
    struct mk_pic *pic = self;
    if (!device_line(line))
        return;
    pthread_mutex_lock(&pic->dev.lock);
    struct mk_pic_chip *chip = &pic->state.chip[line >> 3];
    set_bit(&chip->shared, line & 7, level);
    drive(chip, line & 7);
    finish_input(pic, level);
}

void mk_pic_set_level_triggered(void *self, uint16_t lines)
{
    struct mk_pic *pic = self;
    pthread_mutex_lock(&pic->dev.lock);
    for (unsigned i = 0; i < 2; i++)
        pic->state.chip[i].elcr |= (uint8_t)(lines >> 8 * i) & elcr_writable[i];
    finish(pic, -1);
}

void mk_pic_pulse(struct mk_pic *pic, unsigned line)
{
    if (!device_line(line))
        return;
    pthread_mutex_lock(&pic->dev.lock);
    struct mk_pic_chip *chip = &pic->state.chip[line >> 3];
    if (!(chip->own & BIT(line & 7))) /* a device that holds the line itself keeps it */
        chip->pulse |= BIT(line & 7);
    set_bit(&chip->own, line & 7, true);
    drive(chip, line & 7);
    finish_input(pic, true);
}

bool mk_pic_is_blocked(struct mk_pic *pic)
{
    pthread_mutex_lock(&pic->dev.lock);
    bool blocked = has_requests(pic) && !atomic_load(&pic->intr);
    pthread_mutex_unlock(&pic->dev.lock);
    return blocked;
}

bool mk_pic_masked(void *self, unsigned line)
{
    struct mk_pic *pic = self;
    const struct mk_pic_chip *master = &pic->state.chip[MASTER], *chip = master + (line >> 3 & 1);
    pthread_mutex_lock(&pic->dev.lock);
    bool masked = !master->ready || !chip->ready || (chip->imr & BIT(line & 7)) ||
                  (chip != master && (master->imr & BIT(CASCADE)));
    pthread_mutex_unlock(&pic->dev.lock);
    return masked;
}

int mk_pic_ack(struct mk_pic *pic)
{
    int line;
    pthread_mutex_lock(&pic->dev.lock);
    int vector = acknowledge(&pic->state, &line);
    pic->state.cause = NO_CAUSE;
    finish(pic, line);
    return vector;
}

/* --- as a device --- */

static void power_up(struct mk_pic_state *s)
{
    *s = (struct mk_pic_state){ .cause = NO_CAUSE };
    s->chip[MASTER].master = true;
}

struct mk_dev *mk_pic_init(struct mk_pic *pic)
{
    *pic = (struct mk_pic){ 0 };
    power_up(&pic->state);
    return &pic->dev;
}

static void pic_reset(void *self)
{
    struct mk_pic *pic = self;
    pthread_mutex_lock(&pic->dev.lock);
    power_up(&pic->state);
    finish(pic, -1);
}

static void pic_after_load(void *self)
{
    struct mk_pic *pic = self;
    pthread_mutex_lock(&pic->dev.lock);
    for (unsigned i = 0; i < 2; i++) {
        struct mk_pic_chip *chip = &pic->state.chip[i];
        uint8_t cascade = chip->master ? BIT(CASCADE) : 0;
        chip->own &= (uint8_t)~cascade;
        chip->shared &= (uint8_t)~cascade;
        chip->line = (chip->line & cascade) | chip->own | chip->shared;
        chip->edge &= chip->line;
        chip->elcr &= elcr_writable[i];
    }
    finish(pic, -1);
}

static const struct mk_io_ops pic_ops = {
    .name = "pic", .in = pic_in, .out = pic_out, .width = 1, .patient = true
};
static const struct mk_io_ops elcr_ops = {
    .name = "pic", .in = elcr_in, .out = elcr_out, .width = 1
};

#define CHIP struct mk_pic_chip
static const struct mk_field chip_fields[] = {
    /* but which of the two it is */
    MK_RAW(CHIP, line),
    MK_RAW(CHIP, edge),
    MK_RAW(CHIP, isr),
    MK_RAW(CHIP, imr),
    MK_RAW(CHIP, elcr),
    MK_RAW(CHIP, pulse),
    MK_RANGE(CHIP, lowest, 0, 7),
    MK_BITS(CHIP, base, 0xf8),
    MK_RAW(CHIP, icw1),
    MK_RAW(CHIP, icw3),
    MK_RAW(CHIP, icw4),
    MK_RANGE(CHIP, step, 0, 4),
    MK_RAW(CHIP, ready),
    MK_RAW(CHIP, read_isr),
    MK_RAW(CHIP, poll),
    MK_RAW(CHIP, special_mask),
    MK_RAW(CHIP, rotate_aeoi),
    MK_RAW(CHIP, own),
    MK_RAW(CHIP, shared),
    { 0 },
};

static const struct mk_field fields[] = {
    MK_LIST(struct mk_pic, state.chip, chip_fields),
    MK_RAW(struct mk_pic, state.cause),
    { 0 },
};

const struct mk_dev_ops mk_pic_dev = {
    .name = "pic",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_PIC1, MK_PORT_PIC1 + 1, &pic_ops },
                { MK_SPACE_PORTS, MK_PORT_PIC2, MK_PORT_PIC2 + 1, &pic_ops },
                { MK_SPACE_PORTS, MK_PORT_ELCR, MK_PORT_ELCR + 1, &elcr_ops } },
    .fields = fields,
    .after_load = pic_after_load,
    .reset = pic_reset,
};
