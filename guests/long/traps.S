/* traps.S - the way into trap() and back, and the way to CPL 3 and back.
 *
 * Every vector has a stub that pushes its number; those without an error code push a 0 in its
 * place, so that all frames look alike (struct trap). Intel SDM volume 3, 6.14. */
.intel_syntax noprefix
#include "abi.h"

#define TSS_RSP0 (MK_TSS_BASE + 4)
#define SYSTEM_CALL 0x80

.text
.altmacro
.macro stub vector
stub_\vector:
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
.global trap_system_call
trap_system_call:
    push 0
    push SYSTEM_CALL

trap_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp                    /* struct trap *. The processor has aligned the stack, and 22 */
    call trap                       /* words on it leave it so */
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16                     /* vector and error code */
    iretq

/* uint64_t user_enter(fn, argument): this stack waits, and traps from CPL 3 start below its top. */
.global user_enter
user_enter:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [TSS_RSP0], rsp
    mov rax, rdi
    mov rdi, rsi
    pushfq
    pop rcx
    push MK_SEL_UDATA | 3           /* iretq takes RIP, CS, RFLAGS, RSP, SS */
    push offset user_stack_top
    push rcx
    push MK_SEL_UCODE | 3
    push offset user_start
    iretq

user_start:
    call rax
    int SYSTEM_CALL                 /* with the result in RAX; it does not come back */

/* void user_return(result): returns from the last user_enter, dropping the trap that came here. */
.global user_return
user_return:
    mov rax, rdi
    mov rsp, [TSS_RSP0]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

.section .rodata
.balign 8
.global trap_stubs
trap_stubs:
.macro address vector
    .quad stub_\vector
.endm
.set n, 0
.rept 48
    address %n
    .set n, n + 1
.endr

.section .stack, "aw", @nobits
.balign 16
    .skip 65536
user_stack_top:

.section .note.GNU-stack, "", @progbits
