/* traps.S - the way into the kernel and out of it, and with it the switch between threads.
 *
 * Every vector has a stub that pushes its number; exceptions without an error code get a 0 in its
 * place, so that all frames look alike (struct frame in kernel.h). trap() returns the frame to go
 * on with: that of the thread that was interrupted, or of another. Intel SDM volume 3, 6.14. */
.intel_syntax noprefix
#include "kernel.h"

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
.rept VECTORS
    stub %n
    .set n, n + 1
.endr

/* void thread_yield(void): makes the frame that an interrupt would have made. Call it with
 * interrupts off: what comes first is another thread, with interrupts as they were there. */
.global thread_yield
thread_yield:
    pop rcx                         /* where to return to */
    mov rdx, rsp
    push MK_SEL_KDATA               /* SS, RSP, RFLAGS, CS, RIP: as the processor pushes them */
    push rdx
    pushfq
    push MK_SEL_KCODE
    push rcx
    push 0
    push VECTOR_YIELD

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
    mov rdi, rsp                    /* struct frame *trap(struct frame *) */
    and rsp, -16
    call trap
    mov rsp, rax
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

.section .rodata
.balign 8
.global trap_stubs
trap_stubs:
.macro address vector
    .quad stub_\vector
.endm
.set n, 0
.rept VECTORS
    address %n
    .set n, n + 1
.endr

.section .note.GNU-stack, "", @progbits
