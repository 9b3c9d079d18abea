/* hit.c - an instruction with a breakpoint is about to be executed: who is told. See engine.h. On
 * the vCPU's thread, without the lock. */
#include "debug/engine.h"

#define MOST 64 /* breakpoints at one address that are told of a hit */

/* Those at an address, kept from going away; the physical ones, or the others. */
static unsigned gather(struct mk_vcpu *c, uint64_t address, bool physical, struct mk_break **found,
                       unsigned n)
{
    const struct mk_debug *d = debug_of(c);
    for (size_t i = list_first(d, address); i < d->count && n < MOST; i++) {
        struct mk_break *b = d->list[i];
        if (b->o.address != address)
            break;
        if (b->o.physical == physical && (b->o.cpu < 0 || (unsigned)b->o.cpu == c->cpu.index)) {
            b->held++;
            found[n++] = b;
        }
    }
    return n;
}

/* Counts the hit. False when it is not told: too early, or the breakpoint has gone meanwhile. */
static bool count(struct mk_debug *d, struct mk_break *b)
{
    pthread_mutex_lock(&d->lock);
    bool reported = !b->over && ++b->hits > b->o.after;
    bool goes = reported && b->o.once;
    if (goes)
        list_end(d, b);
    pthread_mutex_unlock(&d->lock);
    if (goes)
        debug_unuse(d);
    return reported;
}

static void tell(struct mk_vcpu *c, struct mk_break *b, uint64_t linear)
{
    struct mk_debug *d = debug_of(c);
    if (c->end.reason == MK_RUNNING && count(d, b) && (!b->o.hit || b->o.hit(b->o.ctx, c)))
        debug_stop(
            c, &(struct mk_stop){
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
    k->over_at = linear;
    if (begun(c, linear))
        return;
    pthread_mutex_lock(&d->lock);
    list_reach(d, linear);
    unsigned n = gather(c, linear, false, found, 0);
    n = gather(c, gpa, true, found, n);
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < n; i++)
        tell(c, found[i], linear);
}
