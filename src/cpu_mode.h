/* cpu_mode.h - what a vCPU holds when its first instruction runs, as data.
 *
 * Pure functions: they fill in structures and guest memory, make no ioctl, and can be tested
 * without KVM. Segment and control-register values follow the Intel SDM, volume 3. */
#ifndef MK_CPU_MODE_H
#define MK_CPU_MODE_H

#include "mem.h"

#include <linux/kvm.h>

enum mk_mode { MK_MODE_REAL };

struct mk_start {
    struct kvm_regs regs;
    struct kvm_sregs sregs; /* in: what KVM created the vCPU with */
};

/* Real mode at segment:ip, all segments alike, SP = 0xfff0 (SDM 20.1). */
void mk_real_start(struct mk_start *start, uint16_t segment, uint16_t ip);

#endif
