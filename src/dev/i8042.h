/* i8042.h - PC keyboard controller (ports 0x60, 0x64) with a keyboard, and a typist for it.
 *
 * Guests use the ports from vCPU threads; the host may type from any thread. What is typed waits in
 * a queue of whole keys until the guest lets the keyboard send. Hooks and `irq` are called without
 * the lock held. */
#ifndef MK_DEV_I8042_H
#define MK_DEV_I8042_H

#include "dev/dev.h"
#include "base/err.h"

#include <pthread.h>

#define MK_I8042_KEYS 4096 /* scancode bytes that wait */
#define MK_I8042_REPLIES 16
#define MK_KEYBOARD_CHORD 16 /* keys pressed at once by mk_keyboard_press() */

struct mk_bus;

/* All that a guest can see. */
struct mk_i8042_state {
    uint16_t head, count;           /* of keys[], as scancode set 1 */
    uint8_t reply_head, reply_count; /* of replies[]: the answers to commands, ahead of keys */
    uint8_t config;       /* the controller's command byte */
    uint8_t output_port;
    uint8_t output, last; /* in port 0x60; the keyboard's last byte, for its resend command */
    uint8_t parameter_of; /* controller command whose parameter port 0x60 takes next; 0: none */
    uint8_t keyboard_parameter_of; /* the same for the keyboard's commands */
    uint8_t set;          /* scancode set, 1 or 2 */
    uint8_t leds, typematic;
    uint8_t carry;        /* second byte of a translated key, 0: none */
    uint8_t full;         /* flags from here on: output waits to be read */
    uint8_t to_command;   /* the last byte written went to port 0x64 */
    uint8_t scanning;
    uint8_t line;         /* level of the interrupt line */
    uint8_t replies[MK_I8042_REPLIES];
    uint8_t keys[MK_I8042_KEYS];
};

struct mk_i8042 {
    pthread_mutex_t lock;
    struct mk_i8042_state state;
    struct mk_irq irq;
    bool settling, drop;
    /* The guest took so much that only a quarter of the queue is left: type on. May be NULL. */
    void (*on_room)(void *ctx);
    void *room_ctx;
};

extern const struct mk_io_ops mk_i8042_ops; /* 0x60 and 0x64 */

void mk_i8042_init(struct mk_i8042 *kbd, struct mk_irq irq);
void mk_i8042_free(struct mk_i8042 *kbd);
/* As a PC's firmware leaves it: enabled, translating to set 1, interrupting. Empties the queue. */
void mk_i8042_reset(struct mk_i8042 *kbd);
int mk_i8042_attach(struct mk_i8042 *kbd, struct mk_bus *bus, struct mk_err *err);

/* Queues set 1 scancodes, all of them or, with ENOBUFS, none. */
int mk_i8042_key(struct mk_i8042 *kbd, const uint8_t *scancodes, size_t n, struct mk_err *err);
/* Scancode bytes that wait for the guest. */
size_t mk_i8042_queued(struct mk_i8042 *kbd);

/* Types ASCII on a US keyboard; \n is enter, \b and DEL are backspace, other control characters are
 * Ctrl with a letter. EINVAL, and nothing typed, when a byte has no key; ENOBUFS when the queue got
 * full. *typed (may be NULL) is how many characters were typed, also then. */
int mk_keyboard_type(struct mk_i8042 *kbd, const char *text, size_t length, size_t *typed,
                     struct mk_err *err);
/* Presses keys in order and releases them in reverse: "ctrl", "c"; "f1"; "alt", "tab"; "A". A
 * one-character name is the key that types it, with shift if that is needed. */
int mk_keyboard_press(struct mk_i8042 *kbd, const char *const *names, size_t n,
                      struct mk_err *err);

void mk_i8042_save(struct mk_i8042 *kbd, struct mk_i8042_state *state);
/* -1 with EINVAL, and nothing changed, for a state that mk_i8042_save() cannot have written. */
int mk_i8042_load(struct mk_i8042 *kbd, const struct mk_i8042_state *state, struct mk_err *err);

#endif
