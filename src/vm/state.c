/* state.c - whether a VM runs or is paused, and waiting for a change of that. See vm.h. */
#include "vm/vm.h"

/* --- waiting --- */

void mk_vm_notify(void *ctx)
{
    struct mk_vm *vm = ctx;
    pthread_mutex_lock(&vm->lock);
    mk_wake(vm->waiters);
    pthread_mutex_unlock(&vm->lock);
}

void mk_vm_set_state(struct mk_vm *vm, enum mk_vm_state state)
{
    pthread_mutex_lock(&vm->lock);
    vm->state = state;
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

void mk_vm_check_held(struct mk_vm *vm)
{
    if (vm->hold_told || !(vm->paused & MK_PAUSED_BY_DEBUGGER) || !is_paused(vm))
        return;
    vm->hold_told = true;
    vm->attention = true;
    for (unsigned i = 0; i < vm->cpus; i++)
        mk_vcpu_request(&vm->cpu[i]->c, MK_REQ_WAKE);
}

/* One that leaves after a resume was not counted any more from then on: a pause that follows at
 * once waits until it is outside again. */
void mk_vm_count_paused(struct mk_vcpu *c, bool in)
{
    struct mk_vm *vm = c->vm;
    pthread_mutex_lock(&vm->lock);
    if (in)
        c->pause_round = vm->pause_round;
    if (c->pause_round == vm->pause_round)
        vm->paused_cpus += in ? 1 : -1u;
    if (in)
        mk_vm_check_held(vm);
    else
        vm->hold_told = false; /* a step, or all go on */
    mk_wake(vm->waiters);
    pthread_mutex_unlock(&vm->lock);
    if (!in)
        mk_blks_run(&vm->blks, true); /* a snapshot may have stopped them */
}

/* The run's deadline stands still while anybody keeps it paused. */
bool mk_vm_pause(struct mk_vm *vm, enum mk_pause who)
{
    pthread_mutex_lock(&vm->lock);
    bool runs = !mk_vm_is_stopped(vm), debugger = who == MK_PAUSED_BY_DEBUGGER;
    if (runs && !vm->paused) {
        vm->paused_since = mk_now();
        mk_io_arm(&vm->deadline_timer, MK_FOREVER);
    }
    if (runs || debugger)
        vm->paused |= who;
    if (debugger) {
        vm->hold_told = false;
        mk_vm_check_held(vm);
    }
    pthread_mutex_unlock(&vm->lock);
    mk_vm_wake(vm);
    return runs;
}

/* The caller holds the lock. */
static void go_on(struct mk_vm *vm)
{
    vm->pause_round++;
    vm->paused_cpus = 0;
    if (vm->deadline != MK_FOREVER)
        vm->deadline += mk_now() - vm->paused_since;
    mk_io_arm(&vm->deadline_timer, vm->deadline);
    if (vm->debug)
        vm->debug->ops->resumed(vm);
}

bool mk_vm_resume(struct mk_vm *vm, enum mk_pause who)
{
    pthread_mutex_lock(&vm->lock);
    bool was = vm->paused & who, runs = !mk_vm_is_stopped(vm) && vm->live; /* else it is ending */
    vm->paused &= ~(unsigned)who;
    if (was && runs && !vm->paused)
        go_on(vm);
    pthread_mutex_unlock(&vm->lock);
    mk_vm_wake(vm);
    return was && runs;
}

/* --- attention --- */

void mk_vm_attend(struct mk_vm *vm)
{
    vm->attention = true;
    mk_vm_wake(vm);
    mk_vm_notify(vm);
}

bool mk_vm_wants_attention(void *vm)
{
    return atomic_load(&((struct mk_vm *)vm)->attention);
}
