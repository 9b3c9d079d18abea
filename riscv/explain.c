/* explain.c - what a guest did that ends it: what, where, which instruction. */
#include "hyper.h"

/* What htinst holds when the second stage missed a page of the guest's own tables (priv.,
 * "Transformed Instruction or Pseudoinstruction"). */
#define TABLE_READ 0x3000
#define TABLE_WRITE 0x3020

static const char *fault_name(uint64_t cause)
{
    static const char *const names[] = {
        [0] = "misaligned jump",   [2] = "illegal instruction", [3] = "breakpoint",
        [4] = "misaligned load",   [6] = "misaligned store",    [8] = "call from user mode",
        [12] = "fetch page fault", [13] = "load page fault",    [15] = "store page fault",
    };
    return cause < 16 && names[cause] ? names[cause] : "something else";
}

/* The instruction at the guest's pc, as the guest sees memory; 0 when there is none. */
uint32_t guest_instruction(const struct guest *guest)
{
    uint16_t low = 0, high = 0;

    if (guest_fetch(guest->vcpu.pc, &low) && (low & 3) == 3) /* else it has 16 bits */
        guest_fetch(guest->vcpu.pc + 2, &high);
    return (uint32_t)high << 16 | low;
}

/* Also a trap jumps, and sets sepc: with no handler there, other machines call it a triple fault.
 */
static void explain_jump(struct guest *guest)
{
    uint64_t pc = guest->vcpu.pc;

    if (pc == (csr_read(vstvec) & ~3ul) && pc != csr_read(vsepc))
        guest_end(guest,
                  "trapped at 0x%lx (%s, stval 0x%lx), and its handler 0x%lx is outside its memory",
                  csr_read(vsepc), fault_name(csr_read(vscause)), csr_read(vstval), pc);
    else
        guest_end(guest, "jumped to 0x%lx, outside its memory (ra is 0x%lx)", pc, guest->vcpu.x[1]);
}

void explain(struct guest *guest)
{
    const struct vcpu *vcpu = &guest->vcpu;
    uint64_t how = csr_read(htinst); /* before guest_instruction() may cause another fault */
    uint64_t code = guest_instruction(guest);

    if (how == TABLE_READ || how == TABLE_WRITE)
        guest_end(guest, "has a page table at 0x%lx, outside its memory, used at 0x%lx", vcpu->gpa,
                  vcpu->pc);
    else if (vcpu->cause == 20)
        explain_jump(guest);
    else if (vcpu->cause == 21 || vcpu->cause == 23)
        guest_end(guest, "%s 0x%lx, outside its memory, at 0x%lx: instruction 0x%lx",
                  vcpu->cause == 21 ? "loaded from" : "stored to", vcpu->gpa | (vcpu->tval & 3),
                  vcpu->pc, code);
    else
        guest_end(guest, "left with cause 0x%lx (stval 0x%lx) at 0x%lx: instruction 0x%lx",
                  vcpu->cause, vcpu->tval, vcpu->pc, code);
}
