/* vcpu.c - see vcpu.h. The run loop is mk_vcpu_run(). */
#include "kvm/vcpu.h"

#include "x86/weak/assist.h"
#include "kvm/interrupt.h"
#include "io/watch.h"
#include "kvm/wait.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* --- kick ---
 *
 * Whoever wants a vCPU's attention sets a request, sets kvm_run->immediate_exit and signals the
 * thread. In the guest, the signal ends KVM_RUN; on the way into it, immediate_exit does. The vCPU
 * clears immediate_exit before it looks at the requests, so none is lost in between. */

static void set_immediate_exit(struct kvm_run *run, uint8_t value)
{
    __atomic_store_n(&run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* In the signal's handler, on the vCPU's thread. */
static void kicked(void *vcpu)
{
    struct mk_vcpu *c = vcpu;
    set_immediate_exit(c->run, 1);
    if (c->machine->ops && c->machine->ops->kicked)
        c->machine->ops->kicked(c->machine->ctx, c);
}

void mk_vcpu_request(struct mk_vcpu *c, uint32_t request)
{
    atomic_fetch_or(&c->requests, request);
    pthread_mutex_lock(&c->lock);
    if (c->running) {
        set_immediate_exit(c->run, 1);
        if (!pthread_equal(c->thread, pthread_self()))
            pthread_kill(c->thread, mk_kick_signal());
    }
    pthread_mutex_unlock(&c->lock);
}

bool mk_vcpu_is_current(struct mk_vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    bool current = c->running && pthread_equal(c->thread, pthread_self());
    pthread_mutex_unlock(&c->lock);
    return current;
}

void mk_vcpu_stop(struct mk_vcpu *c, enum mk_reason reason)
{
    int none = MK_RUNNING;
    atomic_compare_exchange_strong(&c->stop_reason, &none, (int)reason);
    mk_vcpu_request(c, MK_REQ_STOP);
}

/* --- what devices may ask --- */

static struct mk_vcpu *vcpu_of(struct mk_cpu *cpu)
{
    return MK_CONTAINER(cpu, struct mk_vcpu, cpu);
}

/* A guest whose exits need registers (hypercalls) gets them with every exit from the second on;
 * others do not pay for that. */
static uint64_t cpu_reg(struct mk_cpu *cpu, enum mk_reg reg)
{
    struct mk_vcpu *c = vcpu_of(cpu);
    const struct kvm_regs *r = mk_vcpu_regs(c);
    if (c->machine->kvm->sync_regs)
        c->run->kvm_valid_regs |= KVM_SYNC_X86_REGS;
    switch (reg) {
    case MK_RAX: return r->rax;
    case MK_RBX: return r->rbx;
    case MK_RCX: return r->rcx;
    case MK_RDX: return r->rdx;
    case MK_RSI: return r->rsi;
    case MK_RDI: return r->rdi;
    case MK_RIP: return r->rip;
    }
    return 0;
}

static void end_va(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                   const char *fmt, va_list ap)
{
    if (c->end.reason != MK_RUNNING)
        return;
    c->end.reason = reason;
    c->end.code = code;
    c->end.whole_vm = whole_vm;
    vsnprintf(c->end.text, sizeof(c->end.text), fmt, ap);
    if (whole_vm && c->machine->end_all)
        c->machine->end_all(c->machine, c);
}

void mk_vcpu_end(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                 const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    end_va(c, reason, code, whole_vm, fmt, ap);
    va_end(ap);
}

static void cpu_end(struct mk_cpu *cpu, enum mk_reason reason, int64_t code, bool whole_vm,
                    const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    end_va(vcpu_of(cpu), reason, code, whole_vm, fmt, ap);
    va_end(ap);
}

/* By this vCPU, in this run. */
static uint64_t printed(const struct mk_vcpu *c)
{
    return c->machine->console.stream[c->cpu.index].total - c->output_before;
}

static void cpu_idle(struct mk_cpu *cpu, unsigned ms)
{
    struct mk_vcpu *c = vcpu_of(cpu);
    if (!mk_interrupt_due(c, c->run->if_flag))
        mk_vcpu_sleep(c, mk_now() + ms * UINT64_C(1000000));
}

static void wait_for_room(struct mk_vcpu *c);

static bool cpu_more(struct mk_cpu *cpu)
{
    return mk_vcpu_goes_on(vcpu_of(cpu));
}

static uint64_t cpu_output_room(struct mk_cpu *cpu)
{
    struct mk_vcpu *c = vcpu_of(cpu);
    uint64_t limit = c->machine->output_limit;
    wait_for_room(c);
    if (!mk_vcpu_goes_on(c))
        return 0;
    return limit == UINT64_MAX ? limit : limit - printed(c) + 1;
}

static const struct mk_cpu_ops cpu_ops = { .reg = cpu_reg, .end = cpu_end, .idle = cpu_idle,
                                           .more = cpu_more, .output_room = cpu_output_room };

/* --- life --- */

/* What a vCPU that is closed shows of itself: nothing happened. */
static struct kvm_run closed_run;

int mk_vcpu_open(struct mk_vcpu *c, struct mk_machine *machine, unsigned index,
                 struct mk_err *err)
{
    const struct mk_kvm *kvm = machine->kvm;
    *c = (struct mk_vcpu){ .cpu = { .index = index, .ops = &cpu_ops }, .machine = machine,
                           .kicks = { .fn = kicked, .ctx = c } };
    pthread_mutex_init(&c->lock, NULL);
    c->fd = mk_kvm_create_vcpu(machine->fd, index, err);
    if (c->fd < 0)
        return -1;
    c->run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->run == MAP_FAILED) {
        c->run = &closed_run;
        mk_fail_errno(err, errno, "cannot map vCPU %u", index);
        mk_vcpu_close(c);
        return -1;
    }
    if (kvm->coalesced_pio)
        c->ring = (void *)((char *)c->run + kvm->coalesced_at);
    return 0;
}

void mk_vcpu_close(struct mk_vcpu *c)
{
    if (c->run && c->run != &closed_run)
        munmap(c->run, c->machine->kvm->run_size);
    if (c->fd >= 0)
        close(c->fd);
    c->run = &closed_run;
    c->ring = NULL;
    c->fd = -1;
    c->incomplete = c->regs_known = false;
    c->synced = 0;
}

/* --- registers --- */

struct kvm_regs *mk_vcpu_regs(struct mk_vcpu *c)
{
    if (c->regs_known)
        return &c->regs;
    if (mk_ioctl(c->fd, KVM_GET_REGS, &c->regs) == 0)
        c->regs_known = true;
    return &c->regs;
}

int mk_vcpu_state(struct mk_vcpu *c, struct kvm_sync_regs *state)
{
    const uint64_t all = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    if (c->synced == all || c->run->kvm_dirty_regs == all) { /* what was set counts already */
        *state = c->run->s.regs;
        return 0;
    }
    if (c->machine->kvm->sync_state)
        c->run->kvm_valid_regs = all; /* from the next exit on */
    state->regs = *mk_vcpu_regs(c);
    if (mk_vcpu_sregs(c, &state->sregs) < 0)
        return -1;
    return mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &state->events);
}

