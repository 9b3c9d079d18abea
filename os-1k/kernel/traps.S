/* traps.S - the way into the kernel and the way out to programs.
 *
 * Every vector has a stub that pushes its number; exceptions without an error code get a 0 in its
 * place, so that all frames look alike (struct trap_frame). See Intel SDM volume 3, 6.12-6.14. */
.intel_syntax noprefix
#include "abi.h"

.text
.altmacro
.macro stub vector
trap_\vector:
    .if !(\vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21)
    push 0
    .endif
    push \vector
    jmp trap_common
.endm

.set n, 0
.rept 48
    stub %n
    .set n, n + 1
.endr
    stub 128

trap_common:
    pushad
    push ds
    push es
    mov eax, MK_SEL_KDATA
    mov ds, eax
    mov es, eax
    cld
    push esp                        # argument: struct trap_frame *
    call trap
    add esp, 4
    pop es
    pop ds
    popad
    add esp, 8                      # vector and error code
    iret

/* int user_enter(eip, esp): leaves for CPL 3. The kernel's registers stay on its stack, and traps
 * from CPL 3 start below them, until user_leave takes them up again. */
.global user_enter
user_enter:
    push ebp
    push ebx
    push esi
    push edi
    mov eax, [esp + 20]
    mov edx, [esp + 24]
    mov [tss + 4], esp
    mov ecx, MK_SEL_UDATA | 3
    mov ds, ecx
    mov es, ecx
    mov fs, ecx
    mov gs, ecx
    push ecx                        # iret takes EIP, CS, EFLAGS, ESP, SS
    push edx
    push 0x202                      # interrupts on, IOPL 0: no ports for programs
    push MK_SEL_UCODE | 3
    push eax
    xor eax, eax                    # nothing of the kernel shows in registers
    xor ebx, ebx
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor ebp, ebp
    iret

/* void user_leave(status): returns from the last user_enter, dropping the trap that got us here. */
.global user_leave
user_leave:
    mov eax, [esp + 4]
    mov esp, [tss + 4]
    pop edi
    pop esi
    pop ebx
    pop ebp
    ret

.section .rodata
.balign 4
.macro entry vector
    .long trap_\vector
.endm
.global trap_entries
trap_entries:
.set n, 0
.rept 48
    entry %n
    .set n, n + 1
.endr
.global trap_syscall
trap_syscall:
    entry 128
