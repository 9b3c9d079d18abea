/* modeswitch.S - starts in real mode and switches to 32-bit protected mode by itself (SDM vol. 3,
 * 9.9.1), with a GDT of its own; prints from both. Made for the window of vCPU 0, at address 0. */
#include "../real/real.inc"
.globl real
.set real, 1

    cli
    mov si, offset in_real
    call puts
    lgdt [gdt_register]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp 0x08:protected      /* loads CS; until then the code is 16-bit still */

    puts_body

.code32
protected:
    mov eax, 0x10
    mov ds, eax
    mov ss, eax
    mov esp, 0x20000        /* an address that 16 bits do not hold */
    push offset in_protected
    pop esi
1:  lodsb
    test al, al
    jz 2f
    putchar al
    jmp 1b
2:  mov eax, 0x12345678
    mov [0x12345], eax      /* likewise */
    cmp eax, [0x12345]
    jne 3f
    exit 0
3:  exit 1

in_real:
    .asciz "16-bit real mode\n"
in_protected:
    .asciz "32-bit protected mode\n"

    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_register:
    .word . - gdt - 1
    .long gdt
