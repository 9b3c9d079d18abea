/* fill.S - touches all of its memory, page by page, and goes on behind its end. */

.section .text.start, "ax"
.global _start
_start:
    li a1, 0x40000000
    li a2, 4096
    add a1, a1, a2                  # not the page of this code
1:  ld a0, (a1)
    bnez a0, 2f
    sd a1, (a1)
    add a1, a1, a2
    j 1b
2:  ebreak                          # somebody else's memory
