/* flood_hypercall.S - prints by hypercall for ever; for output limits, and for stopping a vCPU that
 * exits all the time. */
#include "real.inc"

    mov bl, 'x'
1:  hypercall MK_HC_PUTCHAR
    jmp 1b
