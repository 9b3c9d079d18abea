/* primes.S - the primes up to 100, found by trial division. */
#include "real.inc"

    mov cx, 2
    jmp print           /* 2 is prime, and the only one with no space before it */
next:
    inc cx
    cmp cx, 100
    ja done
    mov si, 2
divide:
    mov ax, si
    mul si
    cmp ax, cx
    ja prime            /* no divisor up to the square root */
    mov ax, cx
    xor dx, dx
    div si
    test dx, dx
    jz next
    inc si
    jmp divide
prime:
    putchar ' '
print:
    mov ax, cx
    call putdec
    jmp next
done:
    putchar '\n'
    hlt

    putdec_body
