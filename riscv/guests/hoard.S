/* hoard.S - takes all of its memory, and keeps it. */

.section .text.start, "ax"
.global _start
_start:
    li a1, 0x40000000
    li a2, 0x40800000
    li a3, 4096
1:  ld a0, (a1)
    add a1, a1, a3
    bltu a1, a2, 1b
2:  j 2b
