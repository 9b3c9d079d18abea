/* i8042.h - PC keyboard controller (ports 0x60, 0x64) with a keyboard;
 * lua/minikvm/console/keyboard.lua types at it.
 *
 * Guests use the ports from vCPU threads; the host may type from any thread. What is typed waits in
 * a queue until the guest lets the keyboard send. */
#ifndef MK_DEV_I8042_H
#define MK_DEV_I8042_H

#include "base/err.h"
#include "dev/dev.h"

#include <pthread.h>

#define MK_I8042_KEYS 4096 /* scancode bytes that wait */
#define MK_I8042_REPLIES 16

/* All that a guest can see. */
struct mk_i8042_state {
    uint16_t head, count;               /* of keys[], as scancode set 1 */
    uint16_t source;                    /* of the byte in port 0x60 */
    uint16_t last;                      /* what the keyboard sent last, for its resend command */
    uint16_t replies[MK_I8042_REPLIES]; /* answers to commands, ahead of keys */
    uint8_t reply_head, reply_count;
    uint8_t ram[32]; /* of the controller; the first is its command byte */
    uint8_t output_port;
    uint8_t output;       /* in port 0x60 */
    uint8_t poll;         /* upper half of the status while `polling` */
    uint8_t parameter_of; /* controller command whose parameter port 0x60 takes next; 0: none */
    uint8_t keyboard_parameter_of; /* the same for the keyboard's commands */
    uint8_t set;                   /* scancode set, 1 or 2 */
    uint8_t leds, typematic;
    uint8_t carry;      /* second byte of a key in set 2, 0: none */
    uint8_t full;       /* flags from here on: output waits to be read */
    uint8_t to_command; /* the last byte written went to port 0x64 */
    uint8_t polling;
    uint8_t scanning;
    uint8_t keys[MK_I8042_KEYS];
};

struct mk_i8042 {
    struct mk_dev dev;
    struct mk_i8042_state state;
    struct mk_irq irq[2]; /* the keyboard's, the auxiliary port's */
};

/* At power-up as a PC's firmware leaves it: enabled, translating to set 1, interrupting. */
struct mk_dev *mk_i8042_init(struct mk_i8042 *kbd, struct mk_irq keyboard, struct mk_irq aux);
extern const struct mk_dev_ops mk_i8042_dev;

/* Queues set 1 scancodes, all of them or, when there is no room, none. */
bool mk_i8042_key(struct mk_i8042 *kbd, const uint8_t *scancodes, size_t n);
/* Scancode bytes that wait for the guest; its LEDs: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock. */
size_t mk_i8042_queued(struct mk_i8042 *kbd, uint8_t *leds);

#endif
