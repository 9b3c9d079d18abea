/* write.S - stores to where the hypervisor's code is. */

.section .text.start, "ax"
.global _start
_start:
    li a1, 0x80200000
    li a0, 0
    sd a0, (a1)
1:  j 1b
