/* kernel.h - all that the parts of the kernel know of each other. */
#ifndef KERNEL_H
#define KERNEL_H

#include "abi.h"

#define VECTOR_IRQ 0x20 /* IRQ n is vector 0x20 + n */
#define VECTORS 0x30    /* exceptions and the 16 IRQs */
#define VECTOR_YIELD 0x100 /* no vector of the processor's: thread_yield() */
#define TICKS_PER_SECOND 100

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- privileged instructions --- */

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("out dx, al" : : "d"(port), "a"(value) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("in al, dx" : "=a"(value) : "d"(port) : "memory");
    return value;
}

static inline void interrupts_off(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void interrupts_on(void)
{
    __asm__ volatile("sti" : : : "memory");
}

/* --- traps.S, trap.c --- */

/* A thread's registers while it does not run: lowest address first, as traps.S pushes them. */
struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

void traps_init(void);
struct frame *trap(struct frame *frame);

/* --- pic.c: interrupt controller and timer --- */

void pic_init(void);
void irq_enable(unsigned irq);
void irq_done(unsigned irq);
void timer_init(void);
extern volatile uint64_t ticks;

/* --- keyboard.c --- */

void keyboard_init(void);
void keyboard_interrupt(void);
char keyboard_read(void); /* the next character typed; the thread waits for it */

/* --- screen.c --- */

#define COLUMNS 80
#define ROWS 25 /* the first one is the status line */

void screen_clear(void);
void screen_put(char c); /* \n, \b and printable characters */
void status_line(const char *text);

/* --- format.c: %d (64 bits), %x, %s, %c, a width, and 0 to fill it --- */

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void format_text(char *to, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool text_equal(const char *a, const char *b);

/* --- thread.c --- */

struct thread {
    const char *name;
    struct frame *frame;       /* while it does not run */
    volatile uint64_t counter; /* the work it has done */
    uint64_t slices;           /* times it was given the processor */
    bool waiting;              /* for a key: not to be chosen */
};

#define THREADS 3

extern struct thread threads[THREADS];
extern struct thread *current;

void threads_init(void);
void thread_start(unsigned number, const char *name, void (*run)(struct thread *self));
void thread_yield(void);
struct frame *thread_switch(struct frame *frame); /* chooses the next one */

/* --- main.c, prompt.c --- */

void status_show(void);
_Noreturn void prompt(void);
_Noreturn void kernel_halt(void);
_Noreturn void panic(const struct frame *frame);

#endif
#endif
