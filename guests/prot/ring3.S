/* ring3.S - goes to CPL 3 by iret; the program there makes system calls by int 0x80 and ends.
 *
 * A paravirtual KVM answers int n from CPL 3 with #UD: the handler takes `cd 80` at the faulting
 * EIP for the call. System calls: EAX 1 prints the string at EBX, EAX 2 ends with the code in
 * EBX. */
#define PAGED
#include "prot.inc"

#define USER_STACK 0x300000

    gate 0x80, system_call, 0xee00  /* DPL 3: CPL 3 may call it */
    gate 6, invalid_opcode
    kernel_stack
    print "kernel: CPL "
    mov eax, cs
    and eax, 3
    call putdec
    print "\n"
    enter_user "offset user", USER_STACK

user:
    mov edx, 0xabcd
    mov eax, cs
    and al, 3
    add [user_cpl], al
    mov eax, 1
    mov ebx, offset user_text
    int 0x80
    cmp esp, USER_STACK             /* the call left everything as it was */
    jne 1f
    cmp edx, 0xabcd
    jne 1f
    mov eax, 1
    mov ebx, offset user_again
    int 0x80
    mov eax, 2
    mov ebx, 7
    int 0x80
1:  ud2

invalid_opcode:
    push eax
    mov eax, [esp + 4]
    cmp word ptr [eax], 0x80cd
    pop eax
    jne 1f
    add dword ptr [esp], 2
    jmp system_call
1:  print "kernel: invalid opcode at "
    printhex [esp]
    print "\n"
    exit 1

system_call:
    pushad
    cmp eax, 2
    je 2f
    mov esi, ebx
    call puts
    popad
    iret
2:  mov ebp, ebx
    print "kernel: program ended with "
    mov eax, ebp
    call putdec
    mov eax, cs
    and eax, 3
    jnz 3f
    print ", CPL 0 again\n"
3:  mov ebx, ebp
    hypercall MK_HC_EXIT

    puts_body
    puthex_body
    putdec_body

.data
user_text:
    .ascii "program: CPL "
user_cpl:
    .asciz "0\n"
user_again:
    .asciz "program: the call returned\n"
