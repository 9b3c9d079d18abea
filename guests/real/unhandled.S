/* unhandled.S - reads and writes ports nobody serves, in every width; for counting, tracing and
 * forbidding such accesses. */
#include "real.inc"

    mov dx, 0x3000
    in al, dx
    in ax, dx
    in eax, dx
    out dx, al
    out dx, ax
    out dx, eax
    hlt
