/* file.c - see file.h. */
#include "dev/file.h"

#include "base/abi.h"
#include "codec/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DATA_FIRST (4u << 10) /* bytes of the first read */
#define TRANSFER (1u << 20)   /* bytes moved at once for a request block */
#define DATA_KEEP (64u << 10) /* and may keep between commands */

/* As it lies in guest memory; little-endian, like the host. */
struct block {
    uint32_t op, flags; /* of OPEN; SEEK: whence */
    int32_t fd;
    uint32_t count;   /* OPEN: length of the name */
    uint64_t address; /* guest-physical, of the data or the name */
    int64_t offset;
    int64_t result;
};
_Static_assert(sizeof(struct block) == MK_FILE_BLOCK, "the ABI's request block");

/* --- byte protocol: data --- */

static bool grow(struct mk_file_wire *w, uint64_t need)
{
    uint8_t *data = mk_grow(w->data, &w->capacity, need);
    if (data)
        w->data = data;
    return data || need == 0;
}

static void shrink(struct mk_file_wire *w)
{
    if (w->capacity <= DATA_KEEP)
        return;
    free(w->data);
    w->data = NULL;
    w->capacity = 0;
}

/* A byte of a WRITE. What comes after the limit, or after memory ran out, is swallowed: then fewer
 * bytes are written than were sent, and the result says so. */
static void keep(struct mk_file_wire *w, uint64_t at, uint8_t byte)
{
    if (at == w->kept && at < MK_FILE_WIRE_MAX && grow(w, at + 1))
        w->data[w->kept++] = byte;
}

/* --- byte protocol: commands --- */

static int32_t head_i32(const struct mk_file_wire *w, unsigned at)
{
    int32_t value;
    memcpy(&value, w->head + at, sizeof(value));
    return value;
}

/* Argument bytes that a command has at the least. */
static uint64_t fixed_part(uint8_t op)
{
    switch (op) {
    case MK_FILE_OP_OPEN: return 2;
    case MK_FILE_OP_CLOSE:
    case MK_FILE_OP_STAT: return 4;
    case MK_FILE_OP_READ:
    case MK_FILE_OP_WRITE: return 8;
    case MK_FILE_OP_SEEK: return 9;
    default: return 0;
    }
}

/* Bytes after the fixed part, once that is there. A negative count is answered without any. */
static uint64_t variable_part(const struct mk_file_wire *w)
{
    if (w->op == MK_FILE_OP_OPEN)
        return w->head[1];
    if (w->op == MK_FILE_OP_WRITE && head_i32(w, 4) > 0)
        return (uint64_t)head_i32(w, 4);
    return 0;
}

/* Reads as far as there is something, so that a guest that asks for much takes no memory for it. */
static int64_t run_read(struct mk_file_port *port, struct mk_file_wire *w)
{
    int32_t fd = head_i32(w, 0), count = head_i32(w, 4);
    uint64_t got = 0, want = count < 0 ? 0 : (uint64_t)count;
    if (count < 0)
        return -EINVAL;
    if (want > MK_FILE_WIRE_MAX)
        want = MK_FILE_WIRE_MAX;
    do {
        uint64_t piece = got ? got : DATA_FIRST;
        if (piece > want - got)
            piece = want - got;
        if (!grow(w, want ? got + piece : 1)) /* also for nothing there is a place */
            return got ? (int64_t)got : -ENOMEM;
        int64_t n = mk_fsbox_read(port->box, fd, w->data + got, piece);
        if (n < 0)
            return got ? (int64_t)got : n;
        got += (uint64_t)n;
        if ((uint64_t)n < piece)
            break;
    } while (got < want);
    return (int64_t)got;
}

static int64_t run_write(struct mk_file_port *port, struct mk_file_wire *w)
{
    if (head_i32(w, 4) < 0)
        return -EINVAL;
    if (w->kept == 0 && w->have > 8)
        return -ENOMEM;
    return mk_fsbox_write(port->box, head_i32(w, 0), w->kept ? w->data : w->head, w->kept);
}

static int64_t run_command(struct mk_file_port *port, struct mk_cpu *cpu, struct mk_file_wire *w)
{
    switch (w->op) {
    case MK_FILE_OP_OPEN:
        return mk_fsbox_open(port->box, cpu, (const char *)w->head + 2, w->head[1], w->head[0]);
    case MK_FILE_OP_CLOSE: return mk_fsbox_close(port->box, head_i32(w, 0));
    case MK_FILE_OP_READ: return run_read(port, w);
    case MK_FILE_OP_WRITE: return run_write(port, w);
    case MK_FILE_OP_SEEK:
        return mk_fsbox_seek(port->box, head_i32(w, 0), head_i32(w, 4), w->head[8], INT32_MAX);
    case MK_FILE_OP_STAT: return mk_fsbox_size(port->box, head_i32(w, 0));
    default: return -EINVAL;
    }
}

