/* debugcon.c - see debugcon.h. */
#include "dev/debugcon.h"

#include "base/abi.h"

static uint64_t debugcon_in(void *self, struct mk_io *io)
{
    struct mk_debugcon *port = self;
    int c = mk_console_getc_idle(port->console, io->cpu);
    return c >= 0 ? (uint32_t)c : 0xff;
}

static MK_HOT void debugcon_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_debugcon *port = self;
    mk_console_putc(port->console, io->cpu, (uint8_t)value);
}

struct mk_dev *mk_debugcon_init(struct mk_debugcon *port, struct mk_console *console)
{
    *port = (struct mk_debugcon){ .console = console };
    return &port->dev;
}

static void debugcon_code(void *self, struct mk_codec *k)
{
    struct mk_debugcon *port = self;
    mk_console_code(port->console, k);
}

static void debugcon_reset(void *self)
{
    struct mk_debugcon *port = self;
    mk_console_reset(port->console);
}

static bool debugcon_grow(void *self, unsigned cpus)
{
    struct mk_debugcon *port = self;
    if (cpus > port->console->cpus)
        port->console->cpus = cpus;
    return true;
}

static const struct mk_io_ops ops = {
    .name = "debug console", .in = debugcon_in, .out = debugcon_out, .width = 1, .coalesce = true
};

const struct mk_dev_ops mk_debugcon_dev = {
    .name = "debugcon",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_DEBUGCON, MK_PORT_DEBUGCON, &ops } },
    .code = debugcon_code,
    .grow = debugcon_grow,
    .reset = debugcon_reset,
};
