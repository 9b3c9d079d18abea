/* badstack.S - a TSS whose stack for CPL 0 is not mapped: an exception at CPL 3 cannot be
 * delivered, nor the double fault that follows. */
#define PAGED
#include "prot.inc"

    gate 6, handler
    gate 8, handler
    gate 14, handler
    kernel_stack
    mov dword ptr [MK_TSS_BASE + 4], 0x70000000
    enter_user "offset user", 0x300000
user:
    .byte 0x0f, 0x0b    /* ud2 */
handler:
    exit 1
