/* spin.S - never leaves by itself. */

.section .text.start, "ax"
.global _start
_start:
    j _start
