/* boot.S - the hypervisor's first instructions.
 *
 * OpenSBI has set up M-mode and starts us in HS-mode, which is S-mode on a hart with the hypervisor
 * extension, with interrupts off and satp 0. a0 is the hart's number, a1 the address of the device
 * tree (SBI specification 2.0, 9.1: what a hart is started with). */

.section .text.boot, "ax"
.global _start
_start:
    la sp, stack_top
    la t0, host_trap                # whatever goes wrong in here from now on is told
    csrw stvec, t0
    la t0, bss_start
    la t1, bss_end
1:  sd zero, (t0)
    addi t0, t0, 8
    bltu t0, t1, 1b
    mv a0, a1
    call main                       # does not return
