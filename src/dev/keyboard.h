/* keyboard.h - the keyboard of a PC and the bytes that it has for its controller, with which it
 * shares its state (i8042.h). */
#ifndef MK_DEV_KEYBOARD_H
#define MK_DEV_KEYBOARD_H

#include "dev/i8042.h"

/* The controller's command byte */
#define MK_I8042_NO_KEYBOARD 0x10
#define MK_I8042_TRANSLATE 0x40

/* Answers */
#define MK_KBD_RESEND 0xfe
#define MK_KBD_PASSED 0xaa
#define MK_KBD_BREAK 0x80

/* What waits for port 0x60: a byte, and of whom it is */
#define MK_FROM_KEYBOARD 0x100 /* passes the translation */
#define MK_FROM_AUX 0x200
#define MK_TIMED_OUT 0x400
#define MK_LET_GO 0x800 /* the second byte of such a key; translated, it stands for both */

/* The controller's translation of a byte that the keyboard sends. */
uint8_t mk_keyboard_to_set1(uint8_t byte);
/* Something waits for port 0x60, ahead of keys; the next of these. */
void mk_keyboard_reply(struct mk_i8042_state *s, uint16_t item);
uint16_t mk_keyboard_pop_reply(struct mk_i8042_state *s);
/* The next byte of a key as it gets to the controller. */
uint16_t mk_keyboard_next_key(struct mk_i8042_state *s);
/* A key waits, and may come. */
bool mk_keyboard_sends(const struct mk_i8042_state *s);
/* As after its reset. */
void mk_keyboard_defaults(struct mk_i8042_state *s);
/* A byte to the keyboard; sending one enables its interface. A command may come in place of a
 * parameter, and then the command it belonged to is void. */
void mk_keyboard_write(struct mk_i8042_state *s, uint8_t value);

#endif
