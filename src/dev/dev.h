/* dev.h - the device interface: what serves an access, and what it may ask of the vCPU it serves.
 *
 * A device is a struct of its own plus one or more `mk_io_ops` tables; a bus (bus.h) maps ranges of
 * ports, of guest-physical memory or of MSRs to them. Handlers run on the thread of the vCPU that made the access. A device whose state
 * more than one thread reaches takes a lock of its own and never calls out while it holds it. */
#ifndef MK_DEV_H
#define MK_DEV_H

#include "base/util.h"

struct mk_bytes;

#define MK_MAX_CPUS 4 /* vCPUs of one VM */
#define MK_PIECE 65536 /* bytes a device moves at once; about 10 microseconds */

enum mk_reg { MK_RAX, MK_RBX, MK_RCX, MK_RDX, MK_RSI, MK_RDI, MK_RIP };

/* Why a vCPU or VM stopped; mk_reason_name() gives the word that scripts see. */
enum mk_reason {
    MK_RUNNING = 0, /* it did not */
    MK_HALT,        /* HLT with nothing left to wake it */
    MK_EXIT,        /* the guest said so */
    MK_STOPPED,     /* somebody else said so */
    MK_BREAK,
    MK_DEADLINE,
    MK_LIMIT,
    MK_FORBIDDEN, /* it printed what the script forbids */
    MK_SHUTDOWN, /* triple fault */
    MK_FAULT,    /* emulation or entry failure, bad hypercall, fatal unhandled access */
    MK_ERROR,    /* a Lua handler raised */
    MK_REASONS
};

/* The vCPU as devices see it. */
struct mk_cpu {
    unsigned index;
    bool printed; /* something that may not be written yet (io/console.h) */
    const struct mk_cpu_ops *ops;
};

struct mk_cpu_ops {
    /* A general register at the access being served. */
    uint64_t (*reg)(struct mk_cpu *cpu, enum mk_reg reg);
    /* Ends this vCPU after the access; `whole_vm` ends its siblings too. The first call counts. */
    void (*end)(struct mk_cpu *cpu, enum mk_reason reason, int64_t code, bool whole_vm,
                const char *fmt, ...) MK_PRINTF(5, 6);
    /* The guest polls for input in vain: lets the vCPU sleep until there is some, an interrupt or a
     * request to stop comes, or `ms` milliseconds have passed, so that polling burns no core. */
    void (*idle)(struct mk_cpu *cpu, unsigned ms);
    /* Between pieces (MK_PIECE) of what may take long: false when the run is to end. The device then
     * answers what it has done so far. */
    bool (*more)(struct mk_cpu *cpu);
    /* The same for what is printed: waits while the reader of the output is slow; the bytes that may
     * be printed before the run's limit of output ends it, 0 when the run is to end. */
    uint64_t (*output_room)(struct mk_cpu *cpu);
};

/* One access. */
struct mk_io {
    struct mk_cpu *cpu;
    struct mk_bus *bus;
    struct mk_hook *hook; /* whose turn it is (bus.h) */
    uint64_t address;     /* port, guest-physical address or number of the MSR */
    uint8_t size;         /* in bytes: ports 1, 2, 4; memory 1 to 8; MSRs 8 */
    bool passed;          /* set by a handler that leaves the access to what lies beneath */
};

struct mk_io_ops {
    const char *name;
    uint64_t (*in)(void *self, struct mk_io *io);
    void (*out)(void *self, struct mk_io *io, uint64_t value);
    /* Is told what is read, after `in` has passed; may be NULL. */
    void (*tap)(void *self, struct mk_io *io, uint64_t value);
    uint8_t width;   /* the widest access taken whole; wider ones are served byte by byte */
    bool coalesce;   /* one-byte OUTs may be collected by KVM and arrive later, in order */
    bool script;     /* served in Lua: only for the counters */
    void (*reset)(void *self);  /* the VM is reset; may be NULL */
    /* What a snapshot keeps, written and taken back (any content must be safe); may be NULL. */
    void (*save)(void *self, struct mk_bytes *out);
    void (*load)(void *self, const uint8_t *bytes, size_t length);
    void (*retire)(void *self); /* called once when the bus lets go of the hook; may be NULL */
};

/* An interrupt line that a device drives; `set` may be NULL (not wired). Level, active high. */
struct mk_irq {
    void (*set)(void *ctx, unsigned line, bool level);
    void *ctx;
    unsigned line;
};

static inline void mk_irq_set(const struct mk_irq *irq, bool level)
{
    if (irq->set)
        irq->set(irq->ctx, irq->line, level);
}

#endif
