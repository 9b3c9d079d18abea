/* file.h - the file port: byte protocol on 0x278, request blocks on 0x27c (docs/files.md).
 *
 * Both are ways to say the same six operations to the VM's fsbox, which is a part of this device:
 * reset, saved and loaded with it. A command that is being sent and
 * an answer that is being fetched belong to one vCPU and are touched by its thread only, so no vCPU
 * waits for another one's stalled command. Nothing a guest sends is trusted: a request block is
 * copied in once; buffers are checked against RAM and then read and written in place. */
#ifndef MK_DEV_FILE_H
#define MK_DEV_FILE_H

#include "dev/hypercall.h"
#include "files/fsbox.h"
#include "kvm/mem.h"

/* Data of one byte-protocol command that are kept; a longer READ or WRITE is done this far. */
#define MK_FILE_WIRE_MAX (16u << 20)

/* One vCPU's side of the byte protocol, */
struct mk_file_wire {
    uint8_t op;            /* the command being sent; 0: none */
    uint8_t head[2 + 255]; /* its arguments but the data of a WRITE */
    uint64_t have, need;   /* argument bytes, as far as is known */
    uint64_t kept;         /* of the data of a WRITE, in `data` */
    uint8_t result[4];     /* the answer: this, then `data` */
    uint64_t at, end;      /* what was fetched of it; at == end: no answer is pending */
    uint8_t *data;
    size_t capacity;
    struct mk_answer answer; /* and of the last request block */
};

struct mk_file_port {
    struct mk_dev dev;
    struct mk_fsbox *box;
    struct mk_mem *mem;
    struct mk_file_wire *wire; /* of each vCPU */
    unsigned cpus;
};

struct mk_dev *mk_file_init(struct mk_file_port *port, struct mk_fsbox *box, struct mk_mem *mem);
/* The vCPU stopped by its own doing: a command it had begun is dropped. */
void mk_file_abort(struct mk_file_port *port, unsigned cpu);

extern const struct mk_dev_ops mk_file_dev;

#endif
