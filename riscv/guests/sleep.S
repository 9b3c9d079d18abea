/* sleep.S - waits for an interrupt, and there is none that could come. */

.section .text.start, "ax"
.global _start
_start:
    wfi
    j _start
