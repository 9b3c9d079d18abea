/* jumpout.S - jumps to 0x10ffe0, behind the end of a 1 MiB RAM; for a fetch from no memory. */
#include "real.inc"

    .byte 0xea          /* jmp 0xffff:0xfff0, which assemblers spell differently */
    .word 0xfff0, 0xffff
