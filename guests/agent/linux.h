/* linux.h - what a program without libraries needs of Linux: its system calls (AMD64 supplement of
 * the System V ABI, A.2), and a few functions that the compiler wants. */
#ifndef MK_AGENT_LINUX_H
#define MK_AGENT_LINUX_H

#include <asm/ioctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

/* uapi/linux/random.h, syslog(2) */
#define RNDADDENTROPY _IOW('R', 3, int[2])
#define RNDRESEEDCRNG _IO('R', 7)
#define SYSLOG_READ_ALL 3
#define SYSLOG_SIZE_BUFFER 10

/* A question or an answer, in the window. */
struct frame {
    uint32_t magic, sequence, kind;
    int32_t status;
    uint32_t length, sum;
    uint8_t bytes[];
};

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);
size_t strlen(const char *text);
_Noreturn void start(long *stack);

static inline long call6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return number;
}

#define call0(number) call6(number, 0, 0, 0, 0, 0, 0)
#define call1(number, a) call6(number, a, 0, 0, 0, 0, 0)
#define call2(number, a, b) call6(number, a, b, 0, 0, 0, 0)
#define call3(number, a, b, c) call6(number, a, b, c, 0, 0, 0)
#define call4(number, a, b, c, d) call6(number, a, b, c, d, 0, 0)

static inline void *map(long size, int flags, long file, long at)
{
    return (void *)call6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, flags, file, at);
}

/* What a system call that returns an address returns when it failed: -errno. */
static inline bool is_error(const void *address)
{
    return (unsigned long)address > -4096UL;
}

#endif
