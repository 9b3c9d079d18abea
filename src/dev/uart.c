/* uart.c - see uart.h. */
#include "dev/uart.h"

#include "base/abi.h"

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR }; /* register offsets */

#define IER_RX 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_RX 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define LCR_DLAB 0x80
#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* gates the interrupt line on a PC */
#define MCR_LOOP 0x10
#define LSR_READY 0x01
#define LSR_OVERRUN 0x02
#define LSR_EMPTY 0x60     /* THRE and TEMT: sending takes no time */
#define MSR_CONNECTED 0xb0 /* DCD, DSR, CTS */

#define UART_9600 12  /* the divisor that a PC's firmware leaves: 9600 baud */
#define FREE_POLLS 64 /* LSR reads in vain before a polling vCPU is made to wait */
#define IDLE_MS 1     /* short: some drivers count polls to find their timeouts */

static unsigned depth(const struct mk_uart_state *s)
{
    return s->fcr & FCR_ENABLE ? MK_UART_FIFO : 1;
}

static void push(struct mk_uart_state *s, uint8_t byte)
{
    s->fifo[(s->fifo_start + s->fifo_count++) % MK_UART_FIFO] = byte;
}

static uint8_t pop(struct mk_uart_state *s)
{
    if (s->fifo_count == 0)
        return 0;
    uint8_t byte = s->fifo[s->fifo_start];
    s->fifo_start = (uint8_t)((s->fifo_start + 1) % MK_UART_FIFO);
    s->fifo_count--;
    return byte;
}

/* Takes what the console has and the FIFO can hold. Only for a guest that reads this port: others
 * take their input elsewhere, and must find it there. */
static void receive(struct mk_uart *uart)
{
    struct mk_uart_state *s = &uart->state;
    while (!(s->mcr & MCR_LOOP) && s->fifo_count < depth(s)) {
        int c = mk_console_getc(uart->console);
        if (c < 0)
            break;
        push(s, (uint8_t)c);
    }
}

static unsigned trigger(const struct mk_uart_state *s)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };
    return s->fcr & FCR_ENABLE ? levels[s->fcr >> 6] : 1;
}

/* The pending interrupt of the highest priority (data sheet table 5), without the FIFO bits. */
static uint8_t pending(const struct mk_uart_state *s)
{
    if (s->ier & IER_LINE && s->errors)
        return IIR_LINE;
    if (s->ier & IER_RX && s->fifo_count >= trigger(s))
        return IIR_RX;
    if (s->ier & IER_RX && s->fifo_count > 0) /* no more is coming: the character timeout */
        return IIR_TIMEOUT;
    if (s->ier & IER_THRE && s->thre_pending)
        return IIR_THRE;
    if (s->ier & IER_MODEM && s->modem_delta)
        return IIR_MODEM;
    return IIR_NONE;
}

static bool line_level(const struct mk_uart_state *s)
{
    return pending(s) != IIR_NONE && s->mcr & MCR_OUT2;
}

static uint8_t modem_lines(const struct mk_uart_state *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_CONNECTED;
    return (uint8_t)((s->mcr & MCR_RTS ? 0x10 : 0) | (s->mcr & MCR_DTR ? 0x20 : 0) |
                     (s->mcr & MCR_OUT1 ? 0x40 : 0) | (s->mcr & MCR_OUT2 ? 0x80 : 0));
}

static bool ready(struct mk_uart *uart)
{
    return uart->state.fifo_count > 0 ||
           (!(uart->state.mcr & MCR_LOOP) && mk_console_peek(uart->console) >= 0);
}

static uint8_t line_status(struct mk_uart *uart)
{
    struct mk_uart_state *s = &uart->state;
    uint8_t value = (uint8_t)(LSR_EMPTY | s->errors | (ready(uart) ? LSR_READY : 0));
    s->errors = 0;
    return value;
}

