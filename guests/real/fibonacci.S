/* fibonacci.S - the first 15 Fibonacci numbers. */
#include "real.inc"

    xor si, si          /* this number */
    mov di, 1           /* the next */
    mov cx, 15
1:  mov ax, si
    call putdec
    add si, di
    xchg si, di
    dec cx
    jz 2f
    putchar ' '
    jmp 1b
2:  putchar '\n'
    hlt

    putdec_body
