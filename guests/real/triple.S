/* triple.S - a triple fault; for the reason `shutdown`.
 *
 * In protected mode, because KVM's instruction emulator, which runs real mode on some hosts, does
 * not look at the limit of the real-mode IVT. The divide error finds no gate, nor does the #GP, nor
 * the #DF that follow (Intel SDM vol. 3, 6.15). */
#include "real.inc"

    lidt [no_idt]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    div cx              /* CX is 0; int3 or ud2 that emulator may refuse */

no_idt:
    .word 0             /* limit: one byte, less than any gate */
    .long 0
