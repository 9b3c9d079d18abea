/* operand.h - which memory an instruction reads and writes. */
#ifndef MK_OPERAND_H
#define MK_OPERAND_H

#include "kvm/vcpu.h"

#define MK_OPERANDS 3

struct mk_operand {
    uint64_t linear;
    unsigned size; /* at most this many bytes */
    bool write;    /* also what is read and written */
};

/* The operands in memory of the instruction at the registers' RIP, whose bytes these are; how many
 * (MK_OPERANDS at most). Of a repeated one, those of the next turn. Not told: what the processor
 * accesses besides, such as descriptors. */
unsigned mk_operands(const uint8_t *code, unsigned length, const struct kvm_regs *regs,
                     const struct kvm_sregs *sregs, struct mk_operand operands[MK_OPERANDS]);

#endif
