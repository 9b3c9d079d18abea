/* run.c - the run loop of a vCPU while its VM has a debugger. See engine.h, and vm/loop.c.
 *
 * A VM that nobody debugs never gets here. Patches come into memory before the first vCPU enters
 * the guest, and go when the last one is outside. */
#include "debug/engine.h"

#include "kvm/interrupt.h"
#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* --- in and out --- */

static void go_in(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    d->inside++;
    pthread_cond_broadcast(&d->turn); /* patches may have waited for it */
    pthread_mutex_unlock(&d->lock);
}

static void go_out(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    step_end(c);
    step_clear_hardware(c);
    pthread_mutex_lock(&d->lock);
    if (--d->inside == 0) {
        page_free_all(d);
        watch_forget(d);
        list_forget_places(d);
        ring_forget(d);
    }
    pthread_mutex_unlock(&d->lock);
}

static void on_pause(struct mk_vcpu *c, bool in)
{
    if (c->debugged)
        in ? go_out(c) : go_in(c);
}

static bool wants_to_run(const struct mk_vcpu *c)
{
    return cpu_of(c)->steps > 0;
}

/* --- before an entry --- */

/* While another vCPU is in the guest by the plain loop no patch may be in memory: it would not know
 * it. It is on its way here; one that sleeps or serves an access comes before it enters again: it
 * was told that its next entry returns at once, before this looks at it. */
static bool all_here(const struct mk_debug *d)
{
    bool here = true;
    for (unsigned i = 0; i < d->vm->cpus; i++) {
        struct mk_vcpu *c = &d->vm->cpu[i]->c;
        pthread_mutex_lock(&c->lock);
        here &= !c->running || c->debugged || !c->awake || c->in_access;
        pthread_mutex_unlock(&c->lock);
    }
    return here;
}

static void find_places(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    struct kvm_sregs s;
    if (!debug_sregs(c, &s))
        return;
    struct tables now = { s.cr0, s.cr3, s.cr4, s.efer };
    if (k->generation != d->generation || memcmp(&now, &k->tables, sizeof(now)) != 0) {
        k->tables = now;
        list_place_all(d, c, &s);
        watch_place_all(d, &s);
    }
    if (s.cr0 & MK_CR0_PG)
        list_poll(d, c, &s);
    ring_place(d, c, &s);
    step_set_hardware(c);
}

/* False when patches have to wait. */
static bool prepare(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    if (d->count || d->sets || d->watches || cpu_of(c)->steps)
        find_places(c);
    page_check_given(d);
    bool due = d->lifted || (d->open && d->watches), ready = !due || d->holder || all_here(d);
    if (!ready)
        alone_wait(d);
    else if (due && !d->holder)
        page_insert_all(d);
    bool starved = d->starved;
    d->starved = false;
    pthread_mutex_unlock(&d->lock);
    if (starved)
        mk_vcpu_end(c, MK_ERROR, 0, true, "out of memory for breakpoints and watches");
    return ready && !starved;
}

/* --- the loop --- */

/* The next instruction: its place, and whether a patch or a debug register is for it. */
static bool at_patch(struct mk_vcpu *c, uint64_t *linear, uint64_t *gpa)
{
    struct kvm_sregs s;
    struct mk_walk w;
    *linear = debug_here(c, &s);
    if (*linear == NOWHERE)
        return false;
    bool is = page_has_patch(c, &s, *linear, &w) || step_is_hardware(c, *linear);
    *gpa = w.address;
    return is;
}

/* The vCPU goes on from a hit: over the patch, if it is still there. */
static bool must_step(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    uint64_t linear, gpa;
    if (k->over_at == NOWHERE)
        return false;
    bool patch = at_patch(c, &linear, &gpa);
    if (!patch || linear != k->over_at)
        k->over_at = NOWHERE;
    return k->over_at != NOWHERE;
}

/* One of the steps that were asked for; a breakpoint at the instruction comes first. */
static void requested_step(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    uint64_t linear, gpa;
    bool patch = at_patch(c, &linear, &gpa);
    if (patch && linear != k->over_at) {
        hit_report(c, linear, gpa);
        return;
    }
    if (!step_over(c, linear) || c->end.reason != MK_RUNNING || !k->steps || --k->steps)
        return;
    at_patch(c, &linear, &gpa);
    debug_stop(c,
               &(struct mk_stop){ .kind = MK_STOP_STEP, .cpu = c->cpu.index, .address = linear });
}

