/* sleep.c - what a run loop does between two entries that is not an exit: it handles events,
 * sleeps, waits while the VM is paused, for a slow reader, or for what a handler waits for. See
 * loop.h. */
#include "vm/vm.h"

#include <string.h>

static bool stop_wanted(struct mk_vcpu *c)
{
    return atomic_load(&c->requests) & MK_REQ_STOP || mk_now() >= c->vm->deadline;
}

static bool requested(void *vcpu)
{
    return atomic_load(&((struct mk_vcpu *)vcpu)->requests) != 0;
}

static bool stays_out(const struct mk_vcpu *c)
{
    return (atomic_load(&c->vm->paused) || atomic_load(&c->held)) &&
           !(c->debug && c->debug->ops->wants(c));
}

static bool resumed(const struct mk_vcpu *c)
{
    return !stays_out(c) || c->pause_round != c->vm->pause_round ||
           atomic_load(&c->requests) & MK_REQ_STOP;
}

/* Who attends to a debugger waits for other things in the meantime. */
static bool shall_pause(const struct mk_vcpu *c)
{
    return stays_out(c) && !c->attends;
}

static bool resumed_or_attends(void *vcpu)
{
    const struct mk_vcpu *c = vcpu;
    return resumed(c) || mk_vm_wants_attention(c->vm);
}

static bool written(void *vcpu)
{
    const struct mk_vcpu *c = vcpu;
    return !mk_console_unwritten(&c->vm->console);
}

static bool has_room(void *vcpu)
{
    const struct mk_vcpu *c = vcpu;
    return !c->vm->console.full;
}

/* Outside the guest; whatever ended it, the loop handles events. */
static void wait_outside(struct mk_vcpu *c, struct mk_wait *wait, uint64_t until)
{
    struct mk_vm *vm = c->vm;
    if (vm->on_caller_thread) {
        wait->interrupted = mk_vm_interrupted;
        wait->interrupted_ctx = vm;
    }
    c->awake = false;
    mk_wait(wait, until);
    c->awake = true;
    mk_vm_start_polling(c->vm);
    mk_vcpu_set_immediate_exit(c, true);
}

void mk_vcpu_sleep(struct mk_vcpu *c, uint64_t until)
{
    struct mk_wait wait = { .done = requested, .ctx = c };
    wait_outside(c, &wait, mk_vm_begin_sleep(c->vm, c, until));
}

/* Of all vCPUs the first one that comes by does it. */
static void attend(struct mk_vcpu *c)
{
    struct mk_vm *vm = c->vm;
    if (!mk_vm_wants_attention(vm) || c->attends || !atomic_exchange(&vm->attention, false))
        return;
    c->attends = true;
    vm->ops->attend(vm->ctx, c);
    c->attends = false;
}

/* Until the VM is resumed or the run shall end. Registers are what they are after the last
 * instruction, or, while a handler waits, at it. */
static void wait_paused(struct mk_vcpu *c)
{
    struct mk_vm *vm = c->vm;
    struct mk_wait wait = { .done = resumed_or_attends, .ctx = c };
    if (!c->waits)
        mk_vcpu_complete(c);
    if (c->debug)
        c->debug->ops->pause(c, true);
    mk_clock_stop(&vm->clock);
    mk_vm_count_paused(c, true);
    do {
        wait_outside(c, &wait, UINT64_MAX);
        attend(c);
    } while (!resumed(c) && !(vm->on_caller_thread && mk_vm_interrupted(vm)));
    mk_vm_count_paused(c, false);
    if (c->debug)
        c->debug->ops->pause(c, false);
    mk_clock_start(&vm->clock);
}

struct reader_wait {
    struct mk_vcpu *c;
    bool (*done)(void *c);
};

static bool read_or_ended(void *ctx)
{
    const struct reader_wait *r = ctx;
    return r->done(r->c) || stop_wanted(r->c) || shall_pause(r->c);
}

/* In the middle of an access, for a slow reader, until done(c) or until the run shall end. */
static void wait_for_reader(struct mk_vcpu *c, bool (*done)(void *c))
{
    struct reader_wait r = { c, done };
    struct mk_wait wait = { .done = read_or_ended, .ctx = &r };
    while (!done(c) && !stop_wanted(c) && !mk_vm_interrupted(c->vm)) {
        wait_outside(c, &wait, c->vm->deadline);
        c->waits++;
        if (shall_pause(c))
            wait_paused(c);
        c->waits--;
    }
}

void mk_vcpu_wait_for_room(struct mk_vcpu *c)
{
    wait_for_reader(c, has_room);
}

bool mk_vcpu_finish_output(struct mk_vcpu *c)
{
    mk_console_flush(&c->vm->console);
    c->cpu.printed = false;
    wait_for_reader(c, written);
    return written(c);
}

static void stop_requested(struct mk_vcpu *c)
{
    enum mk_reason reason = (enum mk_reason)atomic_load(&c->stop_reason);
    if (reason == MK_DEADLINE)
        mk_vcpu_end(c, MK_DEADLINE, 0, true, "the deadline passed");
    else
        mk_vcpu_end(c, reason ? reason : MK_STOPPED, 0, false, "stopped from outside");
}

