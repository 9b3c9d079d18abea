/* cpu.h - a vCPU as devices see it, and why one stops.
 *
 * Devices (dev/dev.h) and the console know no more of a vCPU than this; vm/device.c answers. Called
 * on the thread of the vCPU that made the access. */
#ifndef MK_CPU_H
#define MK_CPU_H

#include "base/abi.h"
#include "base/util.h"

enum mk_reg { MK_RAX, MK_RBX, MK_RCX, MK_RDX, MK_RSI, MK_RDI, MK_RIP };

/* Why a vCPU or VM stopped; mk_reason_name() gives the word that scripts see. */
enum mk_reason {
    MK_RUNNING = 0, /* it did not */
    MK_HALT,        /* HLT with nothing left to wake it */
    MK_EXIT,        /* the guest said so */
    MK_BREAK,       /* a debugger said so; the next run goes on from there */
    MK_STOPPED,     /* somebody else said so */
    MK_DEADLINE,
    MK_LIMIT,
    MK_FORBIDDEN, /* it printed what the script forbids */
    MK_PANIC,     /* the guest has told a device that it is broken */
    MK_SHUTDOWN,  /* triple fault, reset */
    MK_FAULT,     /* emulation or entry failure, bad hypercall, fatal unhandled access */
    MK_ERROR,     /* a Lua handler raised */
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
    /* Between pieces (MK_PIECE) of what may take long: false when the run is to end. The device
     * then answers what it has done so far. */
    bool (*may_continue)(struct mk_cpu *cpu);
    /* The same for what is printed: waits while the reader of the output is slow; the bytes that
     * may be printed before the run's limit of output ends it, 0 when the run is to end. */
    uint64_t (*output_room)(struct mk_cpu *cpu);
};

#endif
