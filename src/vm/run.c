/* run.c - running a VM to its end, on the caller's thread or its own, and what came of it. See
 * vm.h. */
#include "vm/vm.h"

#include "jail/jail.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#define THREAD_STACK (1u << 20)

/* --- what came of it --- */

static const char *const reasons[MK_REASONS] = {
    [MK_RUNNING] = "running",   [MK_HALT] = "halt",           [MK_EXIT] = "exit",
    [MK_BREAK] = "break",       [MK_STOPPED] = "stopped",     [MK_DEADLINE] = "deadline",
    [MK_LIMIT] = "limit",       [MK_FORBIDDEN] = "forbidden", [MK_PANIC] = "panic",
    [MK_SHUTDOWN] = "shutdown", [MK_FAULT] = "fault",         [MK_ERROR] = "error",
};

const char *mk_reason_name(enum mk_reason reason)
{
    return reasons[reason];
}

/* Graver reasons come later in the enum; what ended the whole VM goes before what it caused. */
static int64_t gravity(const struct mk_end *end)
{
    bool failed = end->reason == MK_EXIT && end->code != 0;
    return (end->whole_vm ? 1000 : 0) + end->reason * 2 + failed;
}

const struct mk_vcpu *mk_vm_deciding_cpu(const struct mk_vm *vm)
{
    const struct mk_vcpu *worst = &vm->cpu[0]->c;
    for (unsigned i = 1; i < vm->cpus; i++)
        if (gravity(&vm->cpu[i]->c.end) > gravity(&worst->end))
            worst = &vm->cpu[i]->c;
    return worst;
}

/* --- running --- */

void mk_vm_join(struct mk_vm *vm)
{
    if (vm->state == MK_VM_RUNNING) /* paused: they go on */
        return;
    for (unsigned i = 0; vm->threaded && i < vm->cpus; i++)
        pthread_join(vm->cpu[i]->thread, NULL);
    vm->threaded = false;
}

static bool dead(enum mk_reason reason)
{
    return reason == MK_PANIC || reason == MK_SHUTDOWN || reason == MK_FAULT || reason == MK_ERROR;
}

void mk_vm_disable(struct mk_vm *vm, const char *what, const char *why)
{
    struct mk_vcpu *c = &vm->cpu[0]->c;
    c->end = (struct mk_end){ 0 };
    mk_vcpu_end(c, MK_ERROR, 0, true, "%s failed: %.380s", what, why);
    if (vm->state != MK_VM_RUNNING)
        mk_vm_set_state(vm, MK_VM_ENDED);
}

static int check_runnable(const struct mk_vm *vm, struct mk_err *err)
{
    if (vm->restoring)
        return mk_fail(err, EINVAL,
                       "vm \"%s\" is being reset or restored: start it when reset() or "
                       "restore() has returned",
                       vm->name);
    for (unsigned i = 0; i < vm->cpus; i++) {
        const struct mk_end *end = &vm->cpu[i]->c.end;
        if (vm->state == MK_VM_ENDED && dead(end->reason))
            return mk_fail(err, EINVAL,
                           "vm \"%s\" ended by %s: reset() it before it can run again "
                           "(%.200s)",
                           vm->name, mk_reason_name(end->reason), end->text);
        if (!vm->cpu[i]->ready && vm->load_error.code)
            return mk_fail(err, EINVAL,
                           "vm \"%s\": cpu %u has nothing to run; the last load failed: %s",
                           vm->name, i, vm->load_error.text);
        if (!vm->cpu[i]->ready)
            return mk_fail(err, EINVAL,
                           "vm \"%s\": cpu %u has nothing to run: load an image for it, "
                           "vm:load(..., { cpu = %u })",
                           vm->name, i, i);
    }
    return 0;
}

/* A wait of the script ended the last run, for this one to go on: what had come to its end then
 * stays there, unless the script has given it something to run since. */
static void keep_ends(struct mk_vm *vm)
{
    bool resumes = false;
    for (unsigned i = 0; i < vm->cpus; i++)
        resumes |= vm->cpu[i]->c.end.resumable;
    for (unsigned i = 0; i < vm->cpus; i++) {
        enum mk_reason reason = vm->cpu[i]->c.end.reason;
        vm->cpu[i]->over =
            resumes && (reason == MK_HALT || reason == MK_EXIT) && !vm->cpu[i]->restarted;
        vm->cpu[i]->restarted = false;
    }
}