/* Where an interrupt is pushed to: not every KVM can tell of that. */
static void open_stack(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    if ((!d->pages && !d->watches) || !debug_sregs(c, &s))
        return;
    uint64_t at = mk_stack_address(&s, mk_vcpu_get_regs(c)->rsp - 1);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, at);
    if (w.present)
        page_unseal(d, w.address, 1);
    pthread_mutex_unlock(&d->lock);
}

static void enter(struct mk_vcpu *c)
{
    uint64_t before = c->irq.delivered;
    step_end(c);
    mk_interrupt_inject(c);
    if (c->irq.delivered != before)
        open_stack(c);
    int code = alone_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    exit_serve(c, code);
}

static bool by_steps(const struct mk_vcpu *c)
{
    const struct mk_debug *d = debug_of(c);
    return d->watches && d->by_steps;
}

/* A breakpoint comes before what the instruction accesses. */
static void watched_step(struct mk_vcpu *c)
{
    const struct cpu *k = cpu_of(c);
    uint64_t linear, gpa;
    if (at_patch(c, &linear, &gpa) && linear != k->over_at)
        hit_report(c, linear, gpa);
    else
        access_step(c);
}

/* A stop of this vCPU that came while that of another one was told: it waits until the VM goes on,
 * and is told then if the vCPU is still there. */
static void deferred_stop(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    uint64_t linear, gpa;
    mk_vcpu_handle_events(c);
    pthread_mutex_lock(&d->lock);
    bool now = d->last.kind == MK_STOP_NONE;
    pthread_mutex_unlock(&d->lock);
    if (c->end.reason != MK_RUNNING || !now)
        return;
    struct mk_stop stop = k->stop;
    k->stop = (struct mk_stop){ 0 };
    at_patch(c, &linear, &gpa);
    if (linear == stop.address)
        debug_stop(c, &stop);
}

static void once(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    c->last_rip = c->regs.rip;
    if (k->stop.kind != MK_STOP_NONE) {
        deferred_stop(c);
    } else if ((atomic_load(&c->vm->paused) || atomic_load(&c->held)) && !k->steps) {
        mk_vcpu_handle_events(c);
    } else {
        if (!prepare(c))
            mk_vcpu_handle_events(c);
        else if (k->steps)
            requested_step(c);
        else if (!by_steps(c) && must_step(c))
            step_over(c, cpu_of(c)->over_at);
        else if (!debug_of(c)->traces && !by_steps(c))
            enter(c);
        else if (!trace_deliver(c))
            debug_of(c)->traces ? requested_step(c) : watched_step(c);
    }
}

/* The next run goes on from where this one ended: with an instruction whose hit was told, if it was
 * there. It says so itself, so that snapshots do. */
static void note_end(struct mk_vcpu *c)
{
    const struct cpu *k = cpu_of(c);
    if (c->end.reason != MK_RUNNING && c->end.reason != MK_EXIT)
        c->end.code = (int64_t)(k->over_at + 1);
}

static void run(struct mk_vcpu *c)
{
    struct mk_debugger *base = c->debug;
    c->debugged = true;
    go_in(c);
    while (c->end.reason == MK_RUNNING && base->users)
        once(c);
    go_out(c);
    c->debugged = false;
}

static void resumed(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    pthread_mutex_lock(&d->lock);
    d->last = (struct mk_stop){ 0 };
    pthread_mutex_unlock(&d->lock);
}

static void begin(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    k->stepping = k->trailing = k->traced = false;
    step_begin(c);
    k->hardware_count = 0;
    k->hardware_of = 0;
    k->over_at = c->end.reason != MK_EXIT ? (uint64_t)c->end.code - 1 : NOWHERE;
}

static void free_engine(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    page_free_all(d);
    watch_forget(d);
    list_free(d);
    watch_free(d);
    if (d->memory_fd >= 0)
        close(d->memory_fd);
    mk_vm_attach_debugger(vm, NULL);
    pthread_cond_destroy(&d->turn);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

const struct mk_debug_ops run_ops = { .resumed = resumed,
                                      .begin = begin,
                                      .end = note_end,
                                      .run = run,
                                      .pause = on_pause,
                                      .wants = wants_to_run,
                                      .free = free_engine };
