/* hello.S - prints a greeting, one call of the SBI and so one exit a character, and shuts down. */

.section .text.start, "ax"
.global _start
_start:
    la s0, text
1:  lbu a0, (s0)
    beqz a0, 2f
    li a7, 1                        # legacy: console putchar
    ecall
    addi s0, s0, 1
    j 1b
2:  li a7, 0x53525354               # "SRST", function 0: shutdown
    li a6, 0
    li a0, 0
    li a1, 0
    ecall

text:
    .asciz "Hello, RISC-V!\n"
