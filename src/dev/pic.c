/* pic.c - see pic.h. Two chips (pic_chip.h), one the master of the other; ELCR as in the 82371
 * (PIIX) data sheet.
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

#define CASCADE MK_PIC_CASCADE
#define BIT MK_PIC_BIT
#define NO_CAUSE 0xff

/* --- the pair --- */

/* Recomputes both INT outputs; true when the master's rose. Caller holds the lock. */
static bool update(struct mk_pic *pic)
{
    struct mk_pic_chip *chip = pic->state.chip;
    mk_pic_chip_line(&chip[MASTER], CASCADE, mk_pic_chip_wanted(&chip[SLAVE]) >= 0);
    int input = mk_pic_chip_wanted(&chip[MASTER]);
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

/* The same for an input, which follows who holds it up; `level`: somebody does so now. */
static void finish_input(struct mk_pic *pic, unsigned line, bool level)
{
    mk_pic_chip_drive(&pic->state.chip[line >> 3], line & 7);
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
    int input = mk_pic_chip_wanted(master);
    *line = -1;
    if (input < 0 && !(s->cause < 8 && (mk_pic_chip_cascade(master) & BIT(s->cause))))
        return master->base | 7;
    if (input < 0)
        input = CASCADE;
    mk_pic_chip_enter_service(master, input);
    if (!(mk_pic_chip_cascade(master) & BIT(input))) {
        *line = input;
        return master->base | input;
    }
    input = mk_pic_chip_wanted(slave);
    if (input < 0) /* spurious for the slave only: the master's ISR bit waits for an EOI */
        return slave->base | 7;
    mk_pic_chip_enter_service(slave, input);
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
        value = mk_pic_chip_read_poll(chip, &taken);
    else if (io->address & 1)
        value = chip->imr;
    else
        value = chip->read_isr ? chip->isr : mk_pic_chip_irr(chip);
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
        mk_pic_chip_write_odd(chip, (uint8_t)value);
    else
        mk_pic_chip_write_even(chip, (uint8_t)value);
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

static void set_bit(uint8_t *bits, unsigned input, bool value)
{
    *bits = (uint8_t)(value ? *bits | BIT(input) : *bits & ~BIT(input));
}

/* The chip of a device's line, with the lock; NULL: there is no such line. */
static struct mk_pic_chip *begin_input(struct mk_pic *pic, unsigned line)
{
    if (line >= 16 || line == CASCADE)
        return NULL;
    pthread_mutex_lock(&pic->dev.lock);
    return &pic->state.chip[line >> 3];
}

void mk_pic_set_line(void *self, unsigned line, bool level)
{
    struct mk_pic_chip *chip = begin_input(self, line);
    if (!chip)
        return;
    set_bit(&chip->pulse, line & 7, false);
    set_bit(&chip->own, line & 7, level);
    finish_input(self, line, level);
}

void mk_pic_set_shared(void *self, unsigned line, bool level)
{
    struct mk_pic_chip *chip = begin_input(self, line);
    if (!chip)
        return;
    set_bit(&chip->shared, line & 7, level);
    finish_input(self, line, level);
}

void mk_pic_pulse(struct mk_pic *pic, unsigned line)
{
    struct mk_pic_chip *chip = begin_input(pic, line);
    if (!chip)
        return;
    if (!(chip->own & BIT(line & 7))) /* a device that holds the line itself keeps it */
        set_bit(&chip->pulse, line & 7, true);
    set_bit(&chip->own, line & 7, true);
    finish_input(pic, line, true);
}

void mk_pic_set_level_triggered(void *self, uint16_t lines)
{
    struct mk_pic *pic = self;
    pthread_mutex_lock(&pic->dev.lock);
    for (unsigned i = 0; i < 2; i++)
        pic->state.chip[i].elcr |= (uint8_t)(lines >> 8 * i) & elcr_writable[i];
    finish(pic, -1);
}

bool mk_pic_is_blocked(struct mk_pic *pic)
{
    pthread_mutex_lock(&pic->dev.lock);
    const struct mk_pic_chip *chip = pic->state.chip;
    bool requests = mk_pic_chip_irr(&chip[MASTER]) || mk_pic_chip_irr(&chip[SLAVE]);
    bool blocked = requests && !atomic_load(&pic->intr);
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