static void begin(struct mk_vm *vm, const struct mk_limits *limits)
{
    vm->began = mk_now();
    vm->deadline = limits->ns > MK_FOREVER - vm->began ? MK_FOREVER : vm->began + limits->ns;
    vm->exit_limit = limits->exits;
    vm->output_limit = limits->output;
    vm->live = vm->cpus;
    keep_ends(vm);
    mk_watch_resume(&vm->console);
    mk_zones_exact(&vm->zones, mk_watch_exact(&vm->console));
    vm->paused &= MK_PAUSED_BY_DEBUGGER;
    vm->paused_since = vm->began;
    vm->hold_told = false;
    vm->mode_open = false;
    for (unsigned i = 0; i < vm->cpus; i++) {
        atomic_store(&vm->cpu[i]->c.requests, 0);
        atomic_store(&vm->cpu[i]->c.stop_reason, MK_RUNNING);
    }
    pthread_mutex_lock(&vm->lock);
    if (vm->debug)
        vm->debug->ops->resumed(vm);
    vm->state = MK_VM_RUNNING; /* from here on a stop counts */
    pthread_mutex_unlock(&vm->lock);
    mk_vm_start_monitor(vm);
    mk_blks_run(&vm->blks, true);
}

static void one_ended(struct mk_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    bool last = --vm->live == 0;
    if (!last) { /* the others may all be paused */
        mk_vm_check_held(vm);
        mk_wake(vm->waiters);
    }
    pthread_mutex_unlock(&vm->lock);
    if (!last)
        return;
    mk_blks_run(&vm->blks, false);
    mk_vm_stop_monitor(vm);
    pthread_mutex_lock(&vm->lock);
    vm->ended = mk_now();
    vm->state = MK_VM_ENDED;
    mk_wake(vm->waiters);
    pthread_mutex_unlock(&vm->lock);
}

/* A guest that is interrupted goes on in the middle of its file command; one that ended does
 * not. */
static MK_HOT void *vcpu_thread(void *arg)
{
    struct mk_vcpu *c = arg;
    struct mk_vm *vm = c->vm;
    struct mk_err err;
    bool others = vm->only && vm->only - 1 != c->cpu.index;
    if (others)
        c->end.whole_vm = false; /* that was the run before this one */
    else if (!vm->on_caller_thread && mk_jail_begin_thread(MK_ROLE_VCPU, &err) < 0)
        mk_vcpu_end(c, MK_ERROR, 0, true, "%s", err.text);
    else if (!vm->cpu[c->cpu.index]->over)
        mk_vcpu_run(c);
    if (c->end.reason == MK_HALT || c->end.reason == MK_EXIT || dead(c->end.reason))
        mk_file_abort(&vm->file, c->cpu.index);
    one_ended(vm);
    return NULL;
}

/* The thread has the signal mask of this one, as have the processes that its handlers start. */
static int spawn(struct mk_vm *vm, unsigned i, struct mk_err *err)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    int code = pthread_create(&vm->cpu[i]->thread, &attr, vcpu_thread, &vm->cpu[i]->c);
    pthread_attr_destroy(&attr);
    return code ? mk_fail_errno(err, code, "vm \"%s\": thread for cpu %u", vm->name, i) : 0;
}

static int start(struct mk_vm *vm, const struct mk_limits *limits, bool pauses, struct mk_err *err)
{
    if (check_runnable(vm, err) < 0)
        return -1;
    mk_vm_join(vm);
    vm->on_caller_thread = false;
    vm->pauses = pauses;
    begin(vm, limits);
    vm->threaded = true; /* before a vCPU can ask whether anybody may still wake it */
    for (unsigned i = 0; i < vm->cpus; i++)
        if (spawn(vm, i, err) < 0) {
            mk_vm_stop(vm, MK_STOPPED);
            for (unsigned j = 0; j < i; j++)
                pthread_join(vm->cpu[j]->thread, NULL);
            vm->threaded = false;
            mk_blks_run(&vm->blks, false);
            mk_vm_stop_monitor(vm);
            vm->live = 0;
            mk_vm_set_state(vm, MK_VM_ENDED);
            return -1;
        }
    return 0;
}

int mk_vm_start(struct mk_vm *vm, const struct mk_limits *limits, struct mk_err *err)
{
    return start(vm, limits, true, err);
}

/* In a jail a guest runs on a thread that can do less than the caller's. */
int mk_vm_run(struct mk_vm *vm, const struct mk_limits *limits, struct mk_err *err)
{
    if (vm->cpus == 1 && !mk_jail_is_on()) {
        if (check_runnable(vm, err) < 0)
            return -1;
        vm->on_caller_thread = true;
        vm->pauses = false;
        begin(vm, limits);
        vcpu_thread(&vm->cpu[0]->c);
        return 0;
    }
    if (start(vm, limits, false, err) < 0)
        return -1;
    struct mk_wait wait = mk_vm_wait_for(vm, mk_vm_is_stopped, vm);
    wait.interrupted = mk_vm_interrupted;
    wait.interrupted_ctx = vm;
    if (!mk_wait(&wait, MK_FOREVER)) {
        mk_vm_stop(vm, MK_STOPPED);
        mk_vm_wait(vm, MK_FOREVER);
    }
    return 0;
}
