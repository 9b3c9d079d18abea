/* boot.S - the kernel's first instructions.
 *
 * The VMM has done what a boot loader would: 64-bit mode, all RAM mapped at its own addresses, this
 * image at 0x1000, interrupts off. The stack it made becomes that of thread 0. */
.intel_syntax noprefix

.section .text.boot, "ax"
.global _start
_start:
    cld
    mov edi, offset bss_start       /* a flat image carries no zeros for .bss */
    mov ecx, offset bss_words
    xor eax, eax
    rep stosq
    and rsp, -16
    call kernel_main                /* does not return */

.section .note.GNU-stack, "", @progbits
