/* trial.c - tries what a program must not be able to do. Not on the menu: boot with "init=trial".
 *
 * Each word typed at it is one attempt. Those that the CPU stops end the program with a message of
 * the kernel. Where the host cannot enforce protection (paravirtual KVM) some of them succeed. */
#include "ulib.h"

#define KERNEL_ADDRESS 0x80001000u

static void peek(volatile uint32_t address)
{
    *(volatile char *)address;
}

static void poke(volatile uint32_t address)
{
    *(volatile char *)address = 1;
}

static int recurse(volatile int depth)
{
    volatile char filler[512];

    filler[0] = (char)depth;
    return depth < 0 ? 0 : recurse(depth + 1) + filler[0];
}

static void bad_pointers(void)
{
    char inside[4];

    flush();
    printf("write kernel %d, write null %d, write past end %d, write wrap %d\n",
           syscall(SYS_WRITE, KERNEL_ADDRESS, 4), syscall(SYS_WRITE, 0, 4),
           syscall(SYS_WRITE, USER_TOP - 2, 4), syscall(SYS_WRITE, USER_BASE, 0xffffffff));
    printf("read into text %d, read nothing %d, sysinfo null %d, exec null %d\n",
           syscall(SYS_READ, USER_BASE, 4), syscall(SYS_READ, (uint32_t)inside, 0),
           syscall(SYS_SYSINFO, 0, 0), syscall(SYS_EXEC, 0, 0));
    printf("exec unknown %d, call 8 %d, call -1 %d\n", exec("nobody"), syscall(8, 0, 0),
           syscall(0xffffffff, 0, 0));
}

static void try_sleep(void)
{
    uint32_t before = ticks();
    int result = sleep(100);

    printf("sleep(100) = %d after %u ticks\n", result, ticks() - before);
}

static void attempt(const char *what)
{
    volatile int zero = 0;

    if (str_equal(what, "null"))
        peek(0x10);
    else if (str_equal(what, "kernel"))
        peek(KERNEL_ADDRESS);
    else if (str_equal(what, "text"))
        poke(USER_BASE + 4);
    else if (str_equal(what, "jump"))
        ((void (*)(void))KERNEL_ADDRESS)();
    else if (str_equal(what, "stack"))
        recurse(0);
    else if (str_equal(what, "divide"))
        zero = 100 / zero;
    else if (str_equal(what, "ud"))
        __asm__ volatile("ud2");
    else if (str_equal(what, "port"))
        __asm__ volatile("out 0x80, al" : : "a"(0));
    else if (str_equal(what, "cli"))
        __asm__ volatile("cli");
    else if (str_equal(what, "int"))
        __asm__ volatile("int 0x20");
    else if (str_equal(what, "pointers"))
        bad_pointers();
    else if (str_equal(what, "sleep"))
        try_sleep();
    else
        printf("no such trial\n");
}

int main(void)
{
    char line[LINE_SIZE];

    while (ask("Trial: ", line, sizeof line)) {
        attempt(line);
        printf("%s: not stopped\n", line);
    }
    return 0;
}
