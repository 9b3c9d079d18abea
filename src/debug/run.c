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

#define HLT 0xf4
#define VECTORS 256
#define PATIENCE_NS 5000000 /* how long one waits for who executes an instruction alone */

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

/* --- one alone ---
 *
 * An instruction with a patch is executed while the patch is not there: the other vCPUs leave the
 * guest first, and wait before they enter it. */

/* For a moment: the loop handles events in between. */
static void wait_turn(struct mk_debug *d)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += PATIENCE_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&d->turn, &d->lock, &until);
}

int run_enter(struct mk_vcpu *c, bool only_complete)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    if (d->vm->cpus == 1)
        return mk_vcpu_enter(c, only_complete);
    pthread_mutex_lock(&d->lock);
    bool free = !d->holder || d->holder == c;
    if (!free) { /* back soon: the loop handles events, and then comes here again */
        wait_turn(d);
        if (d->holder)
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

static void look_up(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    struct kvm_sregs s;
    if (!debug_sregs(c, &s))
        return;
    if (k->generation != d->generation || !same_tables(k, &s)) {
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
        look_up(c);
    page_check_given(d);
    bool due = d->lifted || (d->open && d->watches), ready = !due || d->holder || all_here(d);
    if (!ready)
        wait_turn(d);
    else if (due && !d->holder)
        page_insert_all(d);
    pthread_mutex_unlock(&d->lock);
    return ready;
}

/* --- exits --- */

static void count(struct mk_vcpu *c)
{
    c->counters.exits++;
    c->counters.by[KVM_EXIT_DEBUG]++;
}

enum trap { TRAP_NONE, TRAP_HIT, TRAP_STEP };

/* A program of an outer ring came to a patch, or was stepped: the vCPU is back there. */
static enum trap at_outer(struct mk_vcpu *c, const struct kvm_sregs *s, enum ring back)
{
    struct mk_debug *d = debug_of(c);
    uint64_t linear = debug_linear(s, mk_vcpu_get_regs(c)->rip);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, s, linear);
    bool patch = w.present && page_wants(d, w.address);
    pthread_mutex_unlock(&d->lock);
    if (back == RING_STEP) {
        cpu_of(c)->trailing = false;
        return TRAP_STEP;
    }
    if (patch)
        hit_report(c, linear, w.address);
    return TRAP_HIT;
}

/* A HLT that may be a patch: RIP is behind it then. It was one, too, when the guest's own byte is
 * no HLT: the patch has gone meanwhile, and the instruction is executed now. */
static enum trap trapped(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    uint8_t own = HLT;
    if (!d->pages || !debug_sregs(c, &s))
        return TRAP_NONE;
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    bool real = !(s.cr0 & MK_CR0_PE);
    regs.rip = real ? (uint16_t)(regs.rip - 1) : regs.rip - 1;
    uint64_t linear = debug_linear(&s, regs.rip);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, linear);
    bool wanted = w.present && page_wants(d, w.address);
    if (w.present)
        mk_mem_read(&d->vm->mem, w.address, &own, 1);
    pthread_mutex_unlock(&d->lock);
    bool stale = cpu_of(c)->stale_halt;
    cpu_of(c)->stale_halt = false;
    if (!wanted && own == HLT)
        return TRAP_NONE;
    if (!wanted && stale) /* of one that was told already */
        return TRAP_HIT;
    count(c);
    debug_set_regs(c, &regs);
    enum ring back = wanted ? ring_return(c, &s, linear) : RING_NONE;
    if (back != RING_NONE)
        return at_outer(c, &s, back);
    if (wanted)
        hit_report(c, linear, w.address);
    return TRAP_HIT;
}

/* Some KVMs step over a HLT without an exit for it, and tell of it late (docs/hosts.md): so they do
 * when a stepped instruction raises an exception, and a patch is where its handler begins. */
static bool over_handler(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t linear)
{
    struct mk_debug *d = debug_of(c);
    bool is = false;
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, s, linear);
    bool patch = w.present && page_wants(d, w.address);
    pthread_mutex_unlock(&d->lock);
    for (unsigned vector = 0; patch && vector < VECTORS && !is; vector++)
        is = step_handler(c, s, vector) == linear;
    return is;
}

static void step_exit(struct mk_vcpu *c, const struct kvm_sregs *s)
{
    struct cpu *k = cpu_of(c);
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    regs.rip--;
    uint64_t linear = debug_linear(s, regs.rip);
    k->trailing = false;
    if (linear == k->over_at || !over_handler(c, s, linear))
        return;
    struct mk_walk w = mk_walk(c->mem, s, linear);
    k->stale_halt = true;
    debug_set_regs(c, &regs);
    hit_report(c, linear, w.address);
}

/* KVM has stepped: asked for, or when the handler of an exception has returned. Or the vCPU is at
 * an address that is in a debug register; it has not executed the instruction. */
static void debug_exit(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    struct kvm_sregs s;
    count(c);
    if (k->stepping && debug_sregs(c, &s)) {
        step_exit(c, &s);
    } else if (debug_sregs(c, &s)) {
        uint64_t linear = debug_linear(&s, mk_vcpu_get_regs(c)->rip);
        pthread_mutex_lock(&d->lock);
        struct mk_walk w = mk_walk(&d->vm->mem, &s, linear);
        pthread_mutex_unlock(&d->lock);
        if (step_is_hardware(c, linear))
            hit_report(c, linear, w.present ? w.address : NOWHERE);
    }
}

