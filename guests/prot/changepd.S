/* changepd.S - page tables that change while they are in use: a page gets another frame, then
 * none; a 4 MiB entry becomes a table. Where paging is assisted, an exit makes it count: hence the
 * OUTs. */
#define PAGED
#include "prot.inc"

#define DIRECTORY 0x200000
#define TABLE 0x201000
#define FRAME_A 0x300000
#define FRAME_B 0x301000
#define AREA 0x40000000

    directory DIRECTORY
    clear_page TABLE
    mov dword ptr [DIRECTORY + (AREA >> 20)], TABLE + P_KERNEL
    mov dword ptr [TABLE], FRAME_A + P_KERNEL
    gate 14, page_fault
    load_cr3 DIRECTORY
    mov dword ptr [FRAME_A], 0xaaaaaaaa
    mov dword ptr [FRAME_B], 0xbbbbbbbb

    call show
    mov dword ptr [TABLE], FRAME_B + P_KERNEL
    call changed
    call show
    mov dword ptr [AREA], 0xb0b0b0b0    /* reaches B, not A */
    printhex [FRAME_A]
    print " "
    printhex [FRAME_B]
    print " are the frames\n"

    mov dword ptr [DIRECTORY + (AREA >> 20)], P_KERNEL | P_LARGE
    mov dword ptr [0], 0xcccccccc
    call changed
    call show
    mov dword ptr [DIRECTORY + (AREA >> 20)], TABLE + P_KERNEL
    call changed
    call show
    mov dword ptr [TABLE], 0
    call changed
    call show
    exit 1

show:
    printhex [AREA]
    print " is seen\n"
    ret

changed:
    invlpg [AREA]
    out PORT_NOBODY, al
    ret

page_fault:
    print "page fault, error "
    printhex [esp]
    print " at "
    mov eax, cr2
    call puthex
    print "\n"
    exit 0

    puts_body
    puthex_body
