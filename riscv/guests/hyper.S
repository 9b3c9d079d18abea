/* hyper.S - tries to be a hypervisor itself: to switch off the second stage it is in. */

.section .text.start, "ax"
.global _start
_start:
    csrw hgatp, zero
1:  j 1b
