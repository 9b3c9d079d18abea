/* cr3switch.S - two page directories show different data at one address; CR3 goes back and forth.
 * Where paging is assisted, a new CR3 counts from the next exit on: load_cr3 makes one. */
#define PAGED
#include "prot.inc"

#define FIRST 0x200000      /* directories, each with a table behind it */
#define SECOND 0x202000
#define FRAMES 0x300000
#define AREA 0x40000000

.macro space directory, frame
    directory \directory
    clear_page (\directory + 0x1000)
    mov dword ptr [\directory + (AREA >> 20)], \directory + 0x1000 + P_KERNEL
    mov dword ptr [\directory + 0x1000], \frame + P_KERNEL
.endm

    space FIRST, FRAMES
    space SECOND, FRAMES + 0x1000
    mov dword ptr [FRAMES], 0x11111111
    mov dword ptr [FRAMES + 0x1000], 0x22222222
    mov ebp, 3
1:  load_cr3 FIRST
    add dword ptr [AREA], 1
    printhex [AREA]
    print " "
    load_cr3 SECOND
    add dword ptr [AREA], 0x10
    printhex [AREA]
    print "\n"
    dec ebp
    jnz 1b
    exit 0

    puts_body
    puthex_body
