/* kernel.h - what the kernel's files offer each other, one paragraph per file. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "boot_info.h"
#include "syscall.h"

#define PAGE_SIZE 4096
#define KERNEL_BASE 0x80000000u     /* virtual = physical + KERNEL_BASE, for the first 4 MiB */
#define KERNEL_WINDOW 0x400000u     /* ... and no further */
#define USER_FRAMES 0x200000u       /* physical memory behind the user window */
#define PHYS_TO_VIRT(phys) ((void *)((phys) + KERNEL_BASE))
#define VIRT_TO_PHYS(virt) ((uint32_t)(virt) - KERNEL_BASE)

#define VECTOR_IRQ 0x20 /* IRQ 0-15 arrive at 0x20-0x2f */
#define VECTOR_SYSCALL 0x80

/* The registers that traps.S saves when a trap happens, lowest address first. */
struct trap_frame {
    uint32_t es, ds;
    uint32_t edi, esi, ebp, unused_esp, ebx, edx, ecx, eax; /* pushad */
    uint32_t vector, error;                                 /* traps.S */
    uint32_t eip, cs, eflags;                               /* the CPU */
    uint32_t esp, ss;                                       /* the CPU, only when CPL 3 was left */
};

/* main.c */
extern struct boot_info boot;
const char *option_value(const char *key, char *value, uint32_t size); /* of "key=value", or NULL */
void kprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void panic(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* segments.c */
extern uint32_t tss[26];
void segments_init(void);

/* traps.S */
extern const uint32_t trap_entries[VECTOR_IRQ + 16], trap_syscall;
int user_enter(uint32_t eip, uint32_t esp);               /* returns what user_leave was given */
void user_leave(int status) __attribute__((noreturn));

/* trap.c */
void traps_init(void);
void trap(struct trap_frame *frame);

/* pic.c */
extern bool have_pic;
void pic_init(void);
void irq_enable(unsigned irq);
void irq_handle(unsigned irq);

/* pit.c */
#define TIMER_HZ 100
extern volatile uint32_t ticks;
void pit_init(void);
uint32_t uptime_ms(void);
int sleep_ms(uint32_t ms);

/* console.c */
#define END_OF_INPUT (-1)
void console_init(void);
void console_write(const char *text, uint32_t length);
int console_getc(void); /* waits for a byte; END_OF_INPUT when there will be none any more */
int console_read_line(char *buffer, uint32_t size);
void console_push(char c); /* called by interrupt handlers */

/* uart.c */
void uart_init(void);
void uart_write(const char *text, uint32_t length);
int uart_poll(void); /* a byte, or -1 for none */
void uart_interrupt(void);

/* keyboard.c */
void keyboard_init(void);
void keyboard_interrupt(void);

/* paging.c */
void paging_init(void);
void user_map(uint32_t first, uint32_t count, bool writable); /* pages of the window, by number */
void user_unmap_all(void);
void user_map_done(void); /* after the last change */
bool user_ok(uint32_t address, uint32_t length, bool write);
uint32_t user_mapped_bytes(void);

/* archive.c */
const void *archive_find(const char *name, uint32_t *size);
uint32_t archive_count(void);

/* exec.c */
extern char program_name[NAME_MAX];
int program_loop(void);               /* runs programs until the shell ends; returns its status */
int program_exec(const char *name);   /* on behalf of the running one; returns only on failure */
void program_fault(void) __attribute__((noreturn));

/* syscall.c */
void syscall(struct trap_frame *frame);

#endif
