/* chips.c - the interrupt controllers, the timer, the keyboard controller and the UART: any access
 * in any order, interrupts and time between them, and states as a snapshot may have them. */
#include "fuzz.h"

#include "dev/uart.h"
#include "pc.h"

static struct mk_console console;
static struct mk_uart uart;

static void on(void)
{
    machine_on();
    mk_console_init(&console);
    console.history_limit = 4096;
    struct mk_irq irq = mk_pic_line(&pic, 4);
    mk_devs_add(&devices, mk_uart_init(&uart, &console, irq), &mk_uart_dev);
    for (unsigned i = 0; i < MK_RANGES && mk_uart_dev.ranges[i].io; i++)
        fuzz_check(mk_bus_hook(&bus, mk_uart_dev.ranges[i].first, mk_uart_dev.ranges[i].last,
                               mk_uart_dev.ranges[i].io, &uart, NULL));
}

static void off(void)
{
    machine_off();
    mk_console_free(&console);
}

static void access_port(struct fuzz_in *in, bool write)
{
    static const uint16_t ports[] = { 0x20,  0x21,  0xa0,  0xa1,  0x4d0, 0x4d1, 0x40,
                                      0x41,  0x42,  0x43,  0x60,  0x61,  0x64,  0x3f8,
                                      0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff };
    uint8_t what = fuzz_u8(in);
    uint16_t port = ports[what % MK_COUNT(ports)];
    uint8_t size = what >= 0xf0 ? 4 : what >= 0xd0 ? 2 : 1;
    if (write)
        mk_bus_out(&bus, &cpu, port, size, fuzz_number(in, size), NULL);
    else
        fuzz_check(mk_bus_in(&bus, &cpu, port, size, NULL) <= mk_mask(size));
}

static void damage(struct fuzz_in *in)
{
    struct mk_bytes good = save(), bad = save();
    for (unsigned n = fuzz_u8(in) % 4; n; n--)
        bad.data[fuzz_u16(in) % bad.length] = fuzz_u8(in);
    if (load(&bad, NULL) < 0)
        fuzz_check(load(&good, NULL) == 0);
    mk_bytes_free(&good);
    mk_bytes_free(&bad);
}

static void world(struct fuzz_in *in)
{
    size_t n;
    const uint8_t *bytes;
    struct mk_err err;
    switch (fuzz_u8(in) & 7) {
    case 0: mk_pic_set_line(&pic, fuzz_u8(in), fuzz_u8(in) & 1); break;
    case 1: mk_pic_pulse(&pic, fuzz_u8(in)); break;
    case 2:
        bytes = fuzz_bytes(in, 8, &n);
        mk_i8042_key(&kbd, bytes, (unsigned)n);
        break;
    case 3: pass(fuzz_u32(in) % (50 * MS)); break;
    case 4: mk_clock_run(&vm_clock); break;
    case 5: damage(in); break;
    case 6:
        bytes = fuzz_bytes(in, 20, &n);
        mk_console_send(&console, (const char *)bytes, n, &err);
        mk_uart_input(&uart);
        break;
    default: mk_devs_reset(&devices); break;
    }
}

/* What each promises to the others. */
static void check(void)
{
    fuzz_check(pit.state.owed <= MK_PIT_HZ / 120);
    fuzz_check(kbd.state.count <= MK_I8042_KEYS && kbd.state.reply_count <= MK_I8042_REPLIES);
    fuzz_check(uart.state.fifo_count <= MK_UART_FIFO && uart.state.fifo_start < MK_UART_FIFO);
    fuzz_check(!ends || end_reason == MK_SHUTDOWN);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    on();
    while (in.left) {
        uint8_t op = fuzz_u8(&in);
        fuzz_steps++;
        if (op < 0x70)
            access_port(&in, true);
        else if (op < 0xb0)
            access_port(&in, false);
        else if (op < 0xe0)
            world(&in);
        else if (pic.intr)
            fuzz_check(mk_pic_ack(&pic) <= 255);
        check();
    }
    off();
}

FUZZ_TARGET(chips, NULL, one)
