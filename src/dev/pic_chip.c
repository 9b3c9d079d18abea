/* pic_chip.c - one 8259A. See pic_chip.h. Intel 8259A data sheet (order 231468), "Programming the
 * 8259A": ICW1-ICW4, OCW1-OCW3; what differs from it is said in pic.c. The caller holds the pair's
 * lock. */
#include "dev/pic_chip.h"

#define CASCADE MK_PIC_CASCADE
#define BIT MK_PIC_BIT

#define ICW1_START 0x10
#define ICW1_LEVEL 0x08
#define ICW1_SINGLE 0x02
#define ICW1_ICW4 0x01
#define ICW4_NESTED 0x10 /* special fully nested mode */
#define ICW4_AEOI 0x02

#define OCW3_SELECT 0x08
#define OCW3_POLL 0x04

uint8_t mk_pic_chip_cascade(const struct mk_pic_chip *chip)
{
    return chip->master && !(chip->icw1 & ICW1_SINGLE) ? chip->icw3 & BIT(CASCADE) : 0;
}

/* The cascade input follows the slave's INT, whatever the trigger mode of the others. */
static uint8_t level_inputs(const struct mk_pic_chip *chip)
{
    uint8_t chosen = chip->icw1 & ICW1_LEVEL ? 0xff : chip->elcr;
    return chosen | mk_pic_chip_cascade(chip);
}

uint8_t mk_pic_chip_irr(const struct mk_pic_chip *chip)
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
int mk_pic_chip_wanted(const struct mk_pic_chip *chip)
{
    if (!chip->ready)
        return -1;
    int input = highest(chip, mk_pic_chip_irr(chip) & (uint8_t)~chip->imr);
    int busy = in_service(chip);
    if (input < 0 || busy < 0 || rank(chip, input) < rank(chip, busy))
        return input;
    /* Special fully nested: the slave may interrupt the service of its own lower inputs. */
    if (input == busy && (chip->icw4 & ICW4_NESTED) && (mk_pic_chip_cascade(chip) & BIT(input)))
        return input;
    return -1;
}

void mk_pic_chip_line(struct mk_pic_chip *chip, unsigned input, bool level)
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
void mk_pic_chip_drive(struct mk_pic_chip *chip, unsigned input)
{
    mk_pic_chip_line(chip, input, (chip->own | chip->shared) & BIT(input));
}

/* What INTA does to one chip. */
void mk_pic_chip_enter_service(struct mk_pic_chip *chip, int input)
{
    uint8_t bit = BIT(input);
    chip->edge &= (uint8_t)~bit;
    if (chip->pulse & bit) {
        chip->pulse &= (uint8_t)~bit;
        chip->own &= (uint8_t)~bit;
        mk_pic_chip_drive(chip, (unsigned)input);
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

void mk_pic_chip_write_odd(struct mk_pic_chip *chip, uint8_t value)
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

void mk_pic_chip_write_even(struct mk_pic_chip *chip, uint8_t value)
{
    if (value & ICW1_START)
        write_icw1(chip, value);
    else if (value & OCW3_SELECT)
        write_ocw3(chip, value);
    else
        write_ocw2(chip, value);
}

/* The read after a poll command is an INTA of this chip alone. */
uint8_t mk_pic_chip_read_poll(struct mk_pic_chip *chip, int *taken)
{
    chip->poll = false;
    *taken = mk_pic_chip_wanted(chip);
    if (*taken < 0)
        return 0;
    mk_pic_chip_enter_service(chip, *taken);
    return (uint8_t)(0x80 | *taken);
}
