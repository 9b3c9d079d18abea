/* keymap.h - from scancodes to characters. */
#ifndef KEYMAP_H
#define KEYMAP_H

#include <stdbool.h>
#include <stdint.h>

struct keymap {
    bool shift, ctrl, caps, extended;
};

/* Takes one byte of scancode set 1; returns the character it completes, or 0 for none. */
char keymap_feed(struct keymap *state, uint8_t code);

#endif
