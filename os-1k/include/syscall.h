/* syscall.h - the contract between kernel and programs, used by C and assembly.
 *
 * A program puts the number in EAX and up to two arguments in EBX and ECX, executes `int 0x80`, and
 * finds the result in EAX: 0 or more is success, less than 0 is one of the errors below. */
#ifndef SYSCALL_H
#define SYSCALL_H

#define SYS_EXIT 0    /* (status)              ends the program                               */
#define SYS_WRITE 1   /* (buffer, length)      prints bytes; returns length                   */
#define SYS_READ 2    /* (buffer, length)      one edited line with its '\n'; 0 = end of input */
#define SYS_UPTIME 3  /* ()                    milliseconds since boot                        */
#define SYS_TICKS 4   /* ()                    timer interrupts since boot                    */
#define SYS_SLEEP 5   /* (milliseconds)        0, or ERR_NODEV on a machine without a timer   */
#define SYS_SYSINFO 6 /* (struct sysinfo *)    fills it in                                    */
#define SYS_EXEC 7    /* (name)                replaces this program by another; returns only
                                               if that fails                                  */

#define ERR_NOENT (-2)
#define ERR_INTR (-4) /* Ctrl-C was typed */
#define ERR_FAULT (-14)
#define ERR_NODEV (-19)
#define ERR_INVAL (-22)
#define ERR_NOSYS (-38)

/* The user window, where a program lives: its image at the bottom, its stack at the top. */
#define USER_BASE 0x01000000
#define USER_PAGES 64
#define USER_TOP (USER_BASE + USER_PAGES * 4096)
#define USER_STACK_PAGES 2

/* A program's image starts with a header of five words: see struct image in kernel/exec.c. */
#define IMAGE_MAGIC 0x50554b4d /* "MKUP" */

#define NAME_MAX 16   /* of a program, with the final NUL */
#define LINE_SIZE 256 /* of an input line, with its '\n' */

#ifndef __ASSEMBLER__
#include <stdint.h>

struct sysinfo {
    uint32_t ticks, hz;    /* hz is 0 without a timer */
    uint32_t ram_bytes;    /* of the machine */
    uint32_t kernel_bytes; /* image, tables and stack of the kernel */
    uint32_t user_bytes;   /* mapped for this program */
    uint32_t programs;     /* in the archive */
};
#endif
#endif
