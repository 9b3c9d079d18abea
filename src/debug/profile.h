/* profile.h - samples of where the vCPUs of a VM are, taken at a fixed rate while it runs.
 *
 * The I/O thread asks at each tick; a vCPU that is awake answers on its own thread when it is out
 * of the guest, and counts for as many ticks as passed meanwhile. One that sleeps is not woken. A
 * stack is what the frame pointers lead to (push rbp; mov rbp, rsp); equal ones are kept once. */
#ifndef MK_PROFILE_H
#define MK_PROFILE_H

#include "vm/vm.h"

#define MK_PROFILE_DEPTH 64
#define MK_PROFILE_STACKS 16384 /* different ones that are kept */

struct mk_profile {
    struct mk_profiler base; /* first */
    struct mk_vm *vm;
    _Atomic bool on;
    bool stacks; /* callers, too */
    uint64_t period;
    struct mk_io_timer timer;
    _Atomic uint64_t due[MK_MAX_CPUS];   /* ticks that a vCPU has not answered */
    _Atomic uint64_t where[MK_MAX_CPUS]; /* it was when somebody asked; UINT64_MAX: it is asked */
    pthread_mutex_t lock;                /* what follows */
    uint64_t *words; /* of each stack: count, depth, addresses, innermost first */
    size_t used, room;
    uint32_t *table; /* by hash, where in `words` it begins, + 1; 0: free */
    unsigned count;
    uint64_t samples, idle, lost; /* in ticks; lost: there was no room for another stack */
};

/* That of a VM; NULL: none was ever begun. */
static inline struct mk_profile *mk_profile_of(const struct mk_vm *vm)
{
    return (struct mk_profile *)atomic_load(&vm->profiler);
}

/* Forgets what there was, and begins: a tick every `period` nanoseconds of the VM's run. -1 with
 * *err. Its owner. */
int mk_profile_start(struct mk_vm *vm, uint64_t period, bool stacks, struct mk_err *err);
void mk_profile_stop(struct mk_vm *vm);
/* Where a vCPU is; of one that runs it is asked, and may not answer in time: false. */
bool mk_profile_where(struct mk_vm *vm, unsigned cpu, uint64_t *rip);

#endif