/* A triple fault at a patch in a program of an outer ring: the guest has no handler for #GP. Where
 * the registers are still those of before, it was a hit like any other. */
static bool died_at_patch(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    struct kvm_vcpu_events events;
    if (!d->pages || !debug_sregs(c, &s) || s.ss.dpl != 3)
        return false;
    uint64_t linear = debug_linear(&s, mk_vcpu_get_regs(c)->rip);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, linear);
    bool patch = w.present && page_wants(d, w.address);
    pthread_mutex_unlock(&d->lock);
    if (!patch || mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
        return false;
    memset(&events.exception, 0, sizeof(events.exception));
    events.flags = 0;
    c->synced = 0;
    if (mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &events) < 0)
        return false;
    count(c);
    hit_report(c, linear, w.address);
    return true;
}

/* Exits that are of the engine's making. */
static bool served(struct mk_vcpu *c, unsigned kind)
{
    const struct mk_debug *d = debug_of(c);
    if (kind == KVM_EXIT_SHUTDOWN)
        return died_at_patch(c);
    if (!d->pages && !d->watches)
        return false;
    if (kind == KVM_EXIT_MMIO)
        return access_mmio(c);
    return kind == KVM_EXIT_INTERNAL_ERROR && access_fault(c, true);
}

bool run_serve(struct mk_vcpu *c, int code)
{
    bool stepped = false;
    if (code == EINTR || code == EAGAIN) {
        mk_vcpu_handle_events(c);
    } else if (code) {
        if (code != EFAULT || !access_fault(c, false))
            mk_vcpu_entry_failed(c, code);
    } else {
        unsigned kind = c->run->exit_reason;
        enum trap trap = kind == KVM_EXIT_HLT ? trapped(c) : TRAP_NONE;
        stepped = kind == KVM_EXIT_DEBUG || trap == TRAP_STEP;
        if (kind == KVM_EXIT_DEBUG)
            debug_exit(c);
        else if (trap == TRAP_NONE && !served(c, kind))
            mk_vcpu_exit(c);
        if (c->assist && *c->assist->paging)
            c->assist->ops->follow(c);
    }
    mk_vcpu_check_limits(c);
    return stepped;
}

/* --- the loop --- */

/* The next instruction: its place, and whether a patch or a debug register is for it. */
static bool at_patch(struct mk_vcpu *c, uint64_t *linear, uint64_t *gpa)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    if (!debug_sregs(c, &s))
        return false;
    *linear = debug_linear(&s, mk_vcpu_get_regs(c)->rip);
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, *linear);
    bool is = (w.present && page_wants(d, w.address)) || step_is_hardware(c, *linear);
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
    bool again = k->over && k->over_at == linear;
    if (again || c->end.reason != MK_RUNNING || !k->steps || --k->steps)
        return;
    at_patch(c, &linear, &gpa);
    hit_stop(c, &(struct mk_stop){ .kind = MK_STOP_STEP, .cpu = c->cpu.index, .address = linear });
}

/* Where an interrupt is pushed to: not every KVM can tell of that. */
static void open_stack(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    if ((!d->pages && !d->watches) || !debug_sregs(c, &s))
        return;
    uint64_t at = mk_vcpu_get_regs(c)->rsp - 1;
    bool wide = s.cs.l && s.efer & MK_EFER_LMA;
    pthread_mutex_lock(&d->lock);
    struct mk_walk w = mk_walk(&d->vm->mem, &s, wide ? at : (uint32_t)(s.ss.base + at));
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
    int code = run_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    run_serve(c, code);
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
    if (at_patch(c, &linear, &gpa) && !(k->over && k->over_at == linear))
        hit_report(c, linear, gpa);
    else
        access_step(c);
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
        if (!prepare(c))
            mk_vcpu_handle_events(c);
        else if (k->steps)
            take_step(c);
        else if (!by_steps(c) && must_step(c))
            step_one(c);
        else if (!debug_of(c)->traces && !by_steps(c))
            enter(c);
        else if (!trace_deliver(c))
            debug_of(c)->traces ? take_step(c) : watched_step(c);
    }
}

/* The next run goes on from where this one ended: with an instruction whose hit was told, if it was
 * there. It says so itself, so that snapshots do. */
static void note_end(struct mk_vcpu *c)
{
    const struct cpu *k = cpu_of(c);
    if (c->end.reason != MK_RUNNING && c->end.reason != MK_EXIT)
        c->end.code = k->over ? (int64_t)(k->over_at + 1) : 0;
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

static void goes_on(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    pthread_mutex_lock(&d->lock);
    d->last = (struct mk_stop){ 0 };
    pthread_mutex_unlock(&d->lock);
}

static void begin(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    k->stepping = k->trailing = k->told = false;
    k->hardware_count = 0;
    k->hardware_of = 0;
    k->over = c->end.reason != MK_EXIT && c->end.code;
    k->over_at = (uint64_t)c->end.code - 1;
}

static void free_debug(struct mk_vm *vm)
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

const struct mk_debug_ops run_ops = { .goes_on = goes_on,
                                      .begin = begin,
                                      .end = note_end,
                                      .run = run,
                                      .pause = on_pause,
                                      .wants = wants_to_run,
                                      .free = free_debug };
