/* selfmap.S - a page directory that maps itself, and entries that point outside RAM.
 *
 * The recursive mapping shows the tables at 0xffc00000 and the directory at 0xfffff000, and writing
 * there changes them. A 4 MiB page outside RAM reads all ones, as an empty bus does; a page table
 * outside RAM has no present entries, so that using it is a page fault. */
#define PAGED
#include "prot.inc"

#define DIRECTORY 0x200000
#define TABLE 0x201000
#define FRAME 0x300000
#define AREA 0x40000000
#define OUTSIDE_PAGE 0x50000000
#define OUTSIDE_TABLE 0x60000000
#define SELF_DIRECTORY 0xfffff000
#define SELF_TABLES 0xffc00000
#define NO_RAM 0x70000000           /* physical */

    directory DIRECTORY
    clear_page TABLE
    mov dword ptr [DIRECTORY + (AREA >> 20)], TABLE + P_KERNEL
    mov dword ptr [DIRECTORY + (OUTSIDE_PAGE >> 20)], NO_RAM + P_LARGE + P_KERNEL
    mov dword ptr [DIRECTORY + (OUTSIDE_TABLE >> 20)], NO_RAM + P_KERNEL
    mov dword ptr [DIRECTORY + 1023 * 4], DIRECTORY + P_KERNEL
    gate 14, page_fault
    load_cr3 DIRECTORY

    print "directory through itself: "
    mov eax, [SELF_DIRECTORY + 1023 * 4]
    and eax, 0xfffff01f             /* accessed and dirty are the processor's business */
    call puthex
    print "\n"

    /* Maps AREA through the window, then uses it. */
    mov dword ptr [SELF_TABLES + (AREA >> 10)], FRAME + P_KERNEL
    out PORT_NOBODY, al
    mov dword ptr [FRAME], 0x5e1f5e1f
    print "page mapped through the window: "
    printhex [AREA]
    print "\n"

    print "page outside RAM: "
    mov dword ptr [OUTSIDE_PAGE], 0
    printhex [OUTSIDE_PAGE]
    print "\n"

    print "table outside RAM: "
    mov eax, [OUTSIDE_TABLE + 0x123]
    print "read it\n"
    exit 1

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