void mk_vcpu_output_failed(struct mk_vcpu *c)
{
    c->vm->console.out_told = true;
    mk_vcpu_end(c, MK_ERROR, 0, true, "the guest's output cannot be written: %s",
                strerror(c->vm->console.out_error));
}

/* Ends the run when somebody wants that, its time is up, or its output is lost. */
static void check_end(struct mk_vcpu *c, uint32_t requests)
{
    struct mk_vm *vm = c->vm;
    if (requests & MK_REQ_STOP)
        stop_requested(c);
    else if (mk_now() >= vm->deadline)
        mk_vcpu_end(c, MK_DEADLINE, 0, true, "the deadline passed");
    else if (mk_vm_interrupted(vm))
        mk_vcpu_end(c, MK_STOPPED, 0, true, "interrupted");
    else if (vm->console.out_error)
        mk_vcpu_output_failed(c);
}

uint64_t mk_vcpu_output_bytes(const struct mk_vcpu *c)
{
    return c->vm->console.cpu[c->cpu.index].printed - c->output_before;
}

MK_HOT void mk_vcpu_check_output(struct mk_vcpu *c)
{
    if (mk_vcpu_output_bytes(c) > c->vm->output_limit)
        mk_vcpu_end(c, MK_LIMIT, 0, true, "the limit of %llu bytes of output is reached",
                    (unsigned long long)c->vm->output_limit);
}

/* In the middle of an access: to pause, or to let timers and input in, must wait for its end. */
bool mk_vcpu_may_continue(struct mk_vcpu *c)
{
    mk_vcpu_check_output(c);
    check_end(c, atomic_load(&c->requests));
    return c->end.reason == MK_RUNNING;
}

/* Timers, input, doorbells. */
static void serve_due(struct mk_vcpu *c, uint32_t requests)
{
    if (requests & MK_REQ_SAMPLE)
        c->vm->profiler->sample(c);
    mk_vm_serve_due(c->vm, c);
    attend(c);
}

/* Everything that is not an exit: what is due, limits, requests. */
void mk_vcpu_handle_events(struct mk_vcpu *c)
{
    struct mk_vm *vm = c->vm;
    mk_vcpu_set_immediate_exit(c, false);
    uint32_t requests = atomic_exchange(&c->requests, 0);
    serve_due(c, requests);
    check_end(c, requests);
    if (vm->console.watched)
        mk_vm_check_watches(c->vm, c);
    if (c->end.reason == MK_RUNNING && shall_pause(c))
        wait_paused(c);
    if (mk_vcpu_wants_debugger(c)) /* the next entry comes back, and its loop takes over */
        mk_vcpu_set_immediate_exit(c, true);
}

/* Why the run shall end that had `before` as its end when the wait began. */
static enum mk_reason ending(const struct mk_vcpu *c, enum mk_reason before)
{
    if (c->end.reason != before && !c->end.resumable)
        return c->end.reason;
    if (atomic_load(&c->requests) & MK_REQ_STOP) {
        int asked = atomic_load(&c->stop_reason);
        return asked ? (enum mk_reason)asked : MK_STOPPED;
    }
    if (mk_now() >= c->vm->deadline)
        return MK_DEADLINE;
    return mk_vm_interrupted(c->vm) ? MK_STOPPED : MK_RUNNING;
}

/* A stop is left for the run loop. */
static void handle_events_waiting(struct mk_vcpu *c, uint64_t *until)
{
    mk_vcpu_set_immediate_exit(c, false);
    serve_due(c, atomic_fetch_and(&c->requests, MK_REQ_STOP));
    uint64_t began = mk_now();
    if (shall_pause(c)) {
        wait_paused(c);
        *until += *until == UINT64_MAX ? 0 : mk_now() - began;
    }
}

struct handler_wait {
    struct mk_vcpu *c;
    const struct mk_wait *wait;
};

static bool done_or_requested(void *ctx)
{
    const struct handler_wait *h = ctx;
    return (h->wait->done && h->wait->done(h->wait->ctx)) || atomic_load(&h->c->requests);
}

bool mk_vcpu_wait(struct mk_vcpu *c, uint64_t until, const struct mk_wait *wait,
                  enum mk_reason *reason)
{
    enum mk_reason before = c->end.reason;
    struct handler_wait h = { c, wait };
    struct mk_wait either = {
        .lock = wait->lock, .waiters = wait->waiters, .done = done_or_requested, .ctx = &h
    };
    bool done;
    c->waits++;
    while (!(done = mk_wait(wait, 0)) && mk_now() < until && !(*reason = ending(c, before))) {
        wait_outside(c, &either, mk_vm_begin_sleep(c->vm, c, until));
        handle_events_waiting(c, &until);
    }
    c->waits--;
    mk_vcpu_set_immediate_exit(c, true); /* what came meanwhile is seen before the next entry */
    return done;
}
