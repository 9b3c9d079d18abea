/* monitor.c - asking the vCPUs of a VM, and what the I/O thread (io.h) does for one that runs: its
 * deadline, the alarm for its timers, and a look at its vCPUs every POLL_NS while one of them is
 * awake: output that KVM collected or that waits to be written, a wish to end the run, a handler
 * that is over its time. Of a VM whose vCPUs all sleep nothing is asked, and nobody is woken. */
#include "vm/vm.h"

#include "base/abi.h"

#define POLL_NS 10000000u
#define BLOCKED_NS 200000u /* the first look at an interrupt that waits; then twice as late */

/* --- on any thread --- */

void mk_vm_stop(struct mk_vm *vm, enum mk_reason reason)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        mk_vcpu_stop(&vm->cpu[i]->c, reason);
}

/* A VM that does not run may be losing its vCPUs. */
void mk_vm_wake(void *ctx)
{
    struct mk_vm *vm = ctx;
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; vm->state == MK_VM_RUNNING && i < vm->cpus; i++)
        mk_vcpu_request(&vm->cpu[i]->c, MK_REQ_WAKE);
    pthread_mutex_unlock(&vm->lock);
}

/* --- on the I/O thread --- */

static void deadline_passed(void *ctx)
{
    mk_vm_stop(ctx, MK_DEADLINE);
}

static void timer_due(void *ctx)
{
    struct mk_vm *vm = ctx;
    mk_vcpu_request(&vm->cpu[0]->c, MK_REQ_WAKE);
}

/* The first vCPU that is awake sees to it that it is looked at. */
void mk_vm_start_polling(struct mk_vm *vm)
{
    if (!atomic_exchange(&vm->polling, true))
        mk_io_arm(&vm->poll, mk_now() + POLL_NS);
}

/* Requests attention if there is coalesced output or a wish to end the run that nobody told it
 * of; its thread gets the signal if what the script does there is due. */
static void check_vcpu(struct mk_vm *vm, struct mk_vcpu *c)
{
    uint64_t until = c->irq.hold_until; /* a guest that makes no exits would not see it pass */
    if (mk_vcpu_has_coalesced(c) || mk_vm_interrupted(vm) || (until && mk_now() >= until) ||
        (vm->console.watched && mk_watch_screen_changed(&vm->console)))
        mk_vcpu_request(c, MK_REQ_WAKE);
    if (vm->ops && vm->ops->overdue && vm->ops->overdue(vm->ctx, c))
        mk_vcpu_signal(c);
}

static void poll_vcpus(void *ctx)
{
    struct mk_vm *vm = ctx;
    bool awake = false;
    vm->polling = false; /* before it sees them asleep */
    for (unsigned i = 0; i < vm->cpus; i++)
        if (vm->cpu[i]->c.awake) {
            awake = true;
            check_vcpu(vm, &vm->cpu[i]->c);
        }
    mk_console_flush(&vm->console);
    if (awake)
        mk_vm_start_polling(vm);
}

/* The guest may have let it through: the OUT for it is in KVM's ring until there is an exit. */
static void check_blocked(void *ctx)
{
    struct mk_vm *vm = ctx;
    if (!mk_pic_is_blocked(&vm->pic))
        return;
    mk_vcpu_request(&vm->cpu[0]->c, MK_REQ_WAKE);
    vm->blocked_ns *= 2;
    if (vm->blocked_ns < POLL_NS)
        mk_io_arm(&vm->blocked, mk_now() + vm->blocked_ns);
}

/* On any thread. */
static void interrupt_blocked(void *ctx)
{
    struct mk_vm *vm = ctx;
    if (!vm->zones.patient || vm->state != MK_VM_RUNNING)
        return;
    vm->blocked_ns = BLOCKED_NS;
    mk_io_arm(&vm->blocked, mk_now() + BLOCKED_NS);
}

void mk_vm_collect_pic(struct mk_vm *vm)
{
    mk_zones_be_patient(&vm->zones, MK_PORT_PIC1, MK_PORT_PIC1 + 1);
    mk_zones_be_patient(&vm->zones, MK_PORT_PIC2, MK_PORT_PIC2 + 1);
}

/* --- on the thread of a vCPU --- */

/* The guest has some time between one alarm and the next. */
static void set_alarm(void *ctx)
{
    struct mk_vm *vm = ctx;
    uint64_t at = mk_clock_next(&vm->clock), earliest = vm->alarm_earliest;
    mk_io_arm(&vm->alarm, at < earliest ? earliest : at);
}

void mk_vm_serve_due(struct mk_vm *vm, struct mk_vcpu *c)
{
    uint64_t began = mk_now(), end;
    if (c->cpu.index == 0)
        mk_clock_run(&vm->clock);
    if (vm->has_pic)
        mk_uart_input(&vm->uart);
    if (c->cpu.index != 0)
        return;
    mk_doorbells_serve(&vm->doorbells, &c->cpu);
    end = mk_now();
    vm->alarm_earliest = end + 2 * (end - began);
    set_alarm(vm);
}

/* A halted vCPU with interrupts on waits while something may still come: a timer; an answer of a
 * disk, whose doorbells are looked at first; and with a PIC, input, or a script that runs beside
 * it. */
bool mk_vm_can_wake(struct mk_vm *vm)
{
    return mk_blks_may_wake(&vm->blks) || mk_clock_next(&vm->clock) != UINT64_MAX ||
           (vm->has_pic && (vm->threaded || mk_console_expects_input(&vm->console)));
}

/* It wakes by itself for the next timer. */
uint64_t mk_vm_begin_sleep(struct mk_vm *vm, struct mk_vcpu *c, uint64_t until)
{
    mk_console_flush(&vm->console);
    if (c->cpu.index != 0)
        return until;
    mk_io_arm(&vm->alarm, UINT64_MAX); /* a timer that is armed from now on sets it again */
    uint64_t next = mk_clock_next(&vm->clock);
    return next < until ? next : until;
}

/* --- its owner --- */

void mk_vm_init_monitor(struct mk_vm *vm)
{
    vm->deadline_timer = (struct mk_io_timer){ .fire = deadline_passed, .ctx = vm };
    vm->alarm = (struct mk_io_timer){ .fire = timer_due, .ctx = vm };
    vm->poll = (struct mk_io_timer){ .fire = poll_vcpus, .ctx = vm };
    vm->blocked = (struct mk_io_timer){ .fire = check_blocked, .ctx = vm };
    vm->pic.on_blocked = interrupt_blocked;
    vm->clock.on_earlier = set_alarm;
    vm->clock.ctx = vm;
}

void mk_vm_start_monitor(struct mk_vm *vm)
{
    mk_console_begin(&vm->console);
    vm->alarm_earliest = 0;
    mk_io_arm(&vm->deadline_timer, vm->paused ? MK_FOREVER : vm->deadline);
    if (vm->profiler)
        vm->profiler->run(vm, true);
}

void mk_vm_stop_monitor(struct mk_vm *vm)
{
    mk_io_disarm(&vm->deadline_timer);
    mk_io_disarm(&vm->alarm);
    mk_io_disarm(&vm->poll);
    mk_io_disarm(&vm->blocked);
    if (vm->profiler)
        vm->profiler->run(vm, false);
    vm->polling = false;
    mk_console_end(&vm->console);
}