static void answer(struct mk_file_wire *w, int64_t result)
{
    int32_t value = result > INT32_MAX ? -EOVERFLOW : (int32_t)result;
    memcpy(w->result, &value, sizeof(value));
    w->at = 0;
    w->end = sizeof(value) + (w->op == MK_FILE_OP_READ && value > 0 ? (uint64_t)value : 0);
    if (w->end == sizeof(value))
        shrink(w);
    w->op = 0;
}

static void add_argument(struct mk_file_wire *w, uint8_t byte)
{
    uint64_t at = w->have++;
    if (w->op != MK_FILE_OP_WRITE || at < 8)
        w->head[at] = byte;
    else
        keep(w, at - 8, byte);
    if (w->have == fixed_part(w->op))
        w->need += variable_part(w);
}

static void byte_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_file_port *port = self;
    struct mk_file_wire *w = &port->wire[io->cpu->index];
    w->at = w->end = 0;
    if (w->op) {
        add_argument(w, (uint8_t)value);
    } else {
        w->op = (uint8_t)value;
        w->have = w->kept = 0;
        w->need = fixed_part(w->op);
        if (w->need == 0) {
            answer(w, -EINVAL);
            return;
        }
    }
    if (w->have == w->need)
        answer(w, run_command(port, io->cpu, w));
}

static uint64_t byte_in(void *self, struct mk_io *io)
{
    struct mk_file_port *port = self;
    struct mk_file_wire *w = &port->wire[io->cpu->index];
    if (w->at == w->end)
        return 0;
    uint64_t at = w->at++;
    uint8_t byte = at < sizeof(w->result) ? w->result[at] : w->data[at - sizeof(w->result)];
    if (w->at == w->end)
        shrink(w);
    return byte;
}

/* --- request blocks --- */

/* Straight between the file and guest memory, *count bytes of it at most: as many as lie in one
 * region. */
static int64_t transfer_piece(struct mk_file_port *port, const struct block *b, uint64_t at,
                              uint64_t *count)
{
    bool read = b->op == MK_FILE_OP_READ;
    void *to = read ? mk_mem_writable_piece(port->mem, at, count) : NULL;
    const void *from = read ? to : mk_mem_piece(port->mem, at, count);
    if (!from)
        return -EFAULT; /* a shared file that became shorter */
    return read ? mk_fsbox_read(port->box, b->fd, to, *count)
                : mk_fsbox_write(port->box, b->fd, from, *count);
}

/* READ and WRITE. */
static int64_t transfer(struct mk_file_port *port, struct mk_cpu *cpu, const struct block *b)
{
    int64_t done = 0, n = 0;
    if (b->count > INT32_MAX)
        return -EINVAL;
    if (!mk_mem_has(port->mem, b->address, b->count, b->op == MK_FILE_OP_READ))
        return -EFAULT;
    if (b->count == 0) /* nothing lies anywhere: only the descriptor counts */
        return b->op == MK_FILE_OP_READ ? mk_fsbox_read(port->box, b->fd, &n, 0)
                                        : mk_fsbox_write(port->box, b->fd, &n, 0);
    do {
        uint64_t left = b->count - (uint64_t)done, piece = left < TRANSFER ? left : TRANSFER;
        n = transfer_piece(port, b, b->address + (uint64_t)done, &piece);
        if (n < 0)
            return done ? done : n;
        done += n;
        if ((uint64_t)n < piece)
            break;
    } while (done < b->count && cpu->ops->may_continue(cpu));
    return done;
}

/* The name is copied in: another vCPU must not change it after the check. */
static int64_t open_block(struct mk_file_port *port, struct mk_cpu *cpu, const struct block *b)
{
    char name[MK_NAME_MAX + 1];
    if (b->count > MK_NAME_MAX)
        return -ENAMETOOLONG;
    if (!mk_mem_read(port->mem, b->address, name, b->count))
        return -EFAULT;
    return mk_fsbox_open(port->box, cpu, name, b->count, b->flags);
}

static int64_t run_block(struct mk_file_port *port, struct mk_cpu *cpu, const struct block *b)
{
    switch (b->op) {
    case MK_FILE_OP_OPEN: return open_block(port, cpu, b);
    case MK_FILE_OP_CLOSE: return mk_fsbox_close(port->box, b->fd);
    case MK_FILE_OP_READ:
    case MK_FILE_OP_WRITE: return transfer(port, cpu, b);
    case MK_FILE_OP_SEEK: return mk_fsbox_seek(port->box, b->fd, b->offset, b->flags, INT64_MAX);
    case MK_FILE_OP_STAT: return mk_fsbox_size(port->box, b->fd);
    default: return -EINVAL;
    }
}

