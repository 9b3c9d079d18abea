/* loop.c - the run loop: into the guest and back, until something ends it. See loop.h. */
#include "vm/trace.h"
#include "vm/vm.h"

#include "kvm/interrupt.h"

#include <errno.h>
#include <string.h>

MK_HOT void mk_vcpu_check_limits(struct mk_vcpu *c)
{
    struct mk_vm *vm = c->vm;
    if (vm->console.watched)
        mk_vm_check_watches(c->vm, c);
    if (c->counters.exits - c->exits_before >= vm->exit_limit)
        mk_vcpu_end(c, MK_LIMIT, 0, true, "the limit of %llu exits is reached",
                    (unsigned long long)vm->exit_limit);
    mk_vcpu_check_output(c);
    while (vm->console.full && c->end.reason == MK_RUNNING) { /* for a slow reader */
        mk_vcpu_sleep(c, UINT64_MAX);
        mk_vcpu_handle_events(c);
    }
}

void mk_vcpu_entry_failed(struct mk_vcpu *c, int code)
{
    if (code == EFAULT)
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM cannot reach the memory the guest uses");
    else
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM refuses to run the vCPU: %s", strerror(code));
}

/* Enters the guest once and serves its exit. */
static void run_once(struct mk_vcpu *c)
{
    mk_interrupt_inject(c);
    c->last_rip = c->regs.rip;
    int code = mk_vcpu_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    if (code == 0) {
        mk_vcpu_exit(c);
        if (mk_vcpu_is_assisted(c))
            c->assist->ops->follow(c);
    } else if (code == EINTR || code == EAGAIN) {
        mk_vcpu_handle_events(c);
        if (mk_vcpu_wants_debugger(c))
            c->debug->ops->run(c);
    } else {
        mk_vcpu_entry_failed(c, code);
    }
    mk_vcpu_check_limits(c);
}

/* A run that ended by itself waits for a slow reader of its output, until a stop or the deadline. A
 * guest that came to its end has failed all the same if its output is lost. */
static void end_output(struct mk_vcpu *c)
{
    if (c->end.reason != MK_STOPPED)
        mk_vcpu_finish_output(c);
    mk_console_flush(&c->vm->console);
    if (c->vm->console.out_error && (c->end.reason == MK_HALT || c->end.reason == MK_EXIT)) {
        c->end.reason = MK_RUNNING;
        mk_vcpu_output_failed(c);
    }
}

MK_HOT void mk_vcpu_run(struct mk_vcpu *c)
{
    struct mk_vm *vm = c->vm;
    if (c->debug)
        c->debug->ops->begin(c);
    c->end = (struct mk_end){ 0 };
    c->exits_before = c->counters.exits;
    c->output_before = vm->console.cpu[c->cpu.index].printed;
    bool blocked = mk_kick_unblock();
    mk_vcpu_set_running(c, true);
    c->awake = true;
    mk_vm_start_polling(c->vm);
    mk_clock_start(&vm->clock);
    mk_vcpu_handle_events(c); /* those from before it ran, */
    mk_vcpu_check_limits(c);  /* and a reader that is slow since then */
    if (mk_vcpu_wants_debugger(c))
        c->debug->ops->run(c);
    while (c->end.reason == MK_RUNNING)
        run_once(c);
    mk_clock_stop(&vm->clock);
    end_output(c);
    mk_vcpu_complete(c);
    if (vm->tracing)
        mk_trace(c, &(struct mk_trace){ .kind = MK_TRACE_END, .value = c->end.reason });
    if (!c->end.resumable) /* before kicks end: its listener may take long, or wait */
        mk_console_end_lines(&vm->console, &c->cpu);
    if (c->debug)
        c->debug->ops->end(c);
    c->awake = false;
    mk_vcpu_set_running(c, false);
    if (blocked)
        mk_kick_block();
}
