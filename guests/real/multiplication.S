/* multiplication.S - the tables from 2 x 1 to 9 x 9, one product a line, a blank line between two
 * tables. */
#include "real.inc"

    mov cx, 0x0201      /* CH is the table, CL the factor */
line:
    movzx ax, ch
    call putdec
    mov si, offset times
    call puts
    movzx ax, cl
    call putdec
    mov si, offset equals
    call puts
    mov al, ch
    mul cl
    call putdec
    putchar '\n'
    inc cl
    cmp cl, 10
    jb line
    mov cl, 1
    inc ch
    cmp ch, 10
    je 1f
    putchar '\n'
    jmp line
1:  hlt

    puts_body
    putdec_body

times:
    .asciz " x "
equals:
    .asciz " = "
