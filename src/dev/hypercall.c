/* hypercall.c - see hypercall.h. */
#include "dev/hypercall.h"

#include "base/abi.h"

#include <stdlib.h>
#include <string.h>

#define PRINTED 4096u /* bytes of a WRITE that are copied at once */

static void answer(struct mk_hypercall *hc, struct mk_io *io, uint32_t value)
{
    hc->answer[io->cpu->index] = (struct mk_answer){ .pending = true, .value = value };
}

static void call_getchar(struct mk_hypercall *hc, struct mk_io *io)
{
    int c = mk_console_getc_idle(hc->console, io->cpu);
    uint32_t status = c >= 0               ? MK_GETCHAR_BYTE
                      : c == MK_INPUT_NONE ? MK_GETCHAR_NONE
                                           : MK_GETCHAR_EOF;
    answer(hc, io, status << 8 | (c >= 0 ? (uint32_t)c : 0xff));
}

/* EBX and ECX of the guest: an address and a length to be checked. False ends the vCPU. */
static bool buffer(struct mk_hypercall *hc, struct mk_io *io, bool write, uint32_t *gpa,
                   uint32_t *len)
{
    *gpa = (uint32_t)io->cpu->ops->reg(io->cpu, MK_RBX);
    *len = (uint32_t)io->cpu->ops->reg(io->cpu, MK_RCX);
    if (mk_mem_has(hc->mem, *gpa, *len, write))
        return true;
    io->cpu->ops->end(io->cpu, MK_FAULT, 0, false,
                      "hypercall %s: 0x%x bytes at 0x%x are not all in RAM",
                      write ? "READ" : "WRITE", *len, *gpa);
    return false;
}

/* How much of a WRITE is printed at once: a line, when somebody listens, who may be slow. */
static uint64_t piece_of(const struct mk_console *con, const char *bytes, uint64_t length)
{
    const char *newline = con->lines ? memchr(bytes, '\n', length) : NULL;
    return newline ? (uint64_t)(newline - bytes) + 1 : length;
}

static void call_write(struct mk_hypercall *hc, struct mk_io *io)
{
    struct mk_cpu *cpu = io->cpu;
    uint32_t gpa, len, done = 0;
    char bytes[PRINTED];
    if (!buffer(hc, io, false, &gpa, &len))
        return;
    for (uint64_t room; done < len && (room = cpu->ops->output_room(cpu));) {
        uint64_t piece = len - done < PRINTED ? len - done : PRINTED;
        if (piece > room)
            piece = room;
        if (!mk_mem_read(hc->mem, (uint64_t)gpa + done, bytes, piece))
            break; /* a shared file that became shorter */
        piece = piece_of(hc->console, bytes, piece);
        mk_console_write(hc->console, cpu, bytes, piece);
        done += (uint32_t)piece;
    }
    answer(hc, io, done);
}

static void call_read(struct mk_hypercall *hc, struct mk_io *io)
{
    uint32_t gpa, len, got = 0;
    if (!buffer(hc, io, true, &gpa, &len))
        return;
    int c = len ? mk_console_getc_idle(hc->console, io->cpu) : 0;
    while (got < len && c >= 0) {
        uint8_t byte = (uint8_t)c;
        mk_mem_write(hc->mem, (uint64_t)gpa + got++, &byte, 1);
        if (got % MK_PIECE == 0 && !io->cpu->ops->may_continue(io->cpu))
            break;
        if (got < len)
            c = mk_console_getc(hc->console);
    }
    if (got == 0 && len)
        got = c == MK_INPUT_EOF ? MK_READ_EOF : MK_READ_NONE;
    answer(hc, io, got);
}

/* Carries out a built-in call, whose answer waits for the next IN. */
static void call_builtin(struct mk_hypercall *hc, struct mk_io *io, uint8_t number)
{
    struct mk_cpu *cpu = io->cpu;
    uint8_t bl = (uint8_t)cpu->ops->reg(cpu, MK_RBX);
    switch (number) {
    case MK_HC_EXIT:
        cpu->ops->end(cpu, MK_EXIT, bl, false, "the guest exited with code %u", bl);
        break;
    case MK_HC_PUTCHAR: mk_console_putc(hc->console, cpu, bl); break;
    case MK_HC_GETCHAR: call_getchar(hc, io); break;
    case MK_HC_WRITE: call_write(hc, io); break;
    case MK_HC_READ: call_read(hc, io); break;
    default:
        cpu->ops->end(cpu, MK_FAULT, 0, false,
                      "unknown hypercall 0x%02x: define it with "
                      "vm.hypercalls:define(0x%02x, name, fn)",
                      number, number);
    }
}

uint32_t mk_hypercall_builtin(struct mk_hypercall *hc, struct mk_io *io, uint8_t number)
{
    call_builtin(hc, io, number);
    return mk_answer_take(&hc->answer[io->cpu->index]);
}

static void hypercall_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_hypercall *hc = self;
    uint32_t result = 0;
    hc->answer[io->cpu->index].pending = false;
    if (hc->other && hc->other(hc->ctx, io, (uint8_t)value, &result))
        answer(hc, io, result);
    else
        call_builtin(hc, io, (uint8_t)value);
}

/* An 8-bit IN takes the original convention (0xff: none), a wider one has the status in AH. A
 * GETCHAR answer is never wider than AX. */
static uint64_t hypercall_in(void *self, struct mk_io *io)
{
    const struct mk_hypercall *hc = self;
    return mk_answer_take(&hc->answer[io->cpu->index]);
}

/* --- as a device --- */

struct mk_dev *mk_hypercall_init(struct mk_hypercall *hc, struct mk_console *console,
                                 struct mk_mem *mem)
{
    *hc = (struct mk_hypercall){ .console = console, .mem = mem };
    return &hc->dev;
}

static void hypercall_reset(void *self)
{
    struct mk_hypercall *hc = self;
    memset(hc->answer, 0, hc->cpus * sizeof(*hc->answer));
}

static bool hypercall_grow(void *self, unsigned cpus)
{
    struct mk_hypercall *hc = self;
    return mk_grow_cpus(&hc->answer, sizeof(*hc->answer), &hc->cpus, cpus);
}

static void hypercall_free(void *self)
{
    struct mk_hypercall *hc = self;
    free(hc->answer);
    hc->answer = NULL;
    hc->cpus = 0;
}

static const struct mk_io_ops ops = {
    .name = "hypercall port", .in = hypercall_in, .out = hypercall_out, .width = 4
};

static const struct mk_field answer_fields[] = {
    MK_FLAG(struct mk_answer, pending),
    MK_RAW(struct mk_answer, value),
    { 0 },
};

static const struct mk_field fields[] = {
    MK_EACH(struct mk_hypercall, answer, cpus, answer_fields),
    { 0 },
};

const struct mk_dev_ops mk_hypercall_dev = {
    .name = "hypercalls",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_HYPERCALL, MK_PORT_HYPERCALL, &ops } },
    .fields = fields,
    .grow = hypercall_grow,
    .reset = hypercall_reset,
    .free = hypercall_free,
};
