/* start.S - a guest's first instructions in long mode.
 *
 * The VMM has mapped all RAM at its own addresses and made a stack; RBX holds the address of the
 * boot information. What is left to do is what C expects: zeros in .bss. */
.intel_syntax noprefix
#include "abi.h"

.section .text.start, "ax"
.global _start
_start:
    cld
    mov edi, offset bss_start       /* a flat image carries no zeros */
    mov ecx, offset bss_words
    xor eax, eax
    rep stosq
    mov [boot], rbx
    and rsp, -16                    /* the calling convention wants 16 bytes at every call */
    xor ebp, ebp                    /* the end of the chain of frames, for debuggers */
    call main
    mov edi, eax
    call exit

.section .note.GNU-stack, "", @progbits
