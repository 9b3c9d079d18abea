/* run.c - the run loop of a vCPU while its VM has a debugger. See engine.h, and vm/loop.c.
 *
 * A VM that nobody debugs never gets here. Patches come into memory before the first vCPU enters
 * the guest, and go when the last one is outside. */
#include "debug/engine.h"

#include "kvm/interrupt.h"
#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define PATIENCE_NS 5000000 /* how long one waits for who executes an instruction alone */

/* --- in and out --- */

static void go_in(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    bool goes_on = !atomic_load(&d->vm->paused) || cpu_of(c)->steps; /* not back again at once */
    if (d->inside++ == 0 && goes_on)
        d->last = (struct mk_stop){ 0 };
    bool waited_for = d->inside > 1 && d->lifted;
    pthread_mutex_unlock(&d->lock);
    if (waited_for) /* the others have left patches out */
        mk_vm_wake(d->vm);
}

static void go_out(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    step_end(c);
    pthread_mutex_lock(&d->lock);
    if (--d->inside == 0) {
        page_free_all(d);
        list_forget_places(d);
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

/* --- one alone ---
 *
 * An instruction with a patch is executed while the patch is not there: the other vCPUs leave the
 * guest first, and wait before they enter it. */

int run_enter(struct mk_vcpu *c, bool only_complete)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    if (d->vm->cpus == 1)
        return mk_vcpu_enter(c, only_complete);
    pthread_mutex_lock(&d->lock);
    bool free = !d->holder || d->holder == c;
    if (!free) { /* back soon: the loop handles events, and then comes here again */
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PATIENCE_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&d->turn, &d->lock, &until) != 0 && d->holder)
            mk_vcpu_request(d->holder, MK_REQ_WAKE); /* it may wait for this one in the guest */
    }
    k->in_guest = free;
    pthread_mutex_unlock(&d->lock);
    if (!free) {
        errno = EINTR;
        return -1;
    }
    int rc = mk_vcpu_enter(c, only_complete), code = errno;
    pthread_mutex_lock(&d->lock);
    k->in_guest = false;
    pthread_cond_broadcast(&d->turn);
    pthread_mutex_unlock(&d->lock);
    errno = code;
    return rc;
}

static bool others_inside(const struct mk_debug *d, const struct mk_vcpu *c)
{
    bool any = false;
    for (unsigned i = 0; i < d->vm->cpus; i++)
        if (d->cpu[i].in_guest && i != c->cpu.index) {
            mk_vcpu_request(&d->vm->cpu[i]->c, MK_REQ_WAKE);
            any = true;
        }
    return any;
}

