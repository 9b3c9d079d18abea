/* state.c - whether a VM runs or is paused, and waiting for a change of that. See vm.h. */
#include "vm/vm.h"

/* --- waiting --- */

void mk_vm_notify(struct mk_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    mk_wake(vm->waiters);
    pthread_mutex_unlock(&vm->lock);
}

struct mk_wait mk_vm_wait_for(struct mk_vm *vm, bool (*done)(void *ctx), void *ctx)
{
    return (struct mk_wait){ .lock = &vm->lock, .waiters = &vm->waiters, .done = done, .ctx = ctx };
}

bool mk_vm_is_stopped(void *ctx)
{
    const struct mk_vm *vm = ctx;
    return vm->state != MK_VM_RUNNING;
}

bool mk_vm_wait(struct mk_vm *vm, uint64_t ns)
{
    struct mk_wait wait = mk_vm_wait_for(vm, mk_vm_is_stopped, vm);
    return mk_wait(&wait, ns ? mk_time_in(ns) : 0);
}

/* --- pausing --- */

void mk_vm_count_paused(struct mk_vm *vm, bool in)
{
    pthread_mutex_lock(&vm->lock);
    vm->paused_cpus += in ? 1 : -1u;
    mk_wake(vm->waiters);
    pthread_mutex_unlock(&vm->lock);
}

static bool is_paused(void *ctx)
{
    const struct mk_vm *vm = ctx;
    return vm->state == MK_VM_RUNNING && vm->paused && vm->paused_cpus == vm->live;
}

bool mk_vm_is_paused_or_stopped(void *vm)
{
    return is_paused(vm) || mk_vm_is_stopped(vm);
}

bool mk_vm_is_paused(struct mk_vm *vm)
{
    struct mk_wait wait = mk_vm_wait_for(vm, is_paused, vm);
    return mk_wait(&wait, 0);
}

bool mk_vm_pause(struct mk_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    bool runs = !mk_vm_is_stopped(vm);
    if (runs && !vm->paused) {
        vm->paused_since = mk_now();
        vm->paused = true;
        mk_io_arm(&vm->deadline_timer, MK_FOREVER);
    }
    pthread_mutex_unlock(&vm->lock);
    if (runs)
        mk_vm_wake(vm);
    return runs;
}

bool mk_vm_resume(struct mk_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    bool was = !mk_vm_is_stopped(vm) && vm->live && vm->paused;
    uint64_t deadline = vm->deadline;
    if (was && deadline != MK_FOREVER)
        vm->deadline = deadline + (mk_now() - vm->paused_since);
    if (was)
        vm->paused = false;
    if (was)
        mk_io_arm(&vm->deadline_timer, vm->deadline);
    pthread_mutex_unlock(&vm->lock);
    if (was)
        mk_vm_wake(vm);
    return was;
}
