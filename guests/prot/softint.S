/* softint.S - software interrupts, INT n and INT3, with handlers that return; counted.
 *
 * Registers, flags and stack must be as before; one handler calls another; the last IRET is one
 * with 16-bit operands. */
#include "prot.inc"

    gate 0x30, on_30
    gate 0xff, on_ff
    gate 3, on_3
    mov ebp, esp
    mov ecx, 5
1:  stc
    int 0x30
    jnc wrong
    clc
    int 0x30
    jc wrong
    loop 1b
    int3
    .byte 0xcd, 3       /* the two-byte form */
    int 0xff
    cmp esp, ebp
    jne wrong
    pushfw
    pushw cs
    pushw offset narrow
    iretw
    exit 2
narrow:
    cmp esp, ebp
    jne wrong
    print "int 0x30: "
    mov eax, [count_30]
    call putdec
    print "\nint3: "
    mov eax, [count_3]
    call putdec
    print "\nint 0xff: "
    mov eax, [count_ff]
    call putdec
    print "\n"
    exit 0
wrong:
    print "not as before\n"
    exit 1

on_30:
    inc dword ptr [count_30]
    cmc                 /* iret brings the old flags back */
    iret
on_3:
    inc dword ptr [count_3]
    iret
on_ff:
    inc dword ptr [count_ff]
    int 0x30
    int3
    iret

    puts_body
    putdec_body

.data
count_30:
    .long 0
count_3:
    .long 0
count_ff:
    .long 0
