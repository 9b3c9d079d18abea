/* watch.c - waiting for what a VM prints: joins the console's watches (watch.h) to its vCPUs and
 * to the thread that waits. */
#include "vm/vm.h"

#define WHERE_TRIES 2000 /* milliseconds that a vCPU has to say where it is: others may run */

/* A watch was decided: wakes who waits. The lock is taken so that the wake-up cannot fall between
 * that thread's look and its sleep. */
static void decided(void *ctx)
{
    struct mk_vm *vm = ctx;
    pthread_mutex_lock(&vm->lock);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/* Each trip of a vCPU while there are watches. */
static void heed(struct mk_machine *m, struct mk_vcpu *c)
{
    struct mk_vm *vm = MK_CONTAINER(m, struct mk_vm, m);
    char text[sizeof(c->end.text)];
    bool news;
    enum mk_reason reason =
        mk_watch_heed(&m->console, c->cpu.index, c->counters.exits, &news, text, sizeof(text));
    if (reason != MK_RUNNING && c->end.reason == MK_RUNNING) {
        mk_vcpu_end(c, reason, 0, true, "%s", text);
        c->end.goes_on = reason == MK_STOPPED;
    }
    if (news)
        decided(vm);
}

void mk_vm_watch_init(struct mk_vm *vm)
{
    vm->m.console.on_watch = decided;
    vm->m.heed = heed;
}

void mk_vm_ticked(struct mk_vm *vm)
{
    if (mk_watch_tick(&vm->m.console))
        decided(vm);
}

void mk_vm_watch(struct mk_vm *vm, struct mk_watch *w)
{
    if (w->exact)
        mk_vm_exact(vm, true);
    for (unsigned i = 0; w->exact && i < vm->cpus; i++)
        mk_vcpu_request(&vm->cpu[i], MK_REQ_WAKE); /* it may hold output that was collected */
    mk_watch_arm(&vm->m.console, w);
}

void mk_vm_unwatch(struct mk_vm *vm, struct mk_watch *w)
{
    mk_watch_disarm(&vm->m.console, w);
}

static bool over_or_decided(struct mk_vm *vm, const void *watch)
{
    const struct mk_watch *w = watch;
    pthread_mutex_lock(&vm->m.console.lock);
    bool decided = w->state != MK_WATCH_ARMED;
    pthread_mutex_unlock(&vm->m.console.lock);
    return decided || vm->state != MK_VM_RUNNING;
}

bool mk_vm_watch_wait(struct mk_vm *vm, const struct mk_watch *w, uint64_t ns)
{
    return mk_vm_wait_until(vm, ns, over_or_decided, w);
}

bool mk_vm_where(struct mk_vm *vm, unsigned cpu, uint64_t *rip)
{
    struct mk_vcpu *c = &vm->cpu[cpu];
    c->where = MK_FOREVER;
    mk_vcpu_request(c, MK_REQ_WHERE);
    for (unsigned i = 0; i < WHERE_TRIES && c->where == MK_FOREVER; i++)
        if (mk_vm_wait(vm, 1000000)) {
            *rip = mk_vcpu_regs(c)->rip;
            return true;
        }
    *rip = c->where;
    return *rip != MK_FOREVER;
}
