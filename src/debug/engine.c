/* engine.c - what the other files of the engine use: its users, a vCPU's registers at an exit, what
 * stopped the VM. See engine.h. */
#include "debug/engine.h"

#include "x86/mode.h"

#include <errno.h>
#include <string.h>

#define GATE_PRESENT 0x8000

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
    if (mk_vcpu_get_state(c, &state) < 0) {
        if (mk_vcpu_is_current(c))
            mk_vcpu_end(c, MK_ERROR, 0, true, "KVM does not tell the registers: %s",
                        strerror(errno));
        return false;
    }
    *s = state.sregs;
    mk_vcpu_show_paging(c, s);
    return true;
}

uint64_t debug_here(struct mk_vcpu *c, struct kvm_sregs *s)
{
    return debug_sregs(c, s) ? mk_code_address(s, mk_vcpu_get_regs(c)->rip) : NOWHERE;
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

void debug_count(struct mk_vcpu *c)
{
    c->counters.exits++;
    c->counters.by[KVM_EXIT_DEBUG]++;
}

bool debug_drop_exception(struct mk_vcpu *c)
{
    struct kvm_vcpu_events events;
    if (mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
        return false;
    memset(&events.exception, 0, sizeof(events.exception));
    events.flags = 0;
    c->synced = 0;
    return mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &events) == 0;
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

/* Of protected mode: code segments begin at 0. */
uint64_t debug_handler(struct mk_vcpu *c, const struct kvm_sregs *s, unsigned vector)
{
    uint16_t gate[8] = { 0 };
    bool real = !(s->cr0 & MK_CR0_PE);
    unsigned size = real ? 4 : s->efer & MK_EFER_LMA ? 16 : 8;
    uint64_t at = s->idt.base + (uint64_t)vector * size;
    if ((vector + 1) * size - 1 > s->idt.limit ||
        mk_linear_copy(c->mem, s, at, gate, size, false) != size)
        return NOWHERE;
    if (real)
        return gate[0] + ((uint64_t)gate[1] << 4);
    if (!(gate[2] & GATE_PRESENT))
        return NOWHERE;
    uint64_t low = gate[0] | (uint32_t)gate[3] << 16;
    return size == 8 ? low : low | (uint64_t)gate[4] << 32 | (uint64_t)gate[5] << 48;
}

/* --- stopping --- */

static const char *const kinds[] = { [MK_STOP_BREAK] = "breakpoint at",
                                     [MK_STOP_WATCH] = "watched access to",
                                     [MK_STOP_STEP] = "stepped to",
                                     [MK_STOP_UNTIL] = "reached" };

/* One stop at a time is told; that of another vCPU, at the same moment, when the VM goes on. */
void debug_stop(struct mk_vcpu *c, const struct mk_stop *stop)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    pthread_mutex_lock(&d->lock);
    bool first = d->last.kind == MK_STOP_NONE;
    if (first)
        d->last = *stop;
    k->stop = first ? (struct mk_stop){ 0 } : *stop;
    pthread_mutex_unlock(&d->lock);
    k->steps = 0;
    if (!first)
        return;
    if (d->vm->holds) {
        mk_vm_pause(d->vm, MK_PAUSED_BY_DEBUGGER);
        return;
    }
    if (d->vm->pauses || d->vm->paused) { /* it stays so after a step */
        if (!d->vm->paused)
            mk_vm_pause(d->vm, MK_PAUSED_BY_SCRIPT);
        return;
    }
    mk_vcpu_end(c, MK_BREAK, 0, true, "%s 0x%llx, cpu %u", kinds[stop->kind],
                (unsigned long long)stop->address, c->cpu.index);
    c->end.resumable = true;
}
