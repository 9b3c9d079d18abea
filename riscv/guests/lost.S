/* lost.S - an illegal instruction, with the handler of such at an address that is not there. */

.section .text.start, "ax"
.global _start
_start:
    csrw stvec, zero
    unimp
