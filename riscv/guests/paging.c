/* paging.c - a small kernel: page tables of its own (Sv39), a program in user mode, system calls,
 * and faults of that program, all of which it handles itself. Its tables are the first stage,
 * from virtual to guest physical addresses; the hypervisor's are the second, from there on.
 *
 *   0x40000000  kernel: the first 2 MiB of RAM as one large page, not for user mode
 *   0x00010000  program: one page, readable and executable
 *   0x00020000  its stack: one page */
#include "guest.h"

#define VALID 0x01ul
#define READ 0x02ul
#define WRITE 0x04ul
#define EXECUTE 0x08ul
#define USER 0x10ul
#define USED 0xc0ul /* accessed and dirty: some harts fault where these are clear */

#define PROGRAM 0x10000ul
#define STACK 0x20000ul
#define KERNEL 0x40000000ul
#define SV39 (8ul << 60)

#define PAGES __attribute__((aligned(4096)))

static uint64_t root[512] PAGES, low[512] PAGES, low_pages[512] PAGES, high[512] PAGES;
static char stack[4096] PAGES;

/* What the trap handler saves, in this order. */
struct frame {
    uint64_t a0, a7, pc;
};

extern const char program[];
void enter_user(uint64_t pc, uint64_t sp);
void trap_entry(void);
void trap(struct frame *frame);

static uint64_t entry(const void *target, uint64_t flags)
{
    return (uint64_t)target >> 12 << 10 | flags | VALID;
}

static void paging_on(void)
{
    root[0] = entry(low, 0);
    low[0] = entry(low_pages, 0);
    low_pages[PROGRAM >> 12] = entry(program, READ | EXECUTE | USER | USED);
    low_pages[STACK >> 12] = entry(stack, READ | WRITE | USER | USED);
    root[KERNEL >> 30] = entry(high, 0);
    high[0] = entry((void *)KERNEL, READ | WRITE | EXECUTE | USED);
    csr_write(satp, SV39 | (uint64_t)root >> 12);
    __asm__ volatile("sfence.vma" : : : "memory");
}

void trap(struct frame *frame)
{
    uint64_t cause = csr_read(scause);

    if (cause == 2) { /* an instruction that user mode has not */
        put_string("kernel: illegal instruction ");
        put_hex(csr_read(stval));
        put_string(" is skipped\n");
        frame->pc += 4;
        return;
    }
    if (cause == 8 && frame->a7 == 1) { /* a call from user mode: print a number */
        put_string("program: ");
        put_hex(frame->a0);
        put_string("\n");
        frame->pc += 4;
        return;
    }
    put_string("kernel: trap ");
    put_number(cause);
    put_string(" at ");
    put_hex(frame->pc);
    put_string(", address ");
    put_hex(csr_read(stval));
    put_string(": the program is ended\n");
    shut_down();
}

int main(void)
{
    paging_on();
    put_string("kernel: paging is on\n");
    csr_write(stvec, trap_entry);
    enter_user(PROGRAM, STACK + sizeof stack);
    return 0;
}

/* sscratch has the kernel's stack while the program runs. The program uses a0, a7, sp and t0. It
 * prints its own address, and what it put onto its stack; it tries what is the kernel's alone. */
__asm__(".balign 4\n"
        "trap_entry:\n"
        "    csrrw sp, sscratch, sp\n"
        "    addi sp, sp, -32\n"
        "    sd a0, 0(sp)\n"
        "    sd a7, 8(sp)\n"
        "    csrr a0, sepc\n"
        "    sd a0, 16(sp)\n"
        "    mv a0, sp\n"
        "    call trap\n"
        "    ld a0, 16(sp)\n"
        "    csrw sepc, a0\n"
        "    ld a0, 0(sp)\n"
        "    ld a7, 8(sp)\n"
        "    addi sp, sp, 32\n"
        "    csrrw sp, sscratch, sp\n"
        "    sret\n"
        "enter_user:\n"
        "    csrw sscratch, sp\n"
        "    csrw sepc, a0\n"
        "    mv sp, a1\n"
        "    li t0, 0x100\n" /* sstatus.SPP */
        "    csrc sstatus, t0\n"
        "    sret\n"
        ".section .rodata\n"
        ".balign 4096\n"
        "program:\n"
        "    li a7, 1\n"
        "    auipc a0, 0\n"
        "    ecall\n"
        "    li a0, 0x1234\n"
        "    sd a0, -8(sp)\n"
        "    ld a0, -8(sp)\n"
        "    ecall\n"
        "    csrr a0, sstatus\n"
        "    wfi\n"
        "    li t0, 0x40000000\n"
        "    ld a0, (t0)\n"
        "    ecall\n"
        ".balign 4096\n"
        ".text\n");