int mk_vcpu_set_state(struct mk_vcpu *c, const struct kvm_sync_regs *state)
{
    struct kvm_sync_regs copy = *state;
    c->regs = state->regs;
    c->regs_known = true;
    if (c->machine->kvm->sync_state) {
        c->run->s.regs = copy;
        c->run->cr8 = copy.sregs.cr8;
        c->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
        c->incomplete = true; /* until the next entry */
        return 0;
    }
    if (mk_vcpu_set_sregs(c, &copy.sregs) < 0 || mk_ioctl(c->fd, KVM_SET_REGS, &copy.regs) < 0)
        return -1;
    return mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &copy.events);
}

int mk_vcpu_enter(struct mk_vcpu *c, bool only_complete)
{
    if (only_complete)
        set_immediate_exit(c->run, 1);
    c->incomplete = false;
    c->regs_known = false;
    c->counters.entries++;
    int rc = ioctl(c->fd, KVM_RUN, NULL);
    c->synced = c->run->kvm_valid_regs;
    if (rc == 0 && c->synced & KVM_SYNC_X86_REGS) {
        c->regs = c->run->s.regs.regs;
        c->regs_known = true;
    }
    return rc;
}

int mk_vcpu_set_regs(struct mk_vcpu *c, const struct kvm_regs *regs)
{
    struct kvm_regs copy = *regs;
    c->synced = 0;
    if (mk_ioctl(c->fd, KVM_SET_REGS, &copy) < 0)
        return -1;
    c->regs = copy;
    c->regs_known = true;
    return 0;
}

