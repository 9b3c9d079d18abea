/* debug.c - the engine of a VM: its life, its users, what stopped the VM. See debug.h. */
#include "debug/engine.h"

#include "x86/mode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define HLT 0xf4

struct mk_debug *debug_get(struct mk_vm *vm, struct mk_err *err)
{
    if (vm->debug)
        return (struct mk_debug *)vm->debug;
    struct mk_debug *d = calloc(1, sizeof(*d));
    if (!d) {
        mk_fail_errno(err, ENOMEM, "vm \"%s\": its debugger", vm->name);
        return NULL;
    }
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&d->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_cond_init(&d->turn, NULL);
    d->base.ops = &run_ops;
    d->vm = vm;
    d->trap = HLT;
    d->memory_fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    page_init_guard(d);
    ring_forget(d);
    mk_vm_attach_debugger(vm, &d->base);
    return d;
}

/* vCPUs that run leave the guest, to look up what is new, or to change their loop. */
void debug_use(struct mk_debug *d)
{
    atomic_fetch_add(&d->base.users, 1);
    mk_vm_wake(d->vm);
}

void debug_unuse(struct mk_debug *d)
{
    if (atomic_fetch_sub(&d->base.users, 1) == 1)
        mk_vm_wake(d->vm);
}

bool debug_sregs(struct mk_vcpu *c, struct kvm_sregs *s)
{
    struct kvm_sync_regs state;
    if (mk_vcpu_get_state(c, &state) < 0)
        return false;
    *s = state.sregs;
    if (c->assist)
        c->assist->ops->show_sregs(c, s);
    return true;
}

bool debug_emulates_locks(const struct mk_debug *d)
{
    return d->vm->cpus > 1 && d->vm->kvm->shadow_paging;
}

int debug_set_regs(struct mk_vcpu *c, const struct kvm_regs *regs)
{
    struct kvm_regs copy = *regs;
    if (mk_ioctl(c->fd, KVM_SET_REGS, &copy) < 0)
        return -1;
    c->regs = c->run->s.regs.regs = copy;
    c->regs_known = true;
    return 0;
}

uint64_t debug_linear(const struct kvm_sregs *s, uint64_t rip)
{
    bool wide = s->cs.l && s->efer & MK_EFER_LMA;
    return wide ? rip : (uint32_t)(s->cs.base + rip);
}

struct mk_stop mk_debug_last_stop(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    struct mk_stop stop = { 0 };
    if (!d)
        return stop;
    pthread_mutex_lock(&d->lock);
    stop = d->last;
    pthread_mutex_unlock(&d->lock);
    return stop;
}

/* --- steps that were asked for --- */

int mk_debug_begin_step(struct mk_vm *vm, unsigned cpu, uint64_t count, struct mk_err *err)
{
    struct mk_debug *d = debug_get(vm, err);
    if (!d)
        return -1;
    d->stepped = cpu;
    vm->only = cpu + 1;
    run_ops.goes_on(vm);
    d->cpu[cpu].stop = (struct mk_stop){ 0 }; /* of before; what is still there is met again */
    d->cpu[cpu].steps = count;                /* last: it may be under way from here on */
    debug_use(d);
    return 0;
}

bool mk_debug_has_stepped(const struct mk_vm *vm)
{
    const struct mk_debug *d = (const struct mk_debug *)vm->debug;
    return d->cpu[d->stepped].steps == 0;
}

bool mk_debug_is_done(void *vm)
{
    return mk_debug_has_stepped(vm) && mk_vm_is_paused_or_stopped(vm);
}

void mk_debug_end_step(struct mk_vm *vm)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    struct cpu *k = &d->cpu[d->stepped];
    k->steps = 0;
    if (k->stop.kind == MK_STOP_STEP) /* another vCPU's stop was told, and nobody waits for this */
        k->stop = (struct mk_stop){ 0 };
    vm->only = 0;
    debug_unuse(d);
}