static uint8_t identify(struct mk_uart_state *s)
{
    uint8_t value = pending(s);
    if (value == IIR_THRE)
        s->thre_pending = false;
    return (uint8_t)(value | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static uint8_t read_input(struct mk_uart *uart)
{
    receive(uart);
    return pop(&uart->state);
}

static uint8_t read_register(struct mk_uart *uart, unsigned reg)
{
    struct mk_uart_state *s = &uart->state;
    bool dlab = s->lcr & LCR_DLAB;
    uint8_t value;
    switch (reg) {
    case RBR_THR: return dlab ? s->dll : read_input(uart);
    case IER: return dlab ? s->dlm : s->ier;
    case IIR_FCR: return identify(s);
    case LCR: return s->lcr;
    case MCR: return s->mcr;
    case LSR: return line_status(uart);
    case MSR:
        value = modem_lines(s) | s->modem_delta;
        s->modem_delta = 0;
        return value;
    default: return s->scr;
    }
}

/* A byte arrives in loopback. One too many is lost with a FIFO; without, it replaces the last one
 * (data sheet, LSR bit 1). */
static void loop_back(struct mk_uart_state *s, uint8_t value)
{
    bool overrun = s->fifo_count == depth(s);
    if (overrun)
        s->errors |= LSR_OVERRUN;
    if (overrun && !(s->fcr & FCR_ENABLE))
        pop(s);
    if (s->fifo_count < depth(s))
        push(s, value);
}

/* A write to THR resets its interrupt, which comes again when the byte has left: an edge. Returns
 * true when it leaves the chip. */
static bool transmit(struct mk_uart *uart, uint8_t value)
{
    struct mk_uart_state *s = &uart->state;
    if (s->ier & IER_THRE && s->thre_pending) {
        s->thre_pending = false;
        mk_irq_set(&uart->irq, line_level(s));
    }
    s->thre_pending = true;
    if (s->mcr & MCR_LOOP)
        loop_back(s, value);
    return !(s->mcr & MCR_LOOP);
}

static void write_fcr(struct mk_uart_state *s, uint8_t value)
{
    bool toggled = (s->fcr ^ value) & FCR_ENABLE;
    if (toggled || (value & FCR_ENABLE && value & FCR_CLEAR_RX))
        s->fifo_count = 0;
    s->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
}

static void write_mcr(struct mk_uart_state *s, uint8_t value)
{
    uint8_t before = modem_lines(s);
    s->mcr = value & 0x1f;
    uint8_t changed = before ^ modem_lines(s);
    uint8_t rings = before & ~modem_lines(s) & 0x40; /* RI counts when it ends */
    s->modem_delta |= (uint8_t)(((changed & 0xb0) | rings) >> 4);
}

/* Returns true when the byte is to be printed. */
static bool write_register(struct mk_uart *uart, unsigned reg, uint8_t value)
{
    struct mk_uart_state *s = &uart->state;
    bool dlab = s->lcr & LCR_DLAB;
    switch (reg) {
    case RBR_THR:
        if (!dlab)
            return transmit(uart, value);
        s->dll = value;
        break;
    case IER:
        if (dlab) {
            s->dlm = value;
            break;
        }
        if (value & ~s->ier & IER_THRE)
            s->thre_pending = true;
        s->ier = value & 0x0f;
        break;
    case IIR_FCR: write_fcr(s, value); break;
    case LCR: s->lcr = value; break;
    case MCR: write_mcr(s, value); break;
    case SCR: s->scr = value; break;
    default: break; /* LSR and MSR are read-only */
    }
    return false;
}

/* Ends a locked section: takes what has come, and moves the line. */
static void finish(struct mk_uart *uart)
{
    if (uart->state.ier & IER_RX)
        receive(uart);
    mk_irq_set(&uart->irq, line_level(&uart->state));
    pthread_mutex_unlock(&uart->dev.lock);
}

/* A byte that is read takes its interrupt along; the next raises it again, also one that is in the
 * FIFO already: on a real line it would have come later. (The timeout does so by the data sheet.)
 */
static uint64_t uart_in(void *self, struct mk_io *io)
{
    struct mk_uart *uart = self;
    unsigned reg = io->address & 7;
    pthread_mutex_lock(&uart->dev.lock);
    bool byte = reg == RBR_THR && !(uart->state.lcr & LCR_DLAB);
    uint8_t value = read_register(uart, reg);
    mk_irq_set(&uart->irq, !byte && line_level(&uart->state));
    bool vain = reg == LSR && !(value & LSR_READY) && ++uart->polls > FREE_POLLS;
    if (value & LSR_READY)
        uart->polls = 0;
    finish(uart);
    if (vain)
        io->cpu->ops->idle(io->cpu, IDLE_MS);
    return value;
}

static void uart_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_uart *uart = self;
    pthread_mutex_lock(&uart->dev.lock);
    uart->polls = 0;
    bool print = write_register(uart, io->address & 7, (uint8_t)value);
    finish(uart);
    if (print)
        mk_console_putc(uart->console, io->cpu, (uint8_t)value);
}

void mk_uart_input(struct mk_uart *uart)
{
    pthread_mutex_lock(&uart->dev.lock);
    finish(uart);
}

static void uart_reset(void *self)
{
    struct mk_uart *uart = self;
    pthread_mutex_lock(&uart->dev.lock);
    uart->state = (struct mk_uart_state){ .dll = UART_9600 };
    uart->polls = 0;
    mk_irq_set(&uart->irq, false);
    pthread_mutex_unlock(&uart->dev.lock);
}

static void uart_after_load(void *self)
{
    struct mk_uart *uart = self;
    pthread_mutex_lock(&uart->dev.lock);
    uart->polls = 0;
    mk_irq_set(&uart->irq, line_level(&uart->state));
    pthread_mutex_unlock(&uart->dev.lock);
}

struct mk_dev *mk_uart_init(struct mk_uart *uart, struct mk_console *console, struct mk_irq irq)
{
    *uart = (struct mk_uart){ .console = console, .irq = irq };
    uart->state.dll = UART_9600;
    return &uart->dev;
}

static const struct mk_io_ops data_ops = { /* its output is coalesced */
                                           .name = "16550A UART",
                                           .in = uart_in,
                                           .out = uart_out,
                                           .width = 1,
                                           .coalesce = true
};
static const struct mk_io_ops other_ops = {
    .name = "16550A UART", .in = uart_in, .out = uart_out, .width = 1
};

static const struct mk_field fields[] = {
    MK_BITS(struct mk_uart, state.ier, 0x0f),
    MK_RAW(struct mk_uart, state.fcr),
    MK_RAW(struct mk_uart, state.lcr),
    MK_BITS(struct mk_uart, state.mcr, 0x1f),
    MK_RAW(struct mk_uart, state.scr),
    MK_RAW(struct mk_uart, state.dll),
    MK_RAW(struct mk_uart, state.dlm),
    MK_BITS(struct mk_uart, state.errors, LSR_OVERRUN),
    MK_BITS(struct mk_uart, state.modem_delta, 0x0f),
    MK_FLAG(struct mk_uart, state.thre_pending),
    MK_RAW(struct mk_uart, state.fifo),
    MK_RANGE(struct mk_uart, state.fifo_start, 0, MK_UART_FIFO - 1),
    MK_RANGE(struct mk_uart, state.fifo_count, 0, MK_UART_FIFO),
    { 0 },
};

const struct mk_dev_ops mk_uart_dev = {
    .name = "uart",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_UART, MK_PORT_UART, &data_ops },
                { MK_SPACE_PORTS, MK_PORT_UART + 1, MK_PORT_UART + 7, &other_ops } },
    .fields = fields,
    .after_load = uart_after_load,
    .reset = uart_reset,
};
