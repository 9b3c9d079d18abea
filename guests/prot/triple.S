/* triple.S - a triple fault: a divide error with an IDT that is too short for any gate. */
#include "prot.inc"

    lidt [no_idt]
    xor ecx, ecx
    div ecx             /* no gate for it, nor for the #GP, nor for the #DF that follow */

no_idt:
    .word 0
    .long 0
