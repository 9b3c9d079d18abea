/* boot.S - the kernel's first instructions.
 *
 * The VMM has done what a boot loader would: 32-bit protected mode, paging on with its own page
 * directory, this image at physical 0x1000 and visible at 0x80001000, where execution starts with
 * interrupts off. EBX holds the physical address of the boot information, or anything at all. */
.intel_syntax noprefix

.section .text.boot, "ax"
.global _start
_start:
    cli
    cld
    mov esp, offset stack_top

    xor eax, eax                    # a flat image carries no zeros for .bss
    mov edi, offset bss_start
    mov ecx, offset bss_words
    rep stosd

    push ebx
    call kernel_main                # does not return
halt:
    hlt
    jmp halt
