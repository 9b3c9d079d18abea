/* exit.c - why a guest has left, and who sees to it (priv., "Trap Cause Codes"). */
#include "hyper.h"

enum {
    CALL_FROM_GUEST = 10,
    FETCH_FAULT = 20, /* guest-page faults: the second stage has no such page */
    LOAD_FAULT = 21,
    VIRTUAL_INSTRUCTION = 22,
    STORE_FAULT = 23,
};

#define INTERRUPT (1ul << 63)
#define TIMER_INTERRUPT (INTERRUPT | 5)
#define WFI 0x10500073

static void page_fault(struct guest *guest)
{
    uint64_t gpa = guest->vcpu.gpa;

    if (!in_guest(gpa)) {
        explain(guest);
    } else if (guest_memory(guest, gpa, false)) {
        guest->pages++;
        flush_translations();
    } else {
        guest_end(guest, "touched 0x%lx at 0x%lx, and no page is left for it", gpa, guest->vcpu.pc);
    }
}

/* As on a hart of its own, any interrupt that is enabled wakes it; but it has only the timer's. */
static void wait_for_interrupt(struct guest *guest)
{
    guest->vcpu.pc += 4;
    if (vcpu_has_interrupt())
        return;
    if (guest->timer != NEVER && vcpu_wants_timer())
        guest->state = ASLEEP;
    else
        guest_end(guest, "waits at 0x%lx for an interrupt, and none can come", guest->vcpu.pc - 4);
}

/* One that would be legal if there were no hypervisor, or if the guest were one; for its user mode,
 * registers of its kernel's, too. Of all these only WFI is served. */
static void virtual_instruction(struct guest *guest)
{
    uint32_t code = guest_instruction(guest);

    if (code == WFI && guest->vcpu.sstatus & SSTATUS_SPP)
        wait_for_interrupt(guest);
    else
        vcpu_illegal_instruction(&guest->vcpu, code);
}

void handle_exit(struct guest *guest)
{
    switch (guest->vcpu.cause) {
    case TIMER_INTERRUPT: break; /* schedule.c looks at the time after every exit */
    case CALL_FROM_GUEST: sbi_call(guest); break;
    case FETCH_FAULT:
    case LOAD_FAULT:
    case STORE_FAULT: page_fault(guest); break;
    case VIRTUAL_INSTRUCTION: virtual_instruction(guest); break;
    default: explain(guest);
    }
}
