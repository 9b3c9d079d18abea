/* keymap.c - scancode set 1 with the US layout. Bit 7 of a code means that the key was released;
 * 0xe0 announces a key that the first PC did not have. Also compiled for the host tests. */
#include "keymap.h"

#define RELEASED 0x80
#define EXTENDED 0xe0
#define LEFT_SHIFT 0x2a
#define RIGHT_SHIFT 0x36
#define CTRL 0x1d
#define CAPS_LOCK 0x3a
#define KEYPAD_ENTER 0x1c
#define KEYPAD_SLASH 0x35

static const char plain[0x59] =
    "\0\0331234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 \0\0\0\0\0\0\0\0\0\0\0"
    "\0\000789-456+1230.\0\0\\\0";
static const char shifted[0x59] =
    "\0\033!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 \0\0\0\0\0\0\0\0\0\0\0"
    "\0\000789-456+1230.\0\0|\0";

static bool set_modifier(struct keymap *state, uint8_t key, bool pressed)
{
    if (key == LEFT_SHIFT || key == RIGHT_SHIFT)
        state->shift = pressed;
    else if (key == CTRL)
        state->ctrl = pressed;
    else if (key == CAPS_LOCK)
        state->caps ^= pressed;
    else
        return false;
    return true;
}

char keymap_feed(struct keymap *state, uint8_t code)
{
    bool extended = state->extended, pressed = !(code & RELEASED);
    uint8_t key = code & 0x7f;

    state->extended = code == EXTENDED;
    if (state->extended)
        return 0;
    if (extended && (key == LEFT_SHIFT || key == RIGHT_SHIFT))
        return 0; /* sent around some keys for the sake of very old programs */
    if (set_modifier(state, key, pressed) || !pressed || key >= sizeof plain)
        return 0;
    if (extended && key != KEYPAD_ENTER && key != KEYPAD_SLASH)
        return 0; /* arrows and the like */

    char c = state->shift ? shifted[key] : plain[key];
    bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    if (letter && state->ctrl)
        return c & 0x1f;
    return letter && state->caps ? c ^ 0x20 : c;
}
