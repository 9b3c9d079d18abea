/* idt_outside.S - an IDT where no RAM is; for how an exception ends then. */
#include "prot.inc"

    lidt [idt_register]
    xor ecx, ecx
    div ecx
    exit 0

idt_register:
    .word 0x7ff
    .long 0x70000000
