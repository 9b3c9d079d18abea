/* test_uart.c - the 16550A (PC16550D data sheet): its interrupt line, and states that are loaded.
 * What a guest reads in its registers is in spec/dev/uart_spec.lua. Prints TAP. */
#include "pc.h"

#include "dev/uart.h"

static struct mk_console console;
static struct mk_uart uart;

static void uart_on(void)
{
    machine_on();
    pic_program(0x11, 0x01);
    mk_console_init(&console);
    struct mk_irq irq = mk_pic_line(&pic, 4);
    mk_devs_add(&devices, mk_uart_init(&uart, &console, irq), &mk_uart_dev);
    for (unsigned i = 0; i < 2; i++)
        if (!mk_bus_hook(&bus, mk_uart_dev.ranges[i].first, mk_uart_dev.ranges[i].last,
                         mk_uart_dev.ranges[i].io, &uart, NULL))
            abort();
    out8(0x3fc, 0x08); /* OUT2 lets interrupts through */
}

static void uart_off(void)
{
    machine_off();
    mk_console_free(&console);
}

/* Whether the line asks for an interrupt now; takes it. */
static bool interrupts(void)
{
    bool did = take() == BASE1 + 4;
    if (did)
        out8(0x20, EOI);
    return did;
}

static void test_transmitter(void)
{
    uart_on();
    out8(0x3f9, 2);
    tap_ok(interrupts(), "uart: allowing the empty transmitter's interrupt raises it");
    tap_ok(!interrupts(), "uart: once");
    out8(0x3f8, 'a');
    tap_ok(interrupts(), "uart: writing THR takes it back and raises it again: an edge");
    out8(0x3f8, 'b');
    in8(0x3fa);
    tap_is(read_irr(0x20) & 0x10, 0, "uart: reading IIR takes the request back");
    out8(0x3f9, 0);
    out8(0x3f8, 'c');
    tap_ok(!interrupts(), "uart: none while it is not allowed");
    out8(0x3f9, 2);
    tap_ok(interrupts(), "uart: then at once");
    out8(0x3fc, 0);
    out8(0x3f8, 'd');
    tap_ok(!interrupts(), "uart: none without OUT2");
    uart_off();
}

static void test_receiver(void)
{
    uart_on();
    out8(0x3fa, 0x41); /* FIFOs, trigger 4 */
    out8(0x3f9, 1);
    mk_console_send(&console, "abcdefghijklmnopqrstuvwxyz", 26, NULL);
    mk_uart_input(&uart);
    tap_ok(interrupts(), "uart: input interrupts");
    tap_is(in8(0x3fa), 0xc4, "uart: at the trigger");
    unsigned n = 0, wrong = 0;
    for (; (in8(0x3fa) & 0x0f) == 0x04 && n < 30; n++)
        wrong += in8(0x3f8) != 'a' + n;
    tap_is(n, 23, "uart: until fewer than 4 bytes are left");
    tap_is(in8(0x3fa), 0xcc, "uart: of which the timeout tells");
    for (; in8(0x3fd) & 1; n++)
        wrong += in8(0x3f8) != 'a' + n;
    tap_ok(n == 26 && wrong == 0, "uart: no byte is lost");
    tap_is(in8(0x3fa), 0xc1, "uart: then nothing is pending");
    uart_off();
}

/* A handler that reads one byte and leaves: each byte is an interrupt. */
static void test_byte_by_byte(void)
{
    static const unsigned fcr[] = { 0x00, 0x01, 0x41, 0xc1 };
    for (size_t i = 0; i < MK_COUNT(fcr); i++) {
        unsigned n = 0;
        uart_on();
        out8(0x3fa, fcr[i]);
        out8(0x3f9, 1);
        mk_console_send(&console, "abcdefghijklmnopqrstuvwxyz", 26, NULL);
        mk_uart_input(&uart);
        while (interrupts() && n < 100)
            n += in8(0x3f8) == 'a' + n;
        tap_is(n, 26, "uart: bytes that came at once interrupt one by one");
        tap_ok(!interrupts(), "uart: and no more");
        uart_off();
    }
}

static void test_line_status(void)
{
    uart_on();
    out8(0x3fc, 0x18); /* loopback */
    out8(0x3f9, 4);
    out8(0x3f8, 1);
    tap_ok(!interrupts(), "uart: a byte is no error");
    out8(0x3f8, 2);
    tap_ok(interrupts(), "uart: an overrun interrupts");
    tap_is(in8(0x3fa), 0x06, "uart: as line status");
    tap_is(in8(0x3fd), 0x63, "uart: which LSR tells");
    tap_is(in8(0x3fa), 0x01, "uart: once");
    uart_off();
}

static void test_state(void)
{
    struct mk_err err = { 0 };
    uart_on();
    out8(0x3fc, 0x18);
    out8(0x3fa, 0x01);
    out8(0x3f8, 'x');
    struct mk_bytes state = save();
    mk_devs_reset(&devices);
    tap_is(load(&state, &err), 0, "uart: a saved state loads");
    tap_ok(in8(0x3fd) == 0x61 && in8(0x3f8) == 'x', "uart: and goes on");
    mk_bytes_free(&state);
    struct mk_uart bad = uart;
    bad.state.fifo_start = MK_UART_FIFO;
    tap_ok(load_damaged(&uart, &bad, &err) < 0 && err.code == EBADMSG,
           "uart: a FIFO that begins outside itself is refused");
    bad = uart;
    bad.state.fifo_count = MK_UART_FIFO + 1;
    tap_is(load_damaged(&uart, &bad, NULL), -1, "uart: so are more bytes than it holds");
    bad = uart;
    bad.state.ier = 0x10;
    tap_is(load_damaged(&uart, &bad, NULL), -1, "uart: and bits that no register has");
    bad = uart;
    memset(bad.state.fifo, 0xff, sizeof(bad.state.fifo));
    bad.state.fifo_start = MK_UART_FIFO - 1;
    bad.state.fifo_count = MK_UART_FIFO;
    tap_is(load_damaged(&uart, &bad, NULL), 0, "uart: one within range loads");
    unsigned n = 0;
    for (; in8(0x3fd) & 1 && n < 100; n++)
        in8(0x3f8);
    tap_is(n, 16, "uart: and its FIFO holds 16 bytes");
    uart_off();
}

int main(void)
{
    test_transmitter();
    test_receiver();
    test_byte_by_byte();
    test_line_status();
    test_state();
    return tap_done();
}
