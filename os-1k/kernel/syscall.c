/* syscall.c - what a program can ask of the kernel: numbers and errors are in include/syscall.h.
 *
 * Addresses from a program are never trusted: each range is checked against the page table first,
 * because a fault on it would be the kernel's own. */
#include "io.h"
#include "kernel.h"

extern const char kernel_end[];

static int sys_write(uint32_t buffer, uint32_t length)
{
    if (!user_ok(buffer, length, false))
        return ERR_FAULT;
    console_write((const char *)buffer, length);
    return (int)length;
}

static int sys_read(uint32_t buffer, uint32_t length)
{
    if (!length)
        return ERR_INVAL; /* the result 0 means end of input */
    if (!user_ok(buffer, length, true))
        return ERR_FAULT;
    return console_read_line((char *)buffer, length);
}

static int sys_sysinfo(uint32_t address)
{
    struct sysinfo *info = (struct sysinfo *)address;

    if (!user_ok(address, sizeof *info, true))
        return ERR_FAULT;
    *info = (struct sysinfo){
        .ticks = ticks,
        .hz = have_pic ? TIMER_HZ : 0,
        .ram_bytes = boot.ram_bytes,
        .kernel_bytes = VIRT_TO_PHYS(kernel_end) - MK_LOAD_BASE,
        .user_bytes = user_mapped_bytes(),
        .programs = archive_count(),
    };
    return 0;
}

static int sys_exec(uint32_t address)
{
    char name[NAME_MAX];

    for (uint32_t i = 0; i < NAME_MAX; i++) {
        if (!user_ok(address + i, 1, false))
            return ERR_FAULT;
        name[i] = ((const char *)address)[i];
        if (!name[i])
            return program_exec(name);
    }
    return ERR_NOENT;
}

static int dispatch(uint32_t number, uint32_t a, uint32_t b)
{
    switch (number) {
    case SYS_EXIT:
        user_leave((int)(a & 0xff));
    case SYS_WRITE:
        return sys_write(a, b);
    case SYS_READ:
        return sys_read(a, b);
    case SYS_UPTIME:
        return (int)uptime_ms();
    case SYS_TICKS:
        return (int)ticks;
    case SYS_SLEEP:
        return sleep_ms(a);
    case SYS_SYSINFO:
        return sys_sysinfo(a);
    case SYS_EXEC:
        return sys_exec(a);
    default:
        return ERR_NOSYS;
    }
}

/* Runs with interrupts on, so that a long write or a read that waits does not stop the clock. */
void syscall(struct trap_frame *frame)
{
    if (have_pic)
        interrupts_on();
    frame->eax = (uint32_t)dispatch(frame->eax, frame->ebx, frame->ecx);
    interrupts_off();
}
