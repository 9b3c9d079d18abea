/* lib_traps.c - interrupt descriptor table, and who handles what (Intel SDM volume 3, chapter 6);
 * the 8259A pair (Intel 8259A data sheet). */
#include "minikvm.h"

#define SYSTEM_CALL 0x80
#define CASCADE 2
#define EOI 0x20

struct gate {
    uint16_t offset_low, selector, attributes, offset_middle;
    uint32_t offset_high, reserved;
};

extern const uint64_t trap_stubs[TRAPS];
void trap_system_call(void);
uint64_t user_enter(uint64_t (*fn)(uint64_t), uint64_t argument);
_Noreturn void user_return(uint64_t result);
void trap(struct trap *t);

static struct gate idt[SYSTEM_CALL + 1];
static void (*handlers[TRAPS])(struct trap *trap);

static void gate_set(unsigned vector, uint64_t handler, unsigned privilege)
{
    idt[vector] = (struct gate){
        .offset_low = (uint16_t)handler,
        .selector = MK_SEL_KCODE,
        .attributes = (uint16_t)(0x8e00 | privilege << 13), /* present, interrupt gate */
        .offset_middle = (uint16_t)(handler >> 16),
        .offset_high = (uint32_t)(handler >> 32),
    };
}

static void load_idt(void)
{
    static bool loaded;
    struct {
        uint16_t limit;
        const void *base;
    } __attribute__((packed)) idtr = { sizeof(idt) - 1, idt };

    if (loaded)
        return;
    loaded = true;
    for (unsigned i = 0; i < TRAPS; i++)
        gate_set(i, trap_stubs[i], 0);
    gate_set(SYSTEM_CALL, (uint64_t)trap_system_call, 3);
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

void trap_handler(unsigned vector, void (*handler)(struct trap *trap))
{
    load_idt();
    if (vector < TRAPS)
        handlers[vector] = handler;
}

uint64_t user_call(uint64_t (*fn)(uint64_t), uint64_t argument)
{
    load_idt(); /* the way back is a trap */
    return user_enter(fn, argument);
}

/* A paravirtual KVM turns `int 0x80` of CPL 3 into an invalid opcode, with RIP still at it. */
static bool is_system_call(const struct trap *t)
{
    const uint8_t *code = (const uint8_t *)t->rip;

    return t->vector == SYSTEM_CALL ||
           (t->vector == TRAP_UD && (t->cs & 3) == 3 && code[0] == 0xcd && code[1] == SYSTEM_CALL);
}

void trap(struct trap *t)
{
    if (is_system_call(t))
        user_return(t->rax);
    if (t->vector < TRAPS && handlers[t->vector]) {
        handlers[t->vector](t);
        return;
    }
    printf("unexpected trap %lu, error 0x%lx, at rip 0x%lx, CPL %u\n", t->vector, t->error, t->rip,
           (unsigned)(t->cs & 3));
    exit(100 + (int)t->vector);
}

void irq_init(uint16_t enabled)
{
    outb(MK_PORT_PIC1, 0x11); /* ICW1: initialise, ICW4 follows */
    outb(MK_PORT_PIC2, 0x11);
    outb(MK_PORT_PIC1 + 1, TRAP_IRQ); /* ICW2: first vector */
    outb(MK_PORT_PIC2 + 1, TRAP_IRQ + 8);
    outb(MK_PORT_PIC1 + 1, 1 << CASCADE); /* ICW3: where the second chip is */
    outb(MK_PORT_PIC2 + 1, CASCADE);
    outb(MK_PORT_PIC1 + 1, 0x01); /* ICW4: 8086 mode */
    outb(MK_PORT_PIC2 + 1, 0x01);
    if (enabled >> 8)
        enabled |= 1 << CASCADE;
    outb(MK_PORT_PIC1 + 1, (uint8_t)~enabled);
    outb(MK_PORT_PIC2 + 1, (uint8_t)(~enabled >> 8));
}

void irq_done(unsigned irq)
{
    if (irq >= 8)
        outb(MK_PORT_PIC2, EOI);
    outb(MK_PORT_PIC1, EOI);
}
