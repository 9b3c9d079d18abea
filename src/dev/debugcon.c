/* debugcon.c - see debugcon.h. */
#include "dev/debugcon.h"

static uint64_t debugcon_in(void *self, struct mk_io *io)
{
    int c = mk_console_getc_idle(self, io->cpu);
    return c >= 0 ? (uint32_t)c : 0xff;
}

static void debugcon_out(void *self, struct mk_io *io, uint64_t value)
{
    mk_console_putc(self, io->cpu, (uint8_t)value);
}

const struct mk_io_ops mk_debugcon_ops = {
    .name = "debug console", .in = debugcon_in, .out = debugcon_out, .width = 1, .coalesce = true };
