/* keyboard.c - the i8042 keyboard controller: every IRQ 1 brings a scancode to port 0x60. */
#include "io.h"
#include "kernel.h"
#include "keymap.h"

#define OUTPUT_FULL 0x01 /* status bit: a byte waits at port 0x60 */
#define BURST 16         /* at most so many bytes an interrupt: nobody may keep us here for ever */

static struct keymap keymap;

void keyboard_init(void)
{
    if (inb(MK_PORT_KBD_STATUS) == 0xff) /* no controller */
        return;
    for (int n = 0; n < BURST && inb(MK_PORT_KBD_STATUS) & OUTPUT_FULL; n++)
        inb(MK_PORT_KBD_DATA); /* a full buffer would never interrupt again */
    irq_enable(1);
}

void keyboard_interrupt(void)
{
    for (int n = 0; n < BURST && inb(MK_PORT_KBD_STATUS) & OUTPUT_FULL; n++) {
        char c = keymap_feed(&keymap, inb(MK_PORT_KBD_DATA));
        if (c)
            console_push(c);
    }
}
