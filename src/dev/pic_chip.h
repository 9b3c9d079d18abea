/* pic_chip.h - an 8259A, of which a PC has two (pic.h). */
#ifndef MK_DEV_PIC_CHIP_H
#define MK_DEV_PIC_CHIP_H

#include <stdbool.h>
#include <stdint.h>

#define MK_PIC_CASCADE 2 /* master input that the slave's INT drives */
#define MK_PIC_BIT(n) ((uint8_t)(1u << (n)))

/* One 8259A. Bit n of a register is its input n. */
struct mk_pic_chip {
    uint8_t line;        /* input levels: somebody holds them up, */
    uint8_t own, shared; /* a device whose line it is, or the router of PCI's interrupts */
    uint8_t edge;        /* rose and not yet acknowledged; drops with the input */
    uint8_t isr, imr;
    uint8_t elcr;   /* level-triggered inputs */
    uint8_t pulse;  /* inputs that go down by themselves when acknowledged */
    uint8_t lowest; /* the input of lowest priority; the next one has the highest */
    uint8_t base;   /* vector of input 0 */
    uint8_t icw1, icw3, icw4;
    uint8_t step;          /* which ICW the next write to the odd port is; 0: it is OCW1 */
    uint8_t master, ready; /* flags from here on; ready: initialisation is complete */
    uint8_t read_isr, poll, special_mask, rotate_aeoi;
};

/* The input that the slave hangs on, as a bit; 0: none. */
uint8_t mk_pic_chip_cascade(const struct mk_pic_chip *chip);
/* The requests: inputs that are up, or have risen. */
uint8_t mk_pic_chip_irr(const struct mk_pic_chip *chip);
/* The input that INT is up for, or -1. */
int mk_pic_chip_wanted(const struct mk_pic_chip *chip);
/* The level of an input, and what it is when it follows who holds it up. */
void mk_pic_chip_line(struct mk_pic_chip *chip, unsigned input, bool level);
void mk_pic_chip_drive(struct mk_pic_chip *chip, unsigned input);
/* What INTA does to one chip. */
void mk_pic_chip_enter_service(struct mk_pic_chip *chip, int input);
/* Bytes to its odd port, and to its even one. */
void mk_pic_chip_write_odd(struct mk_pic_chip *chip, uint8_t value);
void mk_pic_chip_write_even(struct mk_pic_chip *chip, uint8_t value);
/* The read after a poll command is an INTA of this chip alone. */
uint8_t mk_pic_chip_read_poll(struct mk_pic_chip *chip, int *taken);

#endif
