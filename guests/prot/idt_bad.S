/* idt_bad.S - interrupts through bad gates (SDM vol. 3, 6.12 and 6.13): an absent one, one of a
 * wrong type, one behind the IDT's limit, one with an empty code selector. Each gives a fault with
 * the gate in its error code. At last a gate with no handler that could help: a triple fault. */
#include "prot.inc"

    gate 11, not_present
    gate 13, protection
    gate 0x31, never, 0x0e00    /* absent */
    gate 0x32, never, 0x8200    /* an LDT's type */
    gate 0x33, never
    mov word ptr [MK_IDT_BASE + 0x33 * 8 + 2], 0
    lidt [short_idt]
    print "absent: "
    int 0x31
    print "wrong type: "
    int 0x32
    print "no selector: "
    int 0x33
    print "behind the limit: "
    int 0x50
    print "no gate left\n"
    mov word ptr [MK_IDT_BASE + 11 * 8 + 4], 0
    mov word ptr [MK_IDT_BASE + 13 * 8 + 4], 0
    xor ecx, ecx
    div ecx

not_present:
    print "not present"
    jmp say
protection:
    print "general protection"
say:
    print ", error "
    pop eax
    call puthex
    print "\n"
    add dword ptr [esp], 2      /* a fault: EIP is that of the INT */
    iret
never:
    print "a bad gate was used\n"
    exit 1

    puts_body
    puthex_body

short_idt:
    .word 0x40 * 8 - 1
    .long MK_IDT_BASE
