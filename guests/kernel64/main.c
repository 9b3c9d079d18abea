/* main.c - starts the parts in order, the two background threads, and the status line. */
#include "kernel.h"

/* Thread 1 counts primes, by trial division. */
static void count_primes(struct thread *self)
{
    for (uint64_t n = 2;; n++) {
        bool prime = true;
        for (uint64_t d = 2; d * d <= n && prime; d++)
            prime = n % d != 0;
        self->counter += prime;
    }
}

/* Thread 2 counts the numbers whose Collatz sequence it has followed down to 1. */
static void count_collatz(struct thread *self)
{
    for (uint64_t start = 1;; start++) {
        for (uint64_t n = start; n != 1;)
            n = n % 2 ? 3 * n + 1 : n / 2;
        self->counter++;
    }
}

/* Called by the timer interrupt; nobody else writes that row. */
void status_show(void)
{
    char text[COLUMNS + 1];
    uint64_t seconds = ticks / TICKS_PER_SECOND;

    format_text(text, sizeof(text), " kernel64 \xb3 up %02ld:%02ld:%02ld \xb3 %s %ld \xb3 %s %ld ",
                seconds / 3600, seconds / 60 % 60, seconds % 60, threads[1].name,
                threads[1].counter, threads[2].name, threads[2].counter);
    status_line(text);
}

_Noreturn void kernel_halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

_Noreturn void panic(const struct frame *f)
{
    print("\nPANIC: trap %ld, error 0x%lx, at 0x%lx in thread \"%s\"\n", f->vector, f->error,
          f->rip, current->name);
    kernel_halt();
}

_Noreturn void kernel_main(void);

_Noreturn void kernel_main(void)
{
    screen_clear();
    traps_init();
    pic_init();
    threads_init();
    thread_start(1, "primes", count_primes);
    thread_start(2, "collatz", count_collatz);
    timer_init();
    keyboard_init();
    status_show();
    interrupts_on();
    prompt();
}
