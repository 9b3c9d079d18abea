/* minikvm.h - what a 64-bit guest can use: ports, hypercalls, console, files, traps.
 *
 * A guest is one C file with a main(); `make` links it with the library beside this header. There
 * is no operating system below: main() runs at CPL 0 with interrupts off, owns all of RAM, and what
 * it returns is the exit code of the VM. docs/writing-a-guest.md is the manual. */
#ifndef MINIKVM_H
#define MINIKVM_H

#include "abi.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

int main(void);

/* --- ports --- */

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("out dx, al" : : "d"(port), "a"(value) : "memory");
}

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("out dx, ax" : : "d"(port), "a"(value) : "memory");
}

static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("out dx, eax" : : "d"(port), "a"(value) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("in al, dx" : "=a"(value) : "d"(port) : "memory");
    return value;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("in ax, dx" : "=a"(value) : "d"(port) : "memory");
    return value;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("in eax, dx" : "=a"(value) : "d"(port) : "memory");
    return value;
}

/* --- hypercalls: number in AL, arguments in RBX and RCX, the answer by an IN that follows --- */

static inline void hypercall(uint8_t number, uint64_t rbx, uint64_t rcx)
{
    __asm__ volatile("out dx, al"
                     : : "d"((uint16_t)MK_PORT_HYPERCALL), "a"(number), "b"(rbx), "c"(rcx)
                     : "memory");
}

static inline uint32_t hypercall_answer(void)
{
    return inl(MK_PORT_HYPERCALL);
}

/* --- the end --- */

_Noreturn void exit(int code); /* the VM's exit code, all 32 bits of it: reason "exit" */
_Noreturn void halt(void);     /* HLT with interrupts off: reason "halt" */

/* --- console --- */

#define END_OF_INPUT (-1)

/* Printed through port 0xe9: an exit each, or one for many where the VM coalesces. */
void putc(char c);
void puts(const char *text); /* as it is: no newline is added */
/* %d %u %x (with l: 64 bits), %s, %c, %%; a minimum width, filled with 0 or with spaces. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* All of it in one exit. */
void write(const void *bytes, uint32_t length);

/* The next byte of input, 0 to 255; waits for it. END_OF_INPUT when no more will come. */
int getc(void);
/* A byte by IN from port 0xe9, where 0xff stands for "none", "none yet" and a byte 0xff alike. */
static inline uint8_t serial_in(void)
{
    return inb(MK_PORT_DEBUGCON);
}

/* --- memory and text --- */

void *memcpy(void *to, const void *from, size_t length);
void *memmove(void *to, const void *from, size_t length);
void *memset(void *to, int byte, size_t length);
int memcmp(const void *a, const void *b, size_t length);
size_t strlen(const char *text);

/* --- boot information --- */

struct boot_info {
    uint32_t magic; /* MK_BOOT_MAGIC */
    uint32_t size;
    uint32_t ram_bytes;
    uint32_t features;     /* MK_BOOT_* */
    uint32_t command_line; /* address of a NUL-terminated text, 0 for none */
    uint32_t range_count;  /* of RAM */
    uint32_t ranges;       /* address of their list: struct ram_range */
};

struct __attribute__((packed)) ram_range {
    uint64_t address, size;
    uint32_t type; /* MK_RAM_TYPE */
};

extern const struct boot_info *boot;

/* --- files: results below 0 are negated errno values --- */

enum file_flag {
    O_READ = MK_FILE_READ,
    O_WRITE = MK_FILE_WRITE,
    O_CREATE = MK_FILE_CREATE, /* implied by O_WRITE */
    O_TRUNC = MK_FILE_TRUNC,
    O_APPEND = MK_FILE_APPEND
};
enum file_whence { SEEK_SET = MK_FILE_SET, SEEK_CUR = MK_FILE_CUR, SEEK_END = MK_FILE_END };
enum file_error {
    ENOENT = 2, EBADF = 9, EACCES = 13, EFAULT = 14, EINVAL = 22, EMFILE = 24, EFBIG = 27,
    ENOSPC = 28, EROFS = 30, ENAMETOOLONG = 36, EOVERFLOW = 75
};

/* The two protocols do the same: a block of memory that holds the request, in one exit; or its
 * bytes one by one, for a guest as simple as can be. file_open() and so on use the first one. */
struct file_protocol {
    const char *name;
    int64_t (*open)(const char *name, size_t length, unsigned flags); /* a descriptor, 0 to 15 */
    int64_t (*close)(int fd);
    int64_t (*read)(int fd, void *buffer, int32_t count); /* bytes read; 0 at the end of the file */
    int64_t (*write)(int fd, const void *buffer, int32_t count); /* bytes written */
    int64_t (*seek)(int fd, int64_t offset, unsigned whence); /* the new position */
    int64_t (*stat)(int fd);                                  /* the file's size */
};

extern const struct file_protocol file_block, file_bytes;

static inline int file_open(const char *name, unsigned flags)
{
    return (int)file_block.open(name, strlen(name), flags);
}

static inline int file_close(int fd)
{
    return (int)file_block.close(fd);
}

static inline int64_t file_read(int fd, void *buffer, int32_t count)
{
    return file_block.read(fd, buffer, count);
}

static inline int64_t file_write(int fd, const void *buffer, int32_t count)
{
    return file_block.write(fd, buffer, count);
}

static inline int64_t file_seek(int fd, int64_t offset, enum file_whence whence)
{
    return file_block.seek(fd, offset, whence);
}

static inline int64_t file_stat(int fd)
{
    return file_block.stat(fd);
}

/* --- the PCI bus --- */

/* Looks on bus 0 for the device of this id (device number above, vendor below) and puts its first
 * BAR at `bar`, with memory accesses and DMA on. False when there is none. */
bool pci_find(uint32_t id, uint32_t bar);
/* Reads configuration space, at a multiple of 4, of the device that was found. */
uint32_t pci_config(uint32_t reg);

/* --- traps: exceptions and interrupts --- */

/* What the entry code leaves on the stack; a handler may change it, and the guest goes on so. */
struct trap {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error; /* error is 0 for a vector that has none */
    uint64_t rip, cs, rflags, rsp, ss; /* pushed by the processor */
};

enum {
    TRAP_DE = 0, TRAP_UD = 6, TRAP_GP = 13, TRAP_PF = 14,
    TRAP_IRQ = 32, /* IRQ n is vector 32 + n */
    TRAPS = 48
};

/* Who is called for a vector below TRAPS. A trap without a handler is reported, and ends the VM
 * with code 100 + vector. The first call loads an IDT. */
void trap_handler(unsigned vector, void (*handler)(struct trap *trap));

/* The 8259A pair: IRQs go to TRAP_IRQ and up, all masked but those in `enabled` (bit n: IRQ n).
 * Needs irqchip = "pic". Handlers acknowledge by irq_done(). */
void irq_init(uint16_t enabled);
void irq_done(unsigned irq);

static inline void interrupts_off(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* Sleeps until an interrupt. STI takes effect one instruction late: none can slip in between. */
static inline void interrupts_on_and_halt(void)
{
    __asm__ volatile("sti; hlt" : : : "memory");
}

/* Runs fn(argument) at CPL 3 on a stack of 64 KiB and returns its result. Where the KVM is
 * paravirtual this code runs at full speed, and may use SSE, unlike that at CPL 0. No ports. */
uint64_t user_call(uint64_t (*fn)(uint64_t), uint64_t argument);

#endif