void run_hold(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    if (d->vm->cpus == 1)
        return;
    pthread_mutex_lock(&d->lock);
    while (d->holder)
        pthread_cond_wait(&d->turn, &d->lock);
    d->holder = c;
    while (others_inside(d, c))
        pthread_cond_wait(&d->turn, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

void run_release(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    if (d->vm->cpus == 1)
        return;
    pthread_mutex_lock(&d->lock);
    page_insert_all(d);
    d->holder = NULL;
    pthread_cond_broadcast(&d->turn);
    pthread_mutex_unlock(&d->lock);
}

/* --- before an entry --- */

static bool same_tables(const struct cpu *k, const struct kvm_sregs *s)
{
    const struct tables *t = &k->tables;
    return t->cr3 == s->cr3 && t->cr0 == s->cr0 && t->cr4 == s->cr4 && t->efer == s->efer;
}

/* While another vCPU is in the plain loop no patch may be in memory: it would not know it. It is on
 * its way here. */
static bool all_here(const struct mk_debug *d)
{
    bool here = true;
    for (unsigned i = 0; i < d->vm->cpus; i++) {
        struct mk_vcpu *c = &d->vm->cpu[i]->c;
        pthread_mutex_lock(&c->lock);
        here &= !c->running || c->debugged;
        pthread_mutex_unlock(&c->lock);
    }
    return here;
}

static void look_up(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    struct kvm_sregs s;
    if (!debug_sregs(c, &s))
        return;
    if (k->generation != d->generation || !same_tables(k, &s))
        list_place_all(d, c, &s);
    else if (s.cr0 & MK_CR0_PG)
        list_poll(d, c, &s);
}

static void prepare(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    if (d->count || d->sets)
        look_up(c);
    if (d->lifted && all_here(d))
        page_insert_all(d);
    pthread_mutex_unlock(&d->lock);
}

/* --- exits --- */

static void count(struct mk_vcpu *c)
{
    c->counters.exits++;
    c->counters.by[KVM_EXIT_DEBUG]++;
}

/* A HLT that may be a patch: RIP is behind it then. */
static bool trapped(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    if (!d->pages || !debug_sregs(c, &s))
        return false;
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    bool real = !(s.cr0 & MK_CR0_PE);
    regs.rip = real ? (uint16_t)(regs.rip - 1) : regs.rip - 1;
    uint64_t linear = debug_linear(&s, regs.rip);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, linear);
    bool ours = w.present && page_has(d, w.address);
    pthread_mutex_unlock(&d->lock);
    if (!ours)
        return false;
    count(c);
    mk_vcpu_set_regs(c, &regs);
    hit_report(c, linear, w.address);
    return true;
}

/* KVM has stepped: asked for, or when the handler of an exception has returned. */
static void debug_exit(struct mk_vcpu *c)
{
    count(c);
    cpu_of(c)->trailing = false;
}

void run_serve(struct mk_vcpu *c, int code)
{
    if (code == EINTR || code == EAGAIN) {
        mk_vcpu_handle_events(c);
    } else if (code) {
        mk_vcpu_entry_failed(c, code);
    } else {
        unsigned kind = c->run->exit_reason;
        if (kind == KVM_EXIT_DEBUG)
            debug_exit(c);
        else if (kind != KVM_EXIT_HLT || !trapped(c))
            mk_vcpu_exit(c);
        if (c->assist && *c->assist->paging)
            c->assist->ops->follow(c);
    }
    mk_vcpu_check_limits(c);
}

/* --- the loop --- */

/* The next instruction: its place, and whether a patch is there. */
static bool at_patch(struct mk_vcpu *c, uint64_t *linear, uint64_t *gpa)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    if (!debug_sregs(c, &s))
        return false;
    *linear = debug_linear(&s, mk_vcpu_get_regs(c)->rip);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, *linear);
    bool is = w.present && page_has(d, w.address);
    pthread_mutex_unlock(&d->lock);
    *gpa = w.address;
    return is;
}

/* The vCPU goes on from a hit: over the patch, if it is still there. */
static bool must_step(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    uint64_t linear, gpa;
    if (!k->over)
        return false;
    bool patch = at_patch(c, &linear, &gpa);
    k->over = patch && linear == k->over_at;
    return k->over;
}

/* One of the steps that were asked for; a breakpoint at the instruction comes first. */
static void take_step(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    uint64_t linear, gpa;
    bool patch = at_patch(c, &linear, &gpa);
    if (patch && !(k->over && k->over_at == linear)) {
        hit_report(c, linear, gpa);
        return;
    }
    k->over = true;
    k->over_at = linear;
    step_one(c);
    if (k->over || c->end.reason != MK_RUNNING || !k->steps || --k->steps)
        return;
    at_patch(c, &linear, &gpa);
    hit_stop(c, &(struct mk_stop){ .kind = MK_STOP_STEP, .cpu = c->cpu.index, .address = linear });
}

static void enter(struct mk_vcpu *c)
{
    step_end(c);
    mk_interrupt_inject(c);
    int code = run_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    run_serve(c, code);
}

/* A stop of this vCPU that came while that of another one was told: it waits until the VM goes on,
 * and is told then if the vCPU is still there. */
static void stop_late(struct mk_vcpu *c)
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
        hit_stop(c, &stop);
}

static void once(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    c->last_rip = c->regs.rip;
    if (k->stop.kind != MK_STOP_NONE) {
        stop_late(c);
    } else if ((atomic_load(&c->vm->paused) || atomic_load(&c->held)) && !k->steps) {
        mk_vcpu_handle_events(c);
    } else {
        prepare(c);
        if (k->steps)
            take_step(c);
        else if (must_step(c))
            step_one(c);
        else if (!debug_of(c)->traces)
            enter(c);
        else if (!trace_deliver(c))
            take_step(c);
    }
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

/* A run that ended by a stop goes on from there. */
static void begin(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    bool stopped = c->end.reason == MK_BREAK && c->end.code != -1;
    k->stepping = k->trailing = k->told = false;
    if (k->stop.kind == MK_STOP_NONE || stopped)
        k->over = stopped;
    if (stopped)
        k->over_at = (uint64_t)c->end.code;
}

static void free_debug(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    page_free_all(d);
    list_free(d);
    mk_vm_attach_debugger(vm, NULL);
    pthread_cond_destroy(&d->turn);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

const struct mk_debug_ops run_ops = {
    .begin = begin, .run = run, .pause = on_pause, .wants = wants_to_run, .free = free_debug
};