int mk_vcpu_sregs(struct mk_vcpu *c, struct kvm_sregs *sregs)
{
    return mk_ioctl(c->fd, KVM_GET_SREGS, sregs);
}

/* Without an APIC in the kernel every entry loads CR8 from kvm_run (api.rst 5, cr8), and fails when
 * it is none (SDM volume 3, 11.8.6: four bits). */
int mk_vcpu_set_sregs(struct mk_vcpu *c, const struct kvm_sregs *sregs)
{
    struct kvm_sregs copy = *sregs;
    c->synced = 0;
    if (copy.cr8 > 15) {
        errno = EINVAL;
        return -1;
    }
    c->run->cr8 = copy.cr8;
    return mk_ioctl(c->fd, KVM_SET_SREGS, &copy);
}

void mk_vcpu_complete(struct mk_vcpu *c)
{
    if (!c->incomplete)
        return;
    c->incomplete = mk_vcpu_enter(c, true) == 0; /* an access in parts has more of them */
}

/* --- coalesced output --- */

void mk_vcpu_drain(struct mk_vcpu *c)
{
    struct kvm_coalesced_mmio_ring *ring = c->ring;
    if (!ring)
        return;
    const uint32_t slots = (MK_PAGE - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio);
    while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
        const struct kvm_coalesced_mmio *entry = &ring->coalesced_mmio[ring->first];
        struct mk_served served = { .quiet = true };
        if (entry->pio && entry->len == 1)
            mk_bus_out(&c->machine->bus, &c->cpu, (uint16_t)entry->phys_addr, 1, entry->data[0],
                       &served);
        c->counters.coalesced++;
        __atomic_store_n(&ring->first, (ring->first + 1) % slots, __ATOMIC_RELEASE);
    }
}

/* --- sleeping and looking around --- */

static bool interrupted(void *machine)
{
    const struct mk_machine *m = machine;
    return m->ops && m->ops->interrupted && m->ops->interrupted(m->ctx);
}

static bool stop_wanted(struct mk_vcpu *c)
{
    return atomic_load(&c->requests) & MK_REQ_STOP || mk_now() >= c->machine->deadline;
}

static bool requested(void *vcpu)
{
    return atomic_load(&((struct mk_vcpu *)vcpu)->requests) != 0;
}

static bool resumed(void *vcpu)
{
    struct mk_vcpu *c = vcpu;
    return !atomic_load(&c->machine->paused) || atomic_load(&c->requests) & MK_REQ_STOP;
}

static bool written(void *vcpu)
{
    const struct mk_vcpu *c = vcpu;
    return !mk_console_unwritten(&c->machine->console);
}

static bool has_room(void *vcpu)
{
    const struct mk_vcpu *c = vcpu;
    return !c->machine->console.full;
}

/* Outside the guest; whatever ended it, the loop looks around. */
static void wait_outside(struct mk_vcpu *c, struct mk_wait *wait, uint64_t until)
{
    struct mk_machine *m = c->machine;
    if (m->attended) {
        wait->interrupted = interrupted;
        wait->interrupted_ctx = m;
    }
    c->awake = false;
    mk_wait(wait, until);
    c->awake = true;
    m->rise(m, c);
    set_immediate_exit(c->run, 1);
}

void mk_vcpu_sleep(struct mk_vcpu *c, uint64_t until)
{
    struct mk_wait wait = { .done = requested, .ctx = c };
    wait_outside(c, &wait, c->machine->rest(c->machine, c, until));
}

/* Until the VM is resumed or the run shall end. Registers are what they are after the last
 * instruction, or, while a handler waits, at it. */
static void park(struct mk_vcpu *c)
{
    struct mk_machine *m = c->machine;
    struct mk_wait wait = { .done = resumed, .ctx = c };
    if (!c->waits)
        mk_vcpu_complete(c);
    mk_clock_stop(&m->clock);
    m->parked(m, true);
    wait_outside(c, &wait, UINT64_MAX);
    m->parked(m, false);
    mk_clock_start(&m->clock);
}

struct reader_wait {
    struct mk_vcpu *c;
    bool (*done)(void *c);
};

