/* idt.c - exceptions and timer interrupts in 64-bit mode.
 *
 * Each fault is made on purpose; its handler reports it and lets the guest go on behind it. Then
 * five ticks of the timer, one shot each, which the guest sleeps through. Needs irqchip = "pic". */
#include "minikvm.h"

#define NOWHERE 0x40000000 /* above all RAM: mapped by none of the page tables */
#define ONE_SHOT 0x30      /* channel 0, low byte then high byte, mode 0 */
#define TEN_MS 11932       /* of 1193182 a second */

static const char *const names[TRAPS] = {
    [TRAP_DE] = "divide error", [TRAP_UD] = "invalid opcode", [TRAP_GP] = "general protection",
    [TRAP_PF] = "page fault" };
static uint64_t resume; /* behind the instruction that is going to fail */
static volatile unsigned ticks;

static void report(struct trap *t)
{
    uint64_t address;

    printf("#%lu %s, error 0x%lx", t->vector, names[t->vector], t->error);
    if (t->vector == TRAP_PF) {
        __asm__ volatile("mov %0, cr2" : "=r"(address));
        printf(", address 0x%lx", address);
    }
    puts("\n");
    t->rip = resume;
}

/* Says where to go on, then does what fails. */
#define FAIL(instruction, ...) \
    __asm__ volatile("lea rax, [rip + 1f]\n\tmov %0, rax\n\t" instruction "\n1:" \
                     : "=m"(resume) : __VA_ARGS__ : "rax", "rdx", "memory")

static void exceptions(void)
{
    trap_handler(TRAP_DE, report);
    trap_handler(TRAP_UD, report);
    trap_handler(TRAP_GP, report);
    trap_handler(TRAP_PF, report);
    FAIL("xor edx, edx; div %1", "r"(0));
    FAIL("ud2", "i"(0));
    FAIL("mov fs, %1", "r"(0x1234 & ~7)); /* no such descriptor */
    FAIL("mov eax, [%1]", "r"((uint64_t)NOWHERE));
    FAIL("mov [%1], eax", "r"((uint64_t)NOWHERE + 0x123));
    FAIL("jmp %1", "r"((uint64_t)NOWHERE + 0x456));
}

static void tick(struct trap *t)
{
    (void)t;
    ticks++;
    irq_done(0);
}

static void shoot(void)
{
    outb(MK_PORT_PIT + 3, ONE_SHOT);
    outb(MK_PORT_PIT, TEN_MS & 0xff);
    outb(MK_PORT_PIT, TEN_MS >> 8);
}

int main(void)
{
    exceptions();
    trap_handler(TRAP_IRQ + 0, tick);
    irq_init(1 << 0);
    while (ticks < 5) {
        shoot();
        interrupts_on_and_halt();
        interrupts_off();
        printf("tick %u\n", ticks);
    }
    return 0;
}
