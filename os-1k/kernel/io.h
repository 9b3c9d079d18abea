/* io.h - the privileged instructions, as C functions. */
#ifndef IO_H
#define IO_H

#include <stdint.h>

#include "abi.h"

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

static inline uint16_t inw(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("in ax, dx" : "=a"(value) : "d"(port) : "memory");
    return value;
}

/* Asks the VMM: number in AL, argument in BL. */
static inline void hypercall(uint8_t number, uint8_t argument)
{
    __asm__ volatile("out dx, al" : : "d"((uint16_t)MK_PORT_HYPERCALL), "a"(number), "b"(argument)
                     : "memory");
}

static inline void interrupts_on(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* Sleeps until an interrupt. STI takes effect one instruction late, so none can slip in between:
 * call with interrupts off, after the last look at what is waited for. */
static inline void interrupts_on_and_halt(void)
{
    __asm__ volatile("sti; hlt" : : : "memory");
}

#endif
