/* paging.S - starts with paging off, switches it on with page tables of its own, jumps to the upper
 * half, and switches it off again (SDM vol. 3, 9.8.3 and 9.8.5). */
#include "prot.inc"

#define DIRECTORY 0x200000
#define TABLE 0x201000
#define AREA 0x40000000

    directory DIRECTORY
    clear_page TABLE
    mov dword ptr [DIRECTORY + (AREA >> 20)], TABLE + P_KERNEL
    mov dword ptr [TABLE + 5 * 4], 0x300000 + P_KERNEL
    mov dword ptr [0x300008], 0x12345678
    mov eax, cr4
    or eax, 0x10                /* PSE: 4 MiB pages */
    mov cr4, eax
    mov eax, DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000          /* PG, WP */
    mov cr0, eax
    mov eax, offset high + MK_HIGH_BASE
    jmp eax
high:
    call next
next:
    pop ebx
    sub ebx, offset next - high
    print "paging on: runs at "
    printhex ebx
    print ", reads "
    printhex [AREA + 0x5008]
    print "\n"
    mov eax, offset low
    jmp eax
low:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    jmp off
off:
    print "paging off: reads "
    printhex [0x300008]
    print "\n"
    exit 0

    puts_body
    puthex_body
