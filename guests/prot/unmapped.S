/* unmapped.S - jumps to an address that no page table maps, with no handler for the page fault. */
#define PAGED
#include "prot.inc"

    mov eax, 0x70000000
    jmp eax
