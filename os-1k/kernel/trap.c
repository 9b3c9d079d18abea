/* trap.c - interrupt descriptor table, and who handles what (Intel SDM volume 3, chapter 6).
 *
 * Three kinds of trap arrive here: interrupts of devices, system calls, and faults. A fault of a
 * program ends that program; a fault of the kernel is a panic. All gates are interrupt gates:
 * handlers start with interrupts off. */
#include "abi.h"
#include "io.h"
#include "kernel.h"

static uint64_t idt[256];

static const char *const fault_names[] = {
    "divide error", "debug", "NMI", "breakpoint", "overflow", "bound range exceeded",
    "invalid opcode", "no coprocessor", "double fault", "coprocessor overrun", "invalid TSS",
    "segment not present", "stack fault", "general protection fault", "page fault", "reserved",
    "x87 error", "alignment check", "machine check", "SIMD error",
};

static void gate_set(unsigned vector, uint32_t handler, unsigned privilege)
{
    idt[vector] = (handler & 0xffff) | MK_SEL_KCODE << 16 |
                  (uint64_t)(0x8e00 | privilege << 13) << 32 | /* present, 32-bit interrupt gate */
                  (uint64_t)(handler >> 16) << 48;
}

void traps_init(void)
{
    struct {
        uint16_t limit;
        uint64_t *base;
    } __attribute__((packed)) idtr = { sizeof idt - 1, idt };

    for (unsigned i = 0; i < VECTOR_IRQ + 16; i++)
        gate_set(i, trap_entries[i], 0);
    gate_set(VECTOR_SYSCALL, trap_syscall, 3); /* the only one that programs may call */
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

static bool from_program(const struct trap_frame *frame)
{
    return (frame->cs & 3) == 3;
}

/* Under a paravirtual KVM `int 0x80` of a program arrives as an invalid opcode, with EIP still at
 * the instruction. Its two bytes tell. A real invalid opcode never looks like this. */
static bool is_unserved_int80(const struct trap_frame *frame)
{
    const uint8_t *code = (const uint8_t *)frame->eip;

    return user_ok(frame->eip, 2, false) && code[0] == 0xcd && code[1] == VECTOR_SYSCALL;
}

static void fault_report(const char *who, const struct trap_frame *frame)
{
    const char *name = frame->vector < sizeof fault_names / sizeof fault_names[0]
                           ? fault_names[frame->vector] : "unexpected trap";
    uint32_t address;

    kprintf("%s: %s", who, name);
    if (frame->vector == 14) {
        __asm__ volatile("mov %0, cr2" : "=r"(address));
        kprintf(" at 0x%08x", address);
    } else if (frame->error) {
        kprintf(" (error 0x%x)", frame->error);
    }
    kprintf(", eip 0x%08x\n", frame->eip);
}

static void fault(const struct trap_frame *frame)
{
    if (from_program(frame)) {
        kprintf("\nprogram ");
        fault_report(program_name, frame);
        program_fault();
    }
    kprintf("\n");
    fault_report("kernel", frame);
    panic("trap %u in the kernel, error 0x%x, eax 0x%x ebx 0x%x ecx 0x%x edx 0x%x", frame->vector,
          frame->error, frame->eax, frame->ebx, frame->ecx, frame->edx);
}

void trap(struct trap_frame *frame)
{
    if (frame->vector >= VECTOR_IRQ && frame->vector < VECTOR_IRQ + 16) {
        irq_handle(frame->vector - VECTOR_IRQ);
    } else if (frame->vector == VECTOR_SYSCALL) {
        syscall(frame);
    } else if (frame->vector == 6 && from_program(frame) && is_unserved_int80(frame)) {
        frame->eip += 2;
        syscall(frame);
    } else {
        fault(frame);
    }
}