static void block_out(void *self, struct mk_io *io, uint64_t gpa)
{
    struct mk_file_port *port = self;
    struct block b;
    int64_t result = -EINVAL; /* not the whole of an address */
    if (io->size == 4 && !mk_mem_read(port->mem, gpa, &b, sizeof(b))) {
        result = -EFAULT; /* nowhere to write it: only IN tells */
    } else if (io->size == 4) {
        result = run_block(port, io->cpu, &b);
        mk_mem_write(port->mem, gpa + offsetof(struct block, result), &result, sizeof(result));
    }
    int32_t value = result > INT32_MAX ? -EOVERFLOW : (int32_t)result;
    port->wire[io->cpu->index].answer =
        (struct mk_answer){ .pending = true, .value = (uint32_t)value };
}

static uint64_t block_in(void *self, struct mk_io *io)
{
    struct mk_file_port *port = self;
    return mk_answer_take(&port->wire[io->cpu->index].answer);
}

/* --- as a device --- */

struct mk_dev *mk_file_init(struct mk_file_port *port, struct mk_fsbox *box, struct mk_mem *mem)
{
    *port = (struct mk_file_port){ .box = box, .mem = mem };
    return &port->dev;
}

void mk_file_abort(struct mk_file_port *port, unsigned cpu)
{
    struct mk_file_wire *w = &port->wire[cpu];
    if (!w->op)
        return;
    w->op = 0;
    shrink(w);
}

static void drop_commands(struct mk_file_port *port)
{
    for (unsigned i = 0; i < port->cpus; i++) {
        free(port->wire[i].data);
        port->wire[i] = (struct mk_file_wire){ 0 };
    }
}

static void file_free(void *self)
{
    struct mk_file_port *port = self;
    drop_commands(port);
    free(port->wire);
    port->wire = NULL;
    port->cpus = 0;
}

static bool file_grow(void *self, unsigned cpus)
{
    struct mk_file_port *port = self;
    return mk_grow_cpus(&port->wire, sizeof(*port->wire), &port->cpus, cpus);
}

static void file_reset(void *self)
{
    struct mk_file_port *port = self;
    drop_commands(port);
    mk_fsbox_reset(port->box);
}

static void file_code(void *self, struct mk_codec *k)
{
    struct mk_file_port *port = self;
    mk_fsbox_code(port->box, k);
}

static size_t data_used(const struct mk_file_wire *w)
{
    size_t read = w->at < w->end && w->end > sizeof(w->result) ? w->end - sizeof(w->result) : 0;
    return w->op ? w->kept : read;
}

/* A snapshot keeps no more of `data` than will be used. */
static void file_before_save(void *self)
{
    struct mk_file_port *port = self;
    for (unsigned i = 0; i < port->cpus; i++) {
        struct mk_file_wire *w = &port->wire[i];
        size_t used = data_used(w);
        uint8_t *less = w->data ? realloc(w->data, used ? used : 1) : NULL;
        if (!less)
            continue;
        w->data = less;
        w->capacity = used;
    }
}

/* What add_argument() and byte_in() rely on. */
static bool plausible(const struct mk_file_wire *w)
{
    uint64_t fixed = fixed_part(w->op);
    if (w->at > w->end || data_used(w) > w->capacity)
        return false;
    if (!w->op)
        return true;
    uint64_t need = w->have >= fixed ? fixed + variable_part(w) : fixed;
    return fixed && w->have < need && w->need == need && w->at == w->end &&
           w->kept <= (w->op == MK_FILE_OP_WRITE && w->have > 8 ? w->have - 8 : 0);
}

static bool file_valid(const void *self)
{
    const struct mk_file_port *port = self;
    bool valid = true;
    for (unsigned i = 0; i < port->cpus; i++)
        valid &= plausible(&port->wire[i]);
    return valid;
}

static const struct mk_io_ops byte_ops = {
    .name = "the file port", .in = byte_in, .out = byte_out, .width = 1
};
static const struct mk_io_ops block_ops = {
    .name = "the file port", .in = block_in, .out = block_out, .width = 4
};

#define WIRE struct mk_file_wire
static const struct mk_field wire_fields[] = {
    MK_RAW(WIRE, op),
    MK_RAW(WIRE, head),
    MK_RAW(WIRE, have),
    MK_RAW(WIRE, need),
    MK_RAW(WIRE, kept),
    MK_RAW(WIRE, result),
    MK_RAW(WIRE, at),
    MK_RAW(WIRE, end),
    MK_BLOB(WIRE, data, capacity, MK_FILE_WIRE_MAX),
    MK_FLAG(WIRE, answer.pending),
    MK_RAW(WIRE, answer.value),
    { 0 },
};

static const struct mk_field fields[] = {
    MK_EACH(struct mk_file_port, wire, cpus, wire_fields),
    { 0 },
};

const struct mk_dev_ops mk_file_dev = {
    .name = "file port",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_FILE, MK_PORT_FILE, &byte_ops },
                { MK_SPACE_PORTS, MK_PORT_FILE_BLOCK, MK_PORT_FILE_BLOCK, &block_ops } },
    .fields = fields,
    .valid = file_valid,
    .code = file_code,
    .before_save = file_before_save,
    .grow = file_grow,
    .reset = file_reset,
    .free = file_free,
};
