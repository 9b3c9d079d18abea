/* real.c - 16-bit real mode (Intel SDM volume 3, chapter 20). See mode.h. */
#include "x86/mode.h"

#include "base/abi.h"

static void real_segment(struct kvm_segment *s, uint16_t selector, uint8_t type)
{
    *s = (struct kvm_segment){ .base = (uint64_t)selector << 4,
                               .limit = 0xffff,
                               .selector = selector,
                               .type = type,
                               .present = 1,
                               .s = 1 };
}

void mk_real_start(struct mk_start *start, uint16_t segment, uint16_t ip)
{
    struct kvm_sregs *s = &start->sregs;
    struct kvm_segment *data[] = { &s->ds, &s->es, &s->fs, &s->gs, &s->ss };
    real_segment(&s->cs, segment, 0xb); /* execute/read, accessed */
    for (unsigned i = 0; i < MK_COUNT(data); i++)
        real_segment(data[i], segment, 0x3); /* read/write, accessed */
    start->regs = (struct kvm_regs){ .rip = ip, .rsp = MK_REAL_SP, .rflags = 2 };
}
