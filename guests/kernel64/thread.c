/* thread.c - kernel threads, switched by the timer whether they like it or not.
 *
 * A thread that does not run is a frame on its own stack (struct frame): all its registers, pushed
 * by the interrupt that took the processor from it. To switch is to return from the interrupt with
 * another thread's frame. Thread 0 is what booted; the others begin with a frame made by hand. */
#include "kernel.h"

#define STACK_SIZE 4096
#define INTERRUPTS_ON 0x202

struct thread threads[THREADS];
struct thread *current = &threads[0];
static uint8_t stacks[THREADS - 1][STACK_SIZE] __attribute__((aligned(16)));
static unsigned count = 1;

void threads_init(void)
{
    threads[0].name = "prompt";
    threads[0].slices = 1;
}

/* `run` finds its argument in RDI and must not return: there is nobody to return to. The stack is
 * as after a call, 8 below a multiple of 16. */
void thread_start(unsigned number, const char *name, void (*run)(struct thread *self))
{
    struct thread *t = &threads[number];
    uint8_t *top = stacks[number - 1] + STACK_SIZE;
    struct frame *frame = (struct frame *)(top - 16) - 1;

    *frame = (struct frame){ .rip = (uint64_t)run, .cs = MK_SEL_KCODE, .rflags = INTERRUPTS_ON,
                             .rsp = (uint64_t)top - 8, .ss = MK_SEL_KDATA, .rdi = (uint64_t)t };
    t->name = name;
    t->frame = frame;
    count = number + 1;
}

/* The next one in the row that does not wait. Two of them never do, so there is always one. */
struct frame *thread_switch(struct frame *frame)
{
    current->frame = frame;
    do {
        current = current == &threads[count - 1] ? threads : current + 1;
    } while (current->waiting);
    current->slices++;
    return current->frame;
}
