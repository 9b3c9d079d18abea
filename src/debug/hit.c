/* hit.c - an instruction with a breakpoint is about to be executed: who is told, and stopping. See
 * engine.h. On the vCPU's thread, without the lock. */
#include "debug/engine.h"

#include <stdio.h>

#define MOST 64 /* breakpoints at one address that are told of a hit */

/* --- stopping --- */

static const char *const kinds[] = { [MK_STOP_BREAK] = "breakpoint at",
                                     [MK_STOP_WATCH] = "watched access to",
                                     [MK_STOP_STEP] = "stepped to",
                                     [MK_STOP_UNTIL] = "reached" };

/* One stop at a time is told; that of another vCPU, at the same moment, when the VM goes on. */
void hit_stop(struct mk_vcpu *c, const struct mk_stop *stop)
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
        mk_vm_hold(d->vm);
        return;
    }
    if (d->vm->pauses || d->vm->paused) { /* it stays so after a step */
        if (!d->vm->paused)
            mk_vm_pause(d->vm);
        return;
    }
    mk_vcpu_end(c, MK_BREAK, 0, true, "%s 0x%llx, cpu %u", kinds[stop->kind],
                (unsigned long long)stop->address, c->cpu.index);
    c->end.resumable = true;
}

/* --- telling --- */

static bool concerns(const struct mk_break *b, const struct mk_vcpu *c, uint64_t linear,
                     uint64_t gpa)
{
    return b->o.address == (b->o.physical ? gpa : linear) &&
           (b->o.cpu < 0 || (unsigned)b->o.cpu == c->cpu.index);
}

/* Those of one bucket, kept from going away; of the physical ones, or of the others. */
static unsigned gather(struct mk_vcpu *c, uint64_t linear, uint64_t gpa, bool physical,
                       struct mk_break **found, unsigned n)
{
    struct mk_break *b = list_first(debug_of(c), physical ? gpa : linear);
    for (; b && n < MOST; b = b->next)
        if (b->o.physical == physical && concerns(b, c, linear, gpa)) {
            b->held++;
            found[n++] = b;
        }
    return n;
}

/* Counts the hit. False when it is not told: too early, or the breakpoint has gone meanwhile. */
static bool count(struct mk_debug *d, struct mk_break *b)
{
    pthread_mutex_lock(&d->lock);
    bool told = !b->over && ++b->hits > b->o.after;
    bool goes = told && b->o.once;
    if (goes)
        list_end(d, b);
    pthread_mutex_unlock(&d->lock);
    if (goes)
        debug_unuse(d);
    return told;
}

static void tell(struct mk_vcpu *c, struct mk_break *b, uint64_t linear)
{
    struct mk_debug *d = debug_of(c);
    if (c->end.reason == MK_RUNNING && count(d, b) && (!b->o.hit || b->o.hit(b->o.ctx, c)))
        hit_stop(c,
                 &(struct mk_stop){
                     .kind = b->o.kind, .cpu = c->cpu.index, .address = linear, .ctx = b->o.ctx });
    list_release(d, b);
}

/* The instruction was begun already, and faulted: its handler has returned to it. */
static bool begun(struct mk_vcpu *c, uint64_t linear)
{
    struct cpu *k = cpu_of(c);
    const struct kvm_regs *r = mk_vcpu_get_regs(c);
    bool same = k->faulted.pending && k->faulted.at == linear && k->faulted.rsp == r->rsp &&
                k->faulted.cr3 == k->tables.cr3;
    if (same)
        k->faulted.pending = false;
    return same;
}

void hit_report(struct mk_vcpu *c, uint64_t linear, uint64_t gpa)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    struct mk_break *found[MOST];
    k->over = true;
    k->over_at = linear;
    if (begun(c, linear))
        return;
    pthread_mutex_lock(&d->lock);
    list_reach(d, linear);
    unsigned n = gather(c, linear, gpa, false, found, 0);
    n = gather(c, linear, gpa, true, found, n);
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < n; i++)
        tell(c, found[i], linear);
}