static bool read_or_ended(void *ctx)
{
    const struct reader_wait *r = ctx;
    return r->done(r->c) || stop_wanted(r->c) || atomic_load(&r->c->machine->paused);
}

/* In the middle of an access, for a slow reader, until done(c) or until the run shall end. */
static void wait_for_reader(struct mk_vcpu *c, bool (*done)(void *c))
{
    struct reader_wait r = { c, done };
    struct mk_wait wait = { .done = read_or_ended, .ctx = &r };
    while (!done(c) && !stop_wanted(c) && !interrupted(c->machine)) {
        wait_outside(c, &wait, c->machine->deadline);
        c->waits++;
        if (atomic_load(&c->machine->paused) && c->machine->parked)
            park(c);
        c->waits--;
    }
}

static void wait_for_room(struct mk_vcpu *c)
{
    wait_for_reader(c, has_room);
}

bool mk_vcpu_finish_output(struct mk_vcpu *c)
{
    mk_console_flush(&c->machine->console);
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

static void output_failed(struct mk_vcpu *c)
{
    mk_vcpu_end(c, MK_ERROR, 0, true, "the guest's output cannot be written: %s",
                strerror(c->machine->console.out_error));
}

/* Ends the run when somebody wants that, its time is up, or its output is lost. */
static void check_end(struct mk_vcpu *c, uint32_t requests)
{
    struct mk_machine *m = c->machine;
    if (requests & MK_REQ_STOP)
        stop_requested(c);
    else if (mk_now() >= m->deadline)
        mk_vcpu_end(c, MK_DEADLINE, 0, true, "the deadline passed");
    else if (interrupted(m))
        mk_vcpu_end(c, MK_STOPPED, 0, true, "interrupted");
    else if (m->console.out_error)
        output_failed(c);
}

static void check_output(struct mk_vcpu *c)
{
    if (printed(c) > c->machine->output_limit)
        mk_vcpu_end(c, MK_LIMIT, 0, true, "the limit of %llu bytes of output is reached",
                    (unsigned long long)c->machine->output_limit);
}

/* In the middle of an access: to pause, or to let timers and input in, must wait for its end. */
bool mk_vcpu_goes_on(struct mk_vcpu *c)
{
    check_output(c);
    check_end(c, atomic_load(&c->requests));
    return c->end.reason == MK_RUNNING;
}

/* Timers, input, doorbells. */
static void serve_due(struct mk_vcpu *c, uint32_t requests)
{
    struct mk_machine *m = c->machine;
    if (requests & MK_REQ_WHERE) {
        c->where = mk_vcpu_regs(c)->rip;
        m->announce(m);
    }
    m->look(m, c);
}

/* Everything that is not an exit: what is due, limits, requests. */
void mk_vcpu_look_around(struct mk_vcpu *c)
{
    struct mk_machine *m = c->machine;
    set_immediate_exit(c->run, 0);
    uint32_t requests = atomic_exchange(&c->requests, 0);
    serve_due(c, requests);
    check_end(c, requests);
    if (m->console.watched)
        m->heed(m, c);
    if (c->end.reason == MK_RUNNING && atomic_load(&m->paused) && m->parked)
        park(c);
}

/* Why the run shall end that had `before` as its end when the wait began. */
static enum mk_reason ending(const struct mk_vcpu *c, enum mk_reason before)
{
    if (c->end.reason != before && !c->end.goes_on)
        return c->end.reason;
    if (atomic_load(&c->requests) & MK_REQ_STOP)
        return MK_STOPPED;
    if (mk_now() >= c->machine->deadline)
        return MK_DEADLINE;
    return interrupted(c->machine) ? MK_STOPPED : MK_RUNNING;
}

/* A stop is left for the run loop. */
static void look_waiting(struct mk_vcpu *c, uint64_t *until)
{
    set_immediate_exit(c->run, 0);
    serve_due(c, atomic_fetch_and(&c->requests, MK_REQ_STOP));
    uint64_t began = mk_now();
    if (atomic_load(&c->machine->paused) && c->machine->parked) {
        park(c);
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
    struct mk_wait either = { .lock = wait->lock, .waiters = wait->waiters,
                              .done = done_or_requested, .ctx = &h };
    bool done;
    c->waits++;
    while (!(done = mk_wait(wait, 0)) && mk_now() < until && !(*reason = ending(c, before))) {
        wait_outside(c, &either, c->machine->rest(c->machine, c, until));
        look_waiting(c, &until);
    }
    c->waits--;
    set_immediate_exit(c->run, 1); /* what came meanwhile is seen before the next entry */
    return done;
}

static bool output_collected(const struct mk_vcpu *c)
{
    return c->ring && __atomic_load_n(&c->ring->first, __ATOMIC_RELAXED) !=
                          __atomic_load_n(&c->ring->last, __ATOMIC_RELAXED);
}

void mk_vcpu_check(struct mk_vcpu *c)
{
    struct mk_machine *m = c->machine;
    if (output_collected(c) || interrupted(m) ||
        (m->console.watched && mk_watch_screen_changed(&m->console)))
        mk_vcpu_request(c, MK_REQ_WAKE);
    if (!m->ops || !m->ops->overdue || !m->ops->overdue(m->ctx, c))
        return;
    pthread_mutex_lock(&c->lock);
    if (c->running)
        pthread_kill(c->thread, mk_kick_signal());
    pthread_mutex_unlock(&c->lock);
}

/* --- the run loop --- */

static void check_limits(struct mk_vcpu *c)
{
    struct mk_machine *m = c->machine;
    if (m->console.watched)
        m->heed(m, c);
    if (c->counters.exits - c->exits_before >= m->exit_limit)
        mk_vcpu_end(c, MK_LIMIT, 0, true, "the limit of %llu exits is reached",
                    (unsigned long long)m->exit_limit);
    check_output(c);
    while (m->console.full && c->end.reason == MK_RUNNING) { /* for a slow reader */
        mk_vcpu_sleep(c, UINT64_MAX);
        mk_vcpu_look_around(c);
    }
}

static void entry_failed(struct mk_vcpu *c, int code)
{
    if (code == EFAULT)
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM cannot reach the memory the guest uses");
    else
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM refuses to run the vCPU: %s", strerror(code));
}

/* One trip into the guest and back. */
static void trip(struct mk_vcpu *c)
{
    mk_interrupt_offer(c);
    c->last_rip = c->regs.rip;
    int code = mk_vcpu_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    if (code == 0) {
        mk_vcpu_exit(c);
        if (c->machine->assist && c->machine->assist->shadow.on)
            mk_assist_follow(c);
    } else if (code == EINTR || code == EAGAIN) {
        mk_vcpu_look_around(c);
    } else {
        entry_failed(c, code);
    }
    check_limits(c);
}

static void publish(struct mk_vcpu *c, bool running)
{
    pthread_mutex_lock(&c->lock);
    c->thread = pthread_self();
    c->running = running;
    pthread_mutex_unlock(&c->lock);
    running ? mk_kick_watch(&c->kicks) : mk_kick_unwatch(&c->kicks);
}

/* A run that ended by itself waits for a slow reader of its output, until a stop or the deadline. A
 * guest that came to its end has failed all the same if its output is lost. */
static void end_output(struct mk_vcpu *c)
{
    if (c->end.reason != MK_STOPPED)
        mk_vcpu_finish_output(c);
    mk_console_flush(&c->machine->console);
    if (c->machine->console.out_error && (c->end.reason == MK_HALT || c->end.reason == MK_EXIT)) {
        c->end.reason = MK_RUNNING;
        output_failed(c);
    }
}

void mk_vcpu_run(struct mk_vcpu *c)
{
    struct mk_machine *m = c->machine;
    c->end = (struct mk_end){ 0 };
    c->exits_before = c->counters.exits;
    c->output_before = m->console.stream[c->cpu.index].total;
    bool blocked = mk_kick_allow();
    publish(c, true);
    c->awake = true;
    m->rise(m, c);
    set_immediate_exit(c->run, 1); /* look around before the first instruction */
    mk_clock_start(&m->clock);
    while (c->end.reason == MK_RUNNING)
        trip(c);
    mk_clock_stop(&m->clock);
    end_output(c);
    mk_vcpu_complete(c);
    if (!c->end.goes_on) /* before kicks end: its listener may take long, or wait */
        mk_console_end_lines(&m->console, &c->cpu);
    c->awake = false;
    publish(c, false);
    if (blocked)
        mk_kick_forbid();
}
