/* exit.c - see exit.h. */
#include "dev/exit.h"

static void exit_out(void *self, struct mk_io *io, uint64_t value)
{
    (void)self;
    io->cpu->ops->end(io->cpu, MK_EXIT, value, true, "the guest wrote %u to the exit port",
                      (unsigned)value);
}

const struct mk_io_ops mk_exit_ops = { .name = "exit port", .out = exit_out, .width = 4 };
