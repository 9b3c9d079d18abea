/* watch.c - waiting for what a VM prints: joins the console's watches (watch.h) to its vCPUs and
 * to the thread that waits. */
#include "vm/vm.h"

/* Several vCPUs print to one stream. */
static bool is_shared(const struct mk_vm *vm)
{
    return vm->console.streams < vm->cpus;
}

/* Exits of all that print to a stream, as far as they count. What a vCPU did before the last watch
 * was set does not. */
static uint64_t exits_of_stream(struct mk_vm *vm, struct mk_vcpu *c)
{
    struct mk_vm_cpu *cpu = vm->cpu[c->cpu.index];
    uint64_t exits = c->counters.exits;
    if (!is_shared(vm))
        return exits;
    bool new = cpu->watch_round != vm->watch_round || exits < cpu->exits_checked; /* a reset */
    uint64_t more = new ? 0 : exits - cpu->exits_checked;
    cpu->watch_round = vm->watch_round;
    cpu->exits_checked = exits;
    return atomic_fetch_add(&vm->exits_checked, more) + more;
}

void mk_vm_check_watches(struct mk_vm *vm, struct mk_vcpu *c)
{
    char text[sizeof(c->end.text)];
    bool news;
    struct mk_console *con = &vm->console;
    if (is_shared(vm) && c->end.reason != MK_RUNNING) /* the end is for another one to make */
        return;
    enum mk_reason reason = mk_watch_check(con, mk_console_stream(con, c->cpu.index),
                                           exits_of_stream(vm, c), &news, text, sizeof(text));
    if (reason != MK_RUNNING && c->end.reason == MK_RUNNING) {
        mk_vcpu_end(c, reason, 0, true, "%s", text);
        c->end.resumable = reason == MK_STOPPED;
    }
    if (news)
        mk_vm_notify(vm);
}

void mk_vm_timer_tick(struct mk_vm *vm)
{
    if (mk_watch_timer_tick(&vm->console))
        mk_vm_notify(vm);
}

void mk_vm_watch(struct mk_vm *vm, struct mk_watch *w)
{
    if (w->exact)
        mk_zones_exact(&vm->zones, true);
    for (unsigned i = 0; w->exact && i < vm->cpus; i++)
        mk_vcpu_request(&vm->cpu[i]->c, MK_REQ_WAKE); /* it may hold output that was collected */
    vm->watch_round++;
    mk_watch_arm(&vm->console, w);
}

bool mk_vm_watch_decided(void *ctx)
{
    const struct mk_vm_watched *watched = ctx;
    struct mk_console *con = &watched->vm->console;
    pthread_mutex_lock(&con->lock);
    bool decided = watched->w->state != MK_WATCH_ARMED;
    pthread_mutex_unlock(&con->lock);
    return decided || mk_vm_is_stopped(watched->vm);
}
