/* switch.S - into a guest and back: one call of vcpu_enter() is one stay in it.
 *
 * On the way in the hypervisor's registers go onto its stack, and sret leaves for the mode that
 * hstatus.SPV and sstatus.SPP name. Whatever ends the stay is a trap to guest_exit, which returns
 * from vcpu_enter() (priv., "Traps": "Trap Entry", "Trap Return"). */
.option arch, +d, +h

/* Offsets in struct vcpu. */
#define PC 0
#define X 8
#define A0 (X + 8 * 10)
#define SSTATUS 520
#define HSTATUS 528
#define HOST_SP 536
#define CAUSE 544
#define TVAL 552
#define GPA 560

#define EACH_SAVED 1, 8, 9, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27 /* ra, s0-s11 */
#define ALL_BUT_A0 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, \
                   24, 25, 26, 27, 28, 29, 30, 31
#define EACH_F 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, \
               23, 24, 25, 26, 27, 28, 29, 30, 31

.macro load csr, offset
    ld t0, \offset (a0)
    csrw \csr, t0
.endm

.macro store csr, offset
    csrr t0, \csr
    sd t0, \offset (a0)
.endm

.text
.global vcpu_enter
vcpu_enter:
    addi sp, sp, -224
    .irp n, EACH_SAVED
    sd x\n, 8 * \n (sp)
    .endr
    sd sp, HOST_SP(a0)
    csrw sscratch, a0
    la t0, guest_exit
    csrw stvec, t0
    load sepc, PC
    load sstatus, SSTATUS
    load hstatus, HSTATUS
    .irp n, ALL_BUT_A0
    ld x\n, X + 8 * \n (a0)
    .endr
    ld a0, A0(a0)
    sret

.balign 4
guest_exit:
    csrrw a0, sscratch, a0
    .irp n, ALL_BUT_A0
    sd x\n, X + 8 * \n (a0)
    .endr
    store sscratch, A0
    store sepc, PC
    store sstatus, SSTATUS
    store hstatus, HSTATUS
    store scause, CAUSE
    store stval, TVAL
    csrr t0, htval                  # the guest physical address without its last two bits
    slli t0, t0, 2
    sd t0, GPA(a0)
    la t0, host_trap
    csrw stvec, t0
    ld sp, HOST_SP(a0)
    .irp n, EACH_SAVED
    ld x\n, 8 * \n (sp)
    .endr
    addi sp, sp, 224
    ret

# The hypervisor uses none of these; they stay the guest's until another one comes.
.global fpu_save, fpu_load
fpu_save:
    .irp n, EACH_F
    fsd f\n, 8 * \n (a0)
    .endr
    ret
fpu_load:
    .irp n, EACH_F
    fld f\n, 8 * \n (a0)
    .endr
    ret

# Both stages of whoever was here before are forgotten, and instructions are read from memory anew.
.global flush_translations
flush_translations:
    hfence.gvma
    hfence.vvma
    fence.i
    ret

# bool guest_fetch(address, uint16_t *code): reads as the guest that has just left would fetch. A
# fault on the way is expected, and ends this function instead of the hypervisor.
.global guest_fetch
guest_fetch:
    hlvx.hu t0, (a0)
    sh t0, (a1)
    li a0, 1
    ret

# Traps while the hypervisor runs: no interrupt, for these are off, but a fault.
.global host_trap
.balign 4
host_trap:
    csrr a2, sepc
    la t0, guest_fetch
    beq a2, t0, 1f
    csrr a0, scause
    csrr a1, stval
    la sp, stack_top
    tail host_fault
1:  li a0, 0
    ret
