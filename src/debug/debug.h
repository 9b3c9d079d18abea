/* debug.h - the debug engine: breakpoints, watches and single steps of a VM, for all users alike.
 *
 * A VM has an engine from its first user on. While it has users, its vCPUs run in the engine's own
 * loop (run.c); the plain one (vm/loop.c) knows of it only where a kick is answered. What is in
 * guest memory for it is there only while a vCPU runs: a VM that is stopped or paused has the
 * guest's own bytes, so that snapshots, forks, files and loaders never meet a patch.
 *
 * mk_debug_add() and what follows may be called at any time: by the owner of the VM while it does
 * not run or is paused, by any thread while it runs. A hit is told on the thread of its vCPU.
 *
 * Limits: a breakpoint at a linear address is patched where the page tables of the vCPUs map it;
 * they are asked again at exits. */
#ifndef MK_DEBUG_H
#define MK_DEBUG_H

#include "vm/vm.h"

/* Why a VM stopped with MK_BREAK, or is paused. */
enum mk_stop_kind { MK_STOP_NONE, MK_STOP_BREAK, MK_STOP_WATCH, MK_STOP_STEP, MK_STOP_UNTIL };

struct mk_break; /* a breakpoint */

/* What code begins with that a breakpoint is for: where memory holds other bytes, because another
 * program lies there or the code is not there any more, there is no patch. `length` 0: for whatever
 * is there. */
struct mk_break_code {
    uint8_t length, bytes[7];
};

#define MK_BREAKS_HIDDEN 4u

struct mk_break_options {
    uint64_t address;
    bool physical;          /* it is a guest-physical address, not a linear one */
    int cpu;                /* of which vCPU; -1: of all */
    bool once;              /* over with its first hit */
    bool hidden;            /* nothing of it is in memory: one of MK_BREAKS_HIDDEN at most */
    uint64_t after;         /* so many hits pass unnoticed first */
    enum mk_stop_kind kind; /* of its stops */
    struct mk_break_code code;
    /* On the vCPU's thread, which has not executed the instruction: true to stop. It may remove any
     * breakpoint, this one too. NULL: every hit stops. */
    bool (*hit)(void *ctx, struct mk_vcpu *c);
    void *ctx;
};

/* Adds one. NULL with *err. */
struct mk_break *mk_debug_add(struct mk_vm *vm, const struct mk_break_options *options,
                              struct mk_err *err);
/* Removes and frees it; one that is over, too. The VM frees those that are left. */
void mk_debug_remove(struct mk_vm *vm, struct mk_break *b);
uint64_t mk_break_hits(const struct mk_break *b);
/* It was a `once`, and was hit. */
bool mk_break_is_over(const struct mk_break *b);

/* Breakpoints at linear addresses that tell no more than which of them were reached: each costs one
 * exit the first time and nothing afterwards. Several VMs may have the same ones: what one of them
 * has reached is not looked for in the others from their next run on. */
struct mk_break_members {
    size_t count;
    const uint64_t *address; /* sorted, without repetition */
    const struct mk_break_code *code;
    _Atomic uint64_t *reached; /* a bit each, 64 a word; may be read at any time */
};

/* Their set in a VM. All that the members point to must stay until the set is removed or the VM is
 * closed. NULL with *err. */
struct mk_break_set;
struct mk_break_set *mk_debug_add_set(struct mk_vm *vm, const struct mk_break_members *members,
                                      struct mk_err *err);
void mk_debug_remove_set(struct mk_vm *vm, struct mk_break_set *set);

/* Watches a range of memory for accesses of the guest's processors, not of devices. The function,
 * on the vCPU's thread and after the instruction, says whether to stop; NULL: each does. What lies
 * beside it in its pages is accessed slowly: each access is an exit. */
struct mk_watchpoint;
struct mk_access {
    uint64_t address; /* linear; of a watch that is physical, that */
    unsigned length;  /* at most */
    bool write, execute;
};
struct mk_watch_options {
    uint64_t address, size;
    bool physical;
    bool read, write, execute;
    int cpu; /* -1: all */
    bool (*hit)(void *ctx, struct mk_vcpu *c, const struct mk_access *access);
    void *ctx;
};
struct mk_watchpoint *mk_debug_watch(struct mk_vm *vm, const struct mk_watch_options *options,
                                     struct mk_err *err);
void mk_debug_unwatch(struct mk_vm *vm, struct mk_watchpoint *w);
uint64_t mk_watchpoint_hits(const struct mk_watchpoint *w);

/* What stopped the VM last, until it runs again. */
struct mk_stop {
    enum mk_stop_kind kind;
    unsigned cpu;
    uint64_t address; /* linear: of the instruction; of a watch, what was accessed */
    void *ctx;        /* of the breakpoint or watch; NULL: of none */
};
struct mk_stop mk_debug_last_stop(struct mk_vm *vm);

/* One vCPU is to execute `count` instructions while the others stay where they are; a stop of kind
 * STEP follows, unless there is an earlier one. Of a VM that is paused: it does so now, until
 * mk_debug_is_done(). Of one that does not run: in the mk_vm_run() that follows. Interrupts wait
 * meanwhile, but for a vCPU that halts. Afterwards, whatever came of it, mk_debug_end_step(). */
int mk_debug_begin_step(struct mk_vm *vm, unsigned cpu, uint64_t count, struct mk_err *err);
bool mk_debug_is_done(void *vm);                   /* for mk_vm_wait_for() */
bool mk_debug_has_stepped(const struct mk_vm *vm); /* and is on its way to where it waits */
void mk_debug_end_step(struct mk_vm *vm);

/* Every instruction of every vCPU is told (vm/trace.h); not any more. -1 with *err. */
int mk_debug_trace(struct mk_vm *vm, bool on, struct mk_err *err);

#endif
