/* debug.c - the engine of a VM: its life, its users, what stopped the VM. See debug.h. */
#include "debug/engine.h"

#include "x86/mode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* The engine of a VM, made if need be; NULL with *err. */
static struct mk_debug *get(struct mk_vm *vm, struct mk_err *err)
{
    if (vm->debug)
        return (struct mk_debug *)vm->debug;
    struct mk_debug *d = calloc(1, sizeof(*d));
    if (!d) {
        mk_fail_errno(err, ENOMEM, "vm \"%s\": its debugger", vm->name);
        return NULL;
    }
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&d->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_cond_init(&d->turn, NULL);
    d->base.ops = &run_ops;
    d->serve = exit_serve;
    d->vm = vm;
    d->memory_fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    page_init_guard(d);
    ring_forget(d);
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        d->cpu[i].over_at = NOWHERE;
    mk_vm_attach_debugger(vm, &d->base);
    return d;
}

/* --- its users --- */

struct mk_break *mk_debug_add(struct mk_vm *vm, const struct mk_break_options *options,
                              struct mk_err *err)
{
    struct mk_debug *d = get(vm, err);
    return d ? list_add(d, options, err) : NULL;
}

struct mk_break_set *mk_debug_add_set(struct mk_vm *vm, const struct mk_break_members *members,
                                      struct mk_err *err)
{
    struct mk_debug *d = get(vm, err);
    return d ? list_add_set(d, members, err) : NULL;
}

struct mk_watchpoint *mk_debug_watch(struct mk_vm *vm, const struct mk_watch_options *options,
                                     struct mk_err *err)
{
    struct mk_debug *d = get(vm, err);
    return d ? watch_add(d, options, err) : NULL;
}

int mk_debug_trace(struct mk_vm *vm, bool on, struct mk_err *err)
{
    struct mk_debug *d = on || vm->debug ? get(vm, err) : NULL;
    if (!d)
        return on ? -1 : 0;
    if (atomic_exchange(&d->traces, on) == on)
        return 0;
    on ? debug_use(d) : debug_unuse(d);
    return 0;
}

/* --- steps that were asked for --- */

int mk_debug_begin_step(struct mk_vm *vm, unsigned cpu, uint64_t count, struct mk_err *err)
{
    struct mk_debug *d = get(vm, err);
    if (!d)
        return -1;
    d->stepped = cpu;
    vm->only = cpu + 1;
    run_ops.resumed(vm);
    d->cpu[cpu].stop = (struct mk_stop){ 0 }; /* of before; what is still there is met again */
    d->cpu[cpu].steps = count;                /* last: it may be under way from here on */
    debug_use(d);
    return 0;
}

bool mk_debug_has_stepped(const struct mk_vm *vm)
{
    const struct mk_debug *d = (const struct mk_debug *)vm->debug;
    return d->cpu[d->stepped].steps == 0;
}

bool mk_debug_is_done(void *vm)
{
    return mk_debug_has_stepped(vm) && mk_vm_is_paused_or_stopped(vm);
}

void mk_debug_end_step(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    struct cpu *k = &d->cpu[d->stepped];
    k->steps = 0;
    if (k->stop.kind == MK_STOP_STEP) /* another vCPU's stop was told, and nobody waits for this */
        k->stop = (struct mk_stop){ 0 };
    vm->only = 0;
    debug_unuse(d);
}
