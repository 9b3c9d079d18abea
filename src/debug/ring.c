/* ring.c - programs of the guest's outer rings. See engine.h.
 *
 * A patch is a HLT, which faults there with #GP(0) (SDM volume 2, HLT); and a KVM that runs such
 * programs by itself leaves the #DB of a single step to the guest. So the guest's handlers of these
 * two get patches of their own while it has breakpoints that such programs may reach. When a vCPU
 * comes to one of them because of what was done here, it goes back to where it was: the frame on
 * its stack says where (SDM volume 3, 6.14.2 and figure 6-4). */
#include "debug/engine.h"

#include "x86/mode.h"

#include <string.h>

#define FLAG_TF UINT64_C(0x100)

enum { DB = 1, GP = 13 };
static const uint8_t vectors[RING_HANDLERS] = { DB, GP };

/* --- where the handlers begin --- */

static void place_handler(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s,
                          struct handler *h, unsigned vector)
{
    bool wanted = (d->outer || s->ss.dpl == 3) && s->cr0 & MK_CR0_PE;
    uint64_t linear = wanted ? debug_handler(c, s, vector) : NOWHERE, gpa = NOWHERE;
    if (linear != NOWHERE) {
        struct mk_walk w = mk_walk(c->mem, s, linear);
        gpa = w.present ? w.address : NOWHERE;
    }
    if (linear == h->linear && gpa == h->gpa)
        return;
    if (h->gpa != NOWHERE)
        page_unref(d, h->gpa);
    *h = (struct handler){ linear, gpa != NOWHERE && page_ref(d, gpa, NULL) ? gpa : NOWHERE };
}

void ring_place(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s)
{
    for (unsigned i = 0; i < RING_HANDLERS; i++)
        place_handler(d, c, s, &cpu_of(c)->handler[i], vectors[i]);
}

void ring_forget(struct mk_debug *d)
{
    for (unsigned cpu = 0; cpu < MK_MAX_CPUS; cpu++)
        for (unsigned i = 0; i < RING_HANDLERS; i++)
            d->cpu[cpu].handler[i] = (struct handler){ NOWHERE, NOWHERE };
    d->outer = false;
}

/* --- back --- */

enum { RIP, CS, RFLAGS, RSP, SS, WORDS };

/* The frame that the processor has pushed, of words of 4 or 8 bytes, behind an error code. */
static bool read_frame(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t at, bool has_code,
                       uint64_t frame[WORDS])
{
    unsigned size = s->efer & MK_EFER_LMA ? 8 : 4;
    at += s->ss.base + (has_code ? size : 0);
    for (unsigned i = 0; i < WORDS; i++, at += size) {
        frame[i] = 0;
        if (mk_linear_copy(c->mem, s, at, &frame[i], size, false) != size)
            return false;
    }
    return (frame[CS] & 3) == 3;
}

static bool load_segment(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t selector,
                         struct kvm_segment *segment)
{
    bool loaded = mk_descriptor_load(c->mem, s, (uint16_t)selector, segment);
    segment->type |= 1; /* accessed */
    return loaded;
}

static bool go_back(struct mk_vcpu *c, struct kvm_sregs *s, const uint64_t frame[WORDS],
                    uint64_t flags)
{
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    if (!load_segment(c, s, frame[CS], &s->cs) || !load_segment(c, s, frame[SS], &s->ss))
        return false;
    s->ss.dpl = s->cs.dpl = 3;
    regs.rip = frame[RIP];
    regs.rsp = frame[RSP];
    regs.rflags = flags;
    return mk_vcpu_set_guest_sregs(c, s) == 0 && mk_vcpu_set_regs(c, &regs) == 0;
}

/* #GP at one of the patches. */
static bool from_patch(struct mk_vcpu *c, struct kvm_sregs *s, const uint64_t frame[WORDS],
                       struct mk_walk *at)
{
    struct kvm_sregs outer = *s;
    if (!load_segment(c, s, frame[CS], &outer.cs))
        return false;
    return page_has_patch(c, s, mk_code_address(&outer, frame[RIP]), at);
}

enum ring ring_return(struct mk_vcpu *c, struct kvm_sregs *s, uint64_t linear)
{
    struct cpu *k = cpu_of(c);
    uint64_t frame[WORDS];
    struct mk_walk at;
    for (unsigned i = 0; i < RING_HANDLERS; i++) {
        bool gp = vectors[i] == GP;
        if (k->handler[i].linear != linear || k->handler[i].gpa == NOWHERE ||
            !read_frame(c, s, mk_vcpu_get_regs(c)->rsp, gp, frame))
            continue;
        if (gp && from_patch(c, s, frame, &at))
            return go_back(c, s, frame, frame[RFLAGS]) ? RING_PATCH : RING_NONE;
        if (!gp && k->stepping && frame[RFLAGS] & FLAG_TF)
            return go_back(c, s, frame, frame[RFLAGS] & ~FLAG_TF) ? RING_STEP : RING_NONE;
    }
    return RING_NONE;
}
