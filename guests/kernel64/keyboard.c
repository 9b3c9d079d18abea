/* keyboard.c - the i8042 keyboard: each IRQ 1 brings a scancode of set 1 to port 0x60.
 *
 * The handler turns scancodes into characters and puts them into a ring, from which the thread that
 * reads takes them. A full ring leaves the rest to the controller, which then waits. */
#include "kernel.h"

#define OUTPUT_FULL 0x01 /* status bit: a byte waits at port 0x60 */
#define RELEASED 0x80
#define EXTENDED 0xe0 /* announces a key that the first PC did not have */
#define LEFT_SHIFT 0x2a
#define RIGHT_SHIFT 0x36
#define RING 64 /* a power of two */

static const char plain[] =
    "\0\0331234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";
static const char shifted[] =
    "\0\033!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 ";

static bool shift, extended;
static char ring[RING];
static volatile unsigned ring_in, ring_out;

/* 0 for a code that makes no character. */
static char decode(uint8_t code)
{
    uint8_t key = code & 0x7f;
    bool pressed = !(code & RELEASED), was_extended = extended;

    extended = code == EXTENDED;
    if (extended || was_extended)
        return 0;
    if (key == LEFT_SHIFT || key == RIGHT_SHIFT) {
        shift = pressed;
        return 0;
    }
    return pressed && key < sizeof(plain) ? (shift ? shifted : plain)[key] : 0;
}

/* Interrupts are off. */
void keyboard_interrupt(void)
{
    while (ring_in - ring_out < RING && inb(MK_PORT_KBD_STATUS) & OUTPUT_FULL) {
        char c = decode(inb(MK_PORT_KBD_DATA));
        if (c)
            ring[ring_in++ % RING] = c;
    }
    if (ring_in != ring_out)
        threads[0].waiting = false;
}

void keyboard_init(void)
{
    if (inb(MK_PORT_KBD_STATUS) == 0xff) /* no controller */
        return;
    irq_enable(1);
    keyboard_interrupt(); /* what came before has interrupted in vain */
}

char keyboard_read(void)
{
    char c;

    interrupts_off();
    while (ring_in == ring_out) {
        current->waiting = true;
        thread_yield(); /* back when keyboard_interrupt() has something */
    }
    if (ring_in - ring_out == RING) { /* the controller waits for room */
        c = ring[ring_out++ % RING];
        keyboard_interrupt();
    } else {
        c = ring[ring_out++ % RING];
    }
    interrupts_on();
    return c;
}
