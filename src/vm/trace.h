/* trace.h - what a VM that is traced tells: its exits, the interrupts that are delivered, its end.
 *
 * For the thread that runs the vCPU. A VM that is not traced pays one look at vm->tracing for an
 * exit. */
#ifndef MK_TRACE_H
#define MK_TRACE_H

#include "kvm/vcpu.h"

enum { /* vm->tracing */
       MK_TRACE_EVENTS = 1,
       MK_TRACE_TIMES = 2, /* and when an exit has been served */
};

/* In the order of KINDS in lua/minikvm/debug/events.lua. */
enum mk_trace_kind {
    MK_TRACE_IN, /* reads are told with what was read, writes and HLT before they are served */
    MK_TRACE_OUT,
    MK_TRACE_READ, /* memory outside RAM */
    MK_TRACE_WRITE,
    MK_TRACE_RDMSR,
    MK_TRACE_WRMSR,
    MK_TRACE_HLT,
    MK_TRACE_CR8,       /* lowered to `value` */
    MK_TRACE_INTERRUPT, /* vector `value` is delivered with the next entry */
    MK_TRACE_SERVED,    /* the exit is; `value`: mk_now() when that began */
    MK_TRACE_END,       /* of the run; `value` is the enum mk_reason */
    MK_TRACE_STEP,      /* an instruction is about to be executed: `bytes`, as many as are mapped,
                         * `value` bits of its segment; `address` is RSP */
};

struct mk_trace {
    enum mk_trace_kind kind;
    unsigned size;           /* of an access */
    uint64_t address, value; /* port, guest-physical address or number of an MSR; what it was */
    const char *bytes;
};

/* Tells the owner of a VM that is traced. */
MK_COLD void mk_trace(struct mk_vcpu *c, const struct mk_trace *event);

#endif
