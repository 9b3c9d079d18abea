/* uart.h - a 16550A UART (National Semiconductor PC16550D data sheet) at eight ports.
 *
 * The transmitter prints to the console and is always empty again at once; the receiver takes bytes
 * from the console as its FIFO has room, so none is lost. Baud rate and framing are stored, not
 * simulated. In loopback (MCR bit 4) bytes come back and can overrun, as on the chip. vCPU threads
 * and input from other threads meet here: all state lies under one lock. */
#ifndef MK_DEV_UART_H
#define MK_DEV_UART_H

#include "dev/dev.h"
#include "io/console.h"

#define MK_UART_FIFO 16

struct mk_uart_state {
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t errors;      /* LSR bit 1 (overrun) not yet read; no other error can happen */
    uint8_t modem_delta; /* MSR bits 0..3 not yet read */
    bool thre_pending;   /* "transmitter empty" interrupt not yet seen */
    uint8_t fifo[MK_UART_FIFO];
    uint8_t fifo_start, fifo_count;
};

struct mk_uart {
    struct mk_dev dev;
    struct mk_uart_state state;
    struct mk_console *console;
    struct mk_irq irq;
    unsigned polls; /* LSR reads in a row that saw nothing */
};

struct mk_dev *mk_uart_init(struct mk_uart *uart, struct mk_console *console, struct mk_irq irq);
/* The console may have input: fill the FIFO, raise the interrupt. */
void mk_uart_input(struct mk_uart *uart);

extern const struct mk_dev_ops mk_uart_dev;

#endif
