/* vcpu.c - what a hart needs to hold a guest, and the state of a guest that is not on the hart.
 *
 * priv., "Hypervisor and Virtual Supervisor CSRs": with V=1 the CSRs sstatus, stvec and so on are
 * vsstatus, vstvec and so on, which HS-mode reads and writes by these names. */
#include "hyper.h"

_Static_assert(offsetof(struct vcpu, f) == 264 && offsetof(struct vcpu, gpa) == 560,
               "switch.S knows these offsets");

#define SSTATUS_SIE (1ul << 1)
#define SSTATUS_SPIE (1ul << 5)
#define SSTATUS_FS (3ul << 13) /* floating point is on */
#define STATUS_UXL (2ul << 32) /* user mode has 64 bits */

#define HSTATUS_SPV (1ul << 7)  /* sret enters V=1 */
#define HSTATUS_SPVP (1ul << 8) /* memory is looked at (guest_fetch) with the rights of VS-mode */
#define HSTATUS_VTW (1ul << 21) /* WFI leaves the guest */
#define HSTATUS_VSXL (2ul << 32)

#define HGATP_SV39X4 (8ul << 60)

#define IE_STIE (1ul << 5)
#define IP_VSTIP (1ul << 6)

/* What a guest handles itself, without an exit: misaligned and illegal instructions, breakpoints,
 * misaligned accesses, calls from its user mode, page faults of its own tables. And its three
 * interrupts. Without the extension the first write is an illegal instruction: see host_fault.
 *
 * htimedelta is 0 after a reset and stays so unwritten: QEMU 10 takes a write of it as one of
 * vstimecmp, too, and raises a guest's timer interrupt for ever, whatever henvcfg.STCE says. */
void hart_init(void)
{
    csr_write(hedeleg,
              1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 15);
    csr_write(hideleg, 1 << 2 | 1 << 6 | 1 << 10);
    csr_write(hcounteren, 7); /* cycle, time, instret can be read */
    csr_write(henvcfg, 0);    /* no timer of a guest's own (Sstc): it calls the SBI for one */
    csr_write(hvip, 0);
    csr_write(sstatus, SSTATUS_FS);
    csr_write(sie, IE_STIE);
}

void vcpu_init(struct vcpu *vcpu)
{
    vcpu->pc = GUEST_BASE;
    vcpu->sstatus = SSTATUS_SPP | SSTATUS_FS | STATUS_UXL;
    vcpu->hstatus = HSTATUS_SPV | HSTATUS_SPVP | HSTATUS_VTW | HSTATUS_VSXL;
    vcpu->vsstatus = STATUS_UXL;
}

void vcpu_load(struct guest *guest)
{
    const struct vcpu *vcpu = &guest->vcpu;

#define LOAD(name) csr_write(name, vcpu->name);
    EACH_GUEST_CSR(LOAD)
    fpu_load(vcpu->f);
    csr_write(hgatp, HGATP_SV39X4 | (uint64_t)guest->root / PAGE);
    flush_translations(); /* all guests have VMID 0, for a hart need not have another one */
}

void vcpu_put(struct guest *guest)
{
    struct vcpu *vcpu = &guest->vcpu;

#define SAVE(name) vcpu->name = csr_read(name);
    EACH_GUEST_CSR(SAVE)
    fpu_save(vcpu->f);
}

bool vcpu_has_interrupt(void)
{
    return csr_read(vsip) & csr_read(vsie);
}

bool vcpu_wants_timer(void)
{
    return csr_read(vsie) & IE_STIE;
}

void vcpu_set_timer_interrupt(bool pending)
{
    uint64_t others = csr_read(hvip) & ~IP_VSTIP;

    csr_write(hvip, pending ? others | IP_VSTIP : others);
}

/* What a hart does for a trap to VS-mode (priv., "Trap Entry"), done by hand. */
void vcpu_illegal_instruction(struct vcpu *vcpu, uint64_t code)
{
    uint64_t status = csr_read(vsstatus) & ~(SSTATUS_SPP | SSTATUS_SPIE | SSTATUS_SIE);

    status |= vcpu->sstatus & SSTATUS_SPP; /* the mode it comes from */
    status |= csr_read(vsstatus) & SSTATUS_SIE ? SSTATUS_SPIE : 0;
    csr_write(vsstatus, status);
    csr_write(vsepc, vcpu->pc);
    csr_write(vscause, 2);
    csr_write(vstval, code);
    vcpu->pc = csr_read(vstvec) & ~3ul;
    vcpu->sstatus |= SSTATUS_SPP;
}
