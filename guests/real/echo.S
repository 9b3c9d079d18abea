/* echo.S - gives back every byte of its console input, NUL and 0xff too, until the input ends.
 *
 * The 16-bit IN tells "none yet" from a byte and from the end. The guest just polls again: parking
 * a vCPU that has nothing to read is the VMM's business. */
#include "real.inc"

next:
    hypercall MK_HC_GETCHAR
    in ax, dx
    cmp ah, MK_GETCHAR_NONE
    je next
    ja done             /* MK_GETCHAR_EOF */
    putchar al
    jmp next
done:
    exit 0
