/* hello.S - prints a greeting, one PUTCHAR and so one exit a character, and halts. */
#include "real.inc"

    mov si, offset text
    call puts
    hlt

    puts_body

text:
    .asciz "Hello, KVM!\n"
