/* exitport.S - ends the VM by a 32-bit OUT of 7 to the exit port; for the port itself and for the
 * value reaching the caller as it is. */
#include "real.inc"

    mov eax, 7
    mov dx, MK_PORT_EXIT
    out dx, eax
