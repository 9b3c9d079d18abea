/* registers.S - holds values in all registers and CSRs over many time slices, while others do the
 * same with other values. */
.option arch, +d

#define EACH 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, \
             26, 27, 28
#define EACH_F 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, \
               23, 24, 25, 26, 27, 28, 29, 30, 31
#define EACH_CSR stvec, sscratch, sepc, stval, scounteren
#define MS_30 300000

.macro check register, value        # t4 is the seed, t5 and t6 are for comparing
    addi t5, t4, \value
    bne t5, \register, wrong
.endm

.section .text.start, "ax"
.global _start
_start:
    li t0, 3 << 13                  # sstatus.FS
    csrs sstatus, t0
    rdtime t4                       # t4 = x29: another one in each guest
    slli t4, t4, 3                  # stvec, sepc keep no odd addresses
    andi t6, t4, 0xf8
    csrw fcsr, t6
    .set i, 64
    .irp name, EACH_CSR
    addi t6, t4, i
    csrw \name, t6
    .set i, i + 64
    .endr
    csrr t6, scounteren             # WARL: what it made of that
    mv x1, t6
    csrr t6, fcsr
    mv x2, t6
    .irp n, EACH_F
    addi t6, t4, 32 + \n
    fmv.d.x f\n, t6
    .endr
    .irp n, EACH
    addi x\n, t4, \n
    .endr

    rdtime t6
    li t5, MS_30
    add t5, t5, t6                  # until then; looking at the time is slow
1:  li t6, 10000
2:  addi t6, t6, -1
    bnez t6, 2b
    rdtime t6
    bltu t6, t5, 1b

    .irp n, EACH
    check x\n, \n
    .endr
    .irp n, EACH_F
    fmv.x.d t6, f\n
    check t6, 32 + \n
    .endr
    .set i, 64
    .irp name, stvec, sscratch, sepc, stval
    csrr t6, \name
    check t6, i
    .set i, i + 64
    .endr
    csrr t6, scounteren
    bne t6, x1, wrong
    csrr t6, fcsr
    bne t6, x2, wrong
    li a0, 'S'                      # same
    j end
wrong:
    li a0, 'W'
end:
    li a7, 1
    ecall
    li a0, '\n'
    ecall
    li a7, 0x53525354               # "SRST", function 0: shutdown
    li a6, 0
    li a0, 0
    li a1, 0
    ecall
