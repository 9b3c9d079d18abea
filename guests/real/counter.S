/* counter.S - counts from 0 to 9. */
#include "real.inc"

    mov cl, '0'
1:  putchar cl
    cmp cl, '9'
    je 2f
    putchar ' '
    inc cl
    jmp 1b
2:  putchar '\n'
    hlt
