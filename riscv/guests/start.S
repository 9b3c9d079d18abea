/* start.S - the first instructions of guests written in C: a stack, and main.
 *
 * What the image does not have of .bss is zero, because memory that the hypervisor gives is. */

.section .text.start, "ax"
.global _start
_start:
    la sp, stack_top
    call main
    call shut_down
