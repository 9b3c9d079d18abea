/* machine.h - what the run loops of a VM's vCPUs share: memory, buses, console, clock, limits.
 *
 * The VM (vm.h) owns it and fills it in; the run loops (loop.h) read it. What changes while they
 * run is atomic or has a lock of its own. */
#ifndef MK_MACHINE_H
#define MK_MACHINE_H

#include "dev/bus.h"
#include "io/clock.h"
#include "io/console.h"
#include "kvm/kvm.h"
#include "kvm/mem.h"

struct mk_assist;
struct mk_pic;
struct mk_vcpu;

/* What only the script knows. All may be NULL. */
struct mk_machine_ops {
    /* The script wants its thread back (a signal such as Ctrl-C): end the run. On any thread. */
    bool (*interrupted)(void *ctx);
    /* One line for every exit. On the vCPU's thread. */
    void (*trace)(void *ctx, struct mk_vcpu *cpu, const char *line);
    /* Code of the script that a vCPU's thread runs shall end. Asked on the I/O thread. */
    bool (*overdue)(void *ctx, struct mk_vcpu *cpu);
    /* At every kick of the vCPU's thread, in the signal's handler. */
    void (*kicked)(void *ctx, struct mk_vcpu *cpu);
};

struct mk_machine {
    const struct mk_kvm *kvm;
    int fd; /* of the KVM VM */
    struct mk_mem mem;
    struct mk_bus bus;  /* ports */
    struct mk_bus mmio; /* guest-physical addresses outside RAM */
    struct mk_bus msrs; /* those that KVM hands to us (hooks.c) */
    struct mk_clock clock;
    struct mk_console console;
    bool unhandled_fault; /* an access that nobody serves ends the vCPU */
    _Atomic bool tracing;
    _Atomic uint64_t deadline; /* mk_now() time, UINT64_MAX: none */
    _Atomic bool paused;       /* vCPUs shall stay outside the guest */
    bool on_caller_thread;     /* its vCPU runs on the thread of who may be interrupted */
    uint64_t exit_limit;       /* per vCPU and run, UINT64_MAX: none */
    uint64_t output_limit;     /* bytes per vCPU, UINT64_MAX: none */
    struct mk_pic *pic;        /* NULL: none */
    struct mk_assist *assist;  /* NULL: this host needs none, or it is not wanted */
    const struct mk_machine_ops *ops;
    void *ctx; /* for ops */
};

/* For mk_wait(): the script wants its thread back. */
static inline bool mk_machine_interrupted(void *machine)
{
    const struct mk_machine *m = machine;
    return m->ops && m->ops->interrupted && m->ops->interrupted(m->ctx);
}

#endif
