/* flood.S - writes to the debug console for ever; for output limits and coalesced port I/O. */
#include "real.inc"

    mov al, 'x'
1:  out MK_PORT_DEBUGCON, al
    jmp 1b
