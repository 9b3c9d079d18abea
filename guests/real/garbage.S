/* garbage.S - executes an invalid opcode with no handler; for a guest that has gone astray.
 *
 * Vector 6 of the empty IVT is 0000:0000, which in the first window is the start of this image: a
 * storm of exceptions without an exit, that only a deadline ends. In another window it leads
 * through empty memory instead, for as long. */
#include "real.inc"

    mov sp, MK_REAL_SP  /* each #UD pushes 6 bytes: they must not creep down to the image */
    .byte 0x8e, 0xc8    /* mov cs, ax; ud2 KVM's emulator refuses in some windows */

    .org 0x40           /* the image lies over the IVT: keep its vectors 2 to 15 empty */
