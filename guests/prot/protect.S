/* protect.S - what a program at CPL 3 must not do; only a KVM with 32-bit paging of its own forbids
 * it. The handler prints the fault and goes on at the address in EDI.
 *
 * It also changes CR3 and reads with no exit in between. */
#define PAGED
#include "prot.inc"

#define DIRECTORY 0x200000
#define TABLE 0x201000
#define OTHER 0x202000          /* a directory with another page at KERNEL_PAGE */
#define OTHER_TABLE 0x203000
#define FRAMES 0x300000
#define AREA 0x40000000
#define CODE_PAGE AREA          /* user, read-only */
#define KERNEL_PAGE (AREA + 0x1000)
#define USER_STACK (AREA + 0x3000)

.macro space directory, table, frame
    directory \directory
    clear_page \table
    mov dword ptr [\directory + (AREA >> 20)], \table + P_USER
    mov dword ptr [\table], FRAMES + 0x05                       /* user, read-only */
    mov dword ptr [\table + 4], \frame + P_KERNEL
    mov dword ptr [\table + 8], FRAMES + 0x2000 + P_USER
.endm

    space DIRECTORY, TABLE, FRAMES + 0x1000
    space OTHER, OTHER_TABLE, FRAMES + 0x3000
    mov dword ptr [FRAMES + 0x1000], 1
    mov dword ptr [FRAMES + 0x3000], 2
    mov esi, offset user
    mov edi, FRAMES
    mov ecx, offset user_end - user
    rep movsb
    mov eax, OTHER
    mov cr3, eax
    mov ebx, [KERNEL_PAGE]
    mov eax, DIRECTORY
    mov cr3, eax
    shl ebx, 4
    or ebx, [KERNEL_PAGE]
    print "two address spaces: "
    printhex ebx
    print "\n"
    gate 13, protection
    gate 14, page_fault
    gate 0x80, finished, 0xee00
    kernel_stack
    enter_user CODE_PAGE, USER_STACK

/* Runs at CODE_PAGE. */
.macro forbidden text, instruction:vararg
    .pushsection .rodata
.Lwhat\@:
    .asciz "\text"
    .popsection
    mov ebp, offset .Lwhat\@
    mov edi, CODE_PAGE + (.Lnext\@ - user)
    \instruction
.Lnext\@:
.endm

user:
    forbidden "read a kernel page", mov eax, [KERNEL_PAGE]
    forbidden "write a kernel page", mov [KERNEL_PAGE], eax
    forbidden "write a read-only page", mov [CODE_PAGE], eax
    forbidden "hlt", hlt
    forbidden "cli", cli
    forbidden "out", out PORT_NOBODY, al
    forbidden "mov cr3", mov cr3, eax
    forbidden "a gate of the kernel's", int 14
    int 0x80
user_end:

page_fault:
    pushad
    call say
    print "page fault, error "
    jmp go_on
protection:
    pushad
    call say
    print "general protection, error "
go_on:
    printhex [esp + 32]
    print "\n"
    popad
    add esp, 4
    mov [esp], edi
    iret

say:
    mov esi, ebp
    call puts
    print ": "
    ret

finished:
    exit 0

    puts_body
    puthex_body
