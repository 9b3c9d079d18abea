/* relocatable.S - a Multiboot2 kernel without ELF, which may be anywhere in 1 MiB to 48 MiB and wants
 * to be as high as possible: Multiboot2 Specification 2.0, 3.1.5, 3.1.6 and 3.1.12 (tags of its header:
 * address, entry address, relocatable), 3.6.15 (what it is told: its base). */
#include "abi.h"

    .intel_syntax noprefix
    .code32
    .text

    .set MAGIC, 0xe85250d6
    .set LINKED, 0x200000           /* where the addresses of the header are */

base:
    .align 8
header:
    .long MAGIC, 0, header_end - header, -(MAGIC + (header_end - header))
    .short 2, 0                     /* address: header, load, load end, bss end */
    .long 24, LINKED + header - base, LINKED, LINKED + end - base, LINKED + bss_end - base
    .short 3, 0                     /* entry address */
    .long 12, LINKED + start - base, 0
    .short 10, 0                    /* relocatable: from, to, alignment, as high as possible */
    .long 24, 0x100000, 0x2ffffff, 0x200000, 2
    .short 0, 0
    .long 8
header_end:

/* EBX: the information. Without a stack: EBP is where this is. */
start:
    mov edi, ebx
    mov esp, ebx                    /* a word that can be written for CALL: the information's first */
    add esp, 4
    call here
here:
    pop ebp
    sub ebp, here - base            /* the address of `base` */
    lea esp, [ebp + bss_end - base]
    add edi, 8
next:                               /* the tag with the base, of type 21 */
    mov eax, [edi]
    cmp eax, 21
    je found
    test eax, eax
    jz missing
    mov eax, [edi + 4]
    add eax, 7
    and eax, -8
    add edi, eax
    jmp next

found:
    cmp [edi + 8], ebp
    jne missing
    lea esi, [ebp + text - base]
    call print
    mov ebx, ebp
    mov ecx, 8
digit:
    rol ebx, 4
    mov eax, ebx
    and eax, 15
    mov al, [ebp + eax + digits - base]
    out MK_PORT_DEBUGCON, al
    loop digit
    mov al, 10
    out MK_PORT_DEBUGCON, al
    cmp dword ptr [ebp + end - base], 0 /* bss is zero */
    jne missing
    hlt

missing:
    lea esi, [ebp + wrong - base]
    call print
    hlt

print:
    lodsb
    test al, al
    jz printed
    out MK_PORT_DEBUGCON, al
    jmp print
printed:
    ret

digits:
    .ascii "0123456789abcdef"
text:
    .asciz "at its base, 0x"
wrong:
    .asciz "WRONG\n"
    .align 8
end:
    .set bss_end, end + 0x2000
