/* dev.h - the device interface: what serves an access. What it may ask of the vCPU that it serves is
 * in kvm/cpu.h.
 *
 * A device is a struct of its own plus one or more `mk_io_ops` tables; a bus (bus.h) maps ranges of
 * ports, of guest-physical memory or of MSRs to them. Handlers run on the thread of the vCPU that
 * made the access. A device whose state more than one thread reaches takes a lock of its own and
 * never calls out while it holds it. */
#ifndef MK_DEV_H
#define MK_DEV_H

#include "kvm/cpu.h"

struct mk_bytes;

#define MK_PIECE 65536 /* bytes a device moves at once; about 10 microseconds */

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
