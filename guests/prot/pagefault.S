/* pagefault.S - page tables of its own, and pages mapped by the page-fault handler on demand.
 *
 * A read and a write of an absent page, a write of a read-only one, a jump into an absent one: the
 * handler prints error code and address (SDM vol. 3, 6.15), maps the page and returns. It does not
 * print EIP: where paging is assisted, a write that faults saves that of the next instruction. */
#define PAGED
#include "prot.inc"

#define DIRECTORY 0x200000
#define TABLE 0x201000      /* for AREA */
#define FRAMES 0x300000     /* page n of AREA is mapped to frame n */
#define AREA 0x40000000

    directory DIRECTORY
    clear_page TABLE
    mov dword ptr [DIRECTORY + (AREA >> 20)], TABLE + P_KERNEL
    mov dword ptr [TABLE + 2 * 4], FRAMES + 2 * 0x1000 + P_PRESENT
    gate 14, page_fault
    load_cr3 DIRECTORY

    mov dword ptr [FRAMES + 0x10], 0x600dbeef
    print "read:  "
    mov ebx, [AREA + 0x10]
    call arrived
    print "write: "
    mov dword ptr [AREA + 0x1ffc], 0x5eed5eed
    mov ebx, [FRAMES + 0x1ffc]
    call arrived
    print "write to a read-only page: "
    mov dword ptr [AREA + 0x2004], 0x0b5e55ed
    mov ebx, [FRAMES + 0x2004]
    call arrived
    print "jump:  "
    mov word ptr [FRAMES + 0x3000], 0xc3c3  /* ret */
    mov eax, AREA + 0x3000
    call eax
    print ", came back\n"
    print "page faults: "
    mov eax, [faults]
    call putdec
    print "\n"
    exit 0

/* Prints what the access left, in EBX. */
arrived:
    print ", value "
    printhex ebx
    print "\n"
    ret

page_fault:
    pushad
    inc dword ptr [faults]
    print "error "
    mov eax, [esp + 32]
    call putdec
    print " at "
    mov edx, cr2
    printhex edx
    lea ebx, [edx - AREA]
    shr ebx, 12             /* which page of AREA */
    cmp ebx, 1024
    jae stray
    mov eax, ebx
    shl eax, 12
    add eax, FRAMES + P_KERNEL
    mov [TABLE + ebx * 4], eax
    invlpg [edx]            /* a read-only page may be in the TLB */
    popad
    add esp, 4              /* the error code */
    iret
stray:
    print ", a stray one\n"
    exit 1

    puts_body
    puthex_body
    putdec_body

.data
faults:
    .long 0
