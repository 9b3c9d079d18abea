/* console.c - where text goes to, and where typed bytes come from.
 *
 * Output has three ways: the UART, the debug port (bytes that the VMM collects without an exit
 * each), or a hypercall per byte, which always works. Input comes from the UART or by hypercall,
 * and from the keyboard as well where there is one. Interrupt handlers put bytes into a ring. */
#include "io.h"
#include "kernel.h"
#include "line.h"
#include "str.h"

#define NOTHING_YET (-2)
#define POLL_TICKS_MAX 8
#define RING 1024 /* a power of two */

static enum { BY_HYPERCALL, BY_DEBUGCON, BY_UART } output = BY_HYPERCALL;
static bool keyboard_only, input_ended;

static volatile char ring[RING];
static volatile uint32_t ring_in, ring_out; /* written by the handlers; by the reader */

void console_init(void)
{
    char value[16];

    if (boot.features & BOOT_UART) {
        output = BY_UART;
        uart_init();
    } else if (boot.features & BOOT_DEBUGCON) {
        output = BY_DEBUGCON;
    }
    keyboard_only = option_value("input", value, sizeof value) && str_equal(value, "keyboard");
}

void console_write(const char *text, uint32_t length)
{
    if (output == BY_UART) {
        uart_write(text, length);
    } else if (output == BY_DEBUGCON) {
        while (length--)
            outb(MK_PORT_DEBUGCON, (uint8_t)*text++);
    } else {
        while (length--)
            hypercall(MK_HC_PUTCHAR, (uint8_t)*text++);
    }
}

void console_push(char c)
{
    if (ring_in - ring_out < RING) /* typed faster than read: the newest is lost */
        ring[ring_in++ % RING] = c;
}

static int poll_hypercall(void)
{
    uint16_t answer;

    if (input_ended)
        return END_OF_INPUT;
    hypercall(MK_HC_GETCHAR, 0);
    answer = inw(MK_PORT_HYPERCALL); /* status in the high byte */
    if (answer >> 8 == MK_GETCHAR_BYTE)
        return answer & 0xff;
    input_ended = answer >> 8 == MK_GETCHAR_EOF;
    return input_ended ? END_OF_INPUT : NOTHING_YET;
}

static int poll(void)
{
    if (ring_in != ring_out)
        return (uint8_t)ring[ring_out++ % RING];
    if (have_pic && (output == BY_UART || keyboard_only)) /* these come by interrupt */
        return NOTHING_YET;
    if (output == BY_UART) {
        int c = uart_poll();
        return c < 0 ? NOTHING_YET : c;
    }
    return poll_hypercall();
}

/* Halts until the ring has something or so many ticks have passed. Without interrupts it returns
 * at once: then it is the VMM that makes a polling kernel wait. */
static void wait(uint32_t duration)
{
    uint32_t start = ticks;

    while (have_pic) {
        interrupts_off();
        if (ring_in != ring_out || ticks - start >= duration)
            break;
        interrupts_on_and_halt();
    }
    if (have_pic)
        interrupts_on();
}

/* Hypercall input interrupts nobody, so it is polled: soon at first, then less and less often. */
int console_getc(void)
{
    int c;

    for (uint32_t pause = 1; (c = poll()) == NOTHING_YET; pause *= pause < POLL_TICKS_MAX ? 2 : 1)
        wait(pause);
    return c;
}

int console_read_line(char *buffer, uint32_t size)
{
    static struct line line;
    static uint32_t taken; /* of a line that was longer than the reader's buffer */
    enum line_result result = LINE_DONE;

    if (taken == line.length) {
        taken = 0;
        line_clear(&line);
        while ((result = line_feed(&line, console_getc(), console_write)) == LINE_MORE)
            ;
        if (result == LINE_DONE && line.dropped)
            kprintf("[line too long: %u bytes dropped]\n", line.dropped);
    }
    if (result != LINE_DONE) {
        line_clear(&line);
        return result == LINE_INTR ? ERR_INTR : 0;
    }
    if (size > line.length - taken)
        size = line.length - taken;
    memcpy(buffer, line.text + taken, size);
    taken += size;
    return (int)size;
}
