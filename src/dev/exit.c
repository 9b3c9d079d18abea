/* exit.c - see exit.h. */
#include "dev/exit.h"

#include "base/abi.h"

static void exit_out(void *self, struct mk_io *io, uint64_t value)
{
    (void)self;
    io->cpu->ops->end(io->cpu, MK_EXIT, value, true, "the guest wrote %u to the exit port",
                      (unsigned)value);
}

static const struct mk_io_ops ops = { .name = "exit port", .out = exit_out, .width = 4 };

const struct mk_dev_ops mk_exit_dev = {
    .name = "exit", .ranges = { { MK_SPACE_PORTS, MK_PORT_EXIT, MK_PORT_EXIT, &ops } }
};
