/* uart.c - the 16550A serial port, when it is the console (National PC16550D data sheet). */
#include "io.h"
#include "kernel.h"

#define DATA MK_PORT_UART
#define IER (MK_PORT_UART + 1) /* which events interrupt */
#define FCR (MK_PORT_UART + 2) /* FIFO control */
#define LCR (MK_PORT_UART + 3) /* frame format */
#define MCR (MK_PORT_UART + 4) /* modem lines */
#define LSR (MK_PORT_UART + 5) /* status */
#define LSR_RECEIVED 0x01
#define LSR_CAN_SEND 0x20
#define FIFO_BYTES 16

void uart_init(void)
{
    outb(LCR, 0x03); /* 8 data bits, no parity, 1 stop bit */
    outb(FCR, 0x07); /* FIFOs on and empty */
    outb(MCR, 0x0b); /* DTR, RTS, and OUT2, which lets the interrupt through on a PC */
    outb(IER, 0x01); /* interrupt when a byte was received */
}

void uart_write(const char *text, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        while (i % FIFO_BYTES == 0 && !(inb(LSR) & LSR_CAN_SEND))
            ;
        outb(DATA, (uint8_t)text[i]);
    }
}

int uart_poll(void)
{
    return inb(LSR) & LSR_RECEIVED ? inb(DATA) : -1;
}

void uart_interrupt(void)
{
    for (int c, n = 0; n < FIFO_BYTES && (c = uart_poll()) >= 0; n++)
        console_push((char)c);
}
