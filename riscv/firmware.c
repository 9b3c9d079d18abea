/* firmware.c - what the hypervisor itself asks of the firmware below it.
 *
 * The same calls that sbi.c answers for guests: a hypervisor stands on both sides of this
 * interface. The console's are the legacy ones (SBI specification 2.0, chapter 5), which every
 * OpenSBI has. */
#include "hyper.h"

static long call(long extension, long function, long argument)
{
    register long a0 __asm__("a0") = argument;
    register long a1 __asm__("a1") = 0;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = extension;

    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
    return a0;
}

void firmware_putc(char c)
{
    call(1, 0, c);
}

int firmware_getc(void)
{
    return (int)call(2, 0, 0);
}

void firmware_set_timer(uint64_t time)
{
    call(0x54494d45, 0, (long)time); /* "TIME" */
}

void firmware_shutdown(void)
{
    call(0x53525354, 0, 0); /* "SRST": shutdown, for no reason */
    for (;;)
        __asm__ volatile("wfi");
}
