/* instruction.h - what minikvm has to know of instructions itself: their prefixes, which memory one
 * reads and writes, and which one's access to a port is being served. */
#ifndef MK_INSTRUCTION_H
#define MK_INSTRUCTION_H

#include "kvm/vcpu.h"
#include "x86/mode.h"

struct mk_prefixes {
    unsigned length;       /* bytes that are prefixes (SDM volume 2, 2.1.1) */
    bool operand, address; /* operands and addresses of the other size */
    bool repeated;         /* one is REP */
    uint8_t rex;
    int segment; /* ES, CS, SS, DS, FS, GS; -1: the usual one */
};
struct mk_prefixes mk_prefixes(const uint8_t *code, unsigned length, unsigned bits);

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

/* RIP as handlers see it: at the IN or OUT that is being served, on any host; otherwise the vCPU's.
 * KVM tells RIP at the instruction for whatever waits for an answer (IN, loads, RDMSR and WRMSR),
 * behind it for stores. At an OUT it depends: a KVM that lets the processor run it has RIP at it
 * until the next entry, one that emulates it behind it. Guest memory tells; where it leaves a doubt
 * (two such OUTs in a row) the access is completed. For the thread that runs the vCPU, or the owner
 * while none does. */
uint64_t mk_access_rip(struct mk_vcpu *c);

#endif
