/* vcpu.h - one virtual CPU: its registers, its run loop, and how to get it out of the guest.
 *
 * A vCPU runs on one thread at a time. mk_vcpu_request() may be called from any thread and from a
 * signal handler's thread; everything else belongs to the thread that runs the vCPU, or to the
 * owner while none does. */
#ifndef MK_VCPU_H
#define MK_VCPU_H

#include "kvm/kick.h"
#include "kvm/machine.h"
#include "kvm/wait.h"

#include <linux/kvm.h>

#define MK_EXIT_KINDS 40

enum { /* requests */
    MK_REQ_STOP = 1, /* end the run; the reason is in `stop` */
    MK_REQ_WAKE = 2, /* input, a timer or an interrupt arrived: look again */
    MK_REQ_WHERE = 4, /* put RIP into `where` */
};

struct mk_end {
    enum mk_reason reason;
    int64_t code;
    bool whole_vm;
    bool goes_on; /* for a wait of the script, which will run it again: its line is not over */
    char text[400];
};

struct mk_counters {
    uint64_t entries;             /* calls of KVM_RUN */
    uint64_t exits;               /* returns of it with something to do */
    uint64_t by[MK_EXIT_KINDS];   /* the same by KVM_EXIT_* */
    uint64_t c, lua, none;        /* accesses answered in C, in Lua, by nobody */
    uint64_t coalesced;           /* OUTs that cost no exit */
    uint64_t assists;             /* what the host's KVM could not do itself (assist.h) */
};

struct mk_vcpu {
    struct mk_cpu cpu; /* first: devices see only this */
    struct mk_machine *machine;
    int fd;
    struct kvm_run *run;
    struct kvm_coalesced_mmio_ring *ring; /* NULL without coalescing */
    struct mk_counters counters;
    struct mk_end end;
    uint64_t exits_before; /* counters.exits when this run began */
    uint64_t exits_marked; /* and when they were asked about last */
    uint64_t output_before; /* bytes printed until then */

    /* Kick: `thread` is valid while `running`. */
    pthread_mutex_t lock;
    bool running;
    pthread_t thread;
    _Atomic bool awake; /* in its run loop, and not asleep */
    struct mk_kick_watch kicks;
    _Atomic uint32_t requests;
    _Atomic int stop_reason; /* enum mk_reason of MK_REQ_STOP */

    struct { /* interrupts (interrupt.h) */
        _Atomic uint64_t queued[4]; /* requested vectors */
        _Atomic bool any, nmi;
        uint8_t last[8]; /* ring of those delivered, for explanations */
        uint64_t delivered;
        unsigned row;                  /* taken one upon the other */
        uint64_t row_began, hold_until; /* mk_now() times */
    } irq;

    bool msr_refused;      /* the access being served raises #GP in the guest */
    _Atomic uint64_t where; /* answer to MK_REQ_WHERE */
    uint64_t last_rip;     /* at the exit before this one */
    bool in_access;        /* an access to a port or to memory is being served */
    bool incomplete;       /* the last exit's access is completed by the next KVM_RUN */
    unsigned waits;        /* handlers that wait, one inside the other: an access is being served */
    bool regs_known;       /* `regs` is what the vCPU has */
    uint64_t synced;       /* KVM_SYNC_X86_* parts of run->s.regs that KVM filled in last */
    struct kvm_regs regs;
    uint8_t code[16];      /* instruction bytes of the last failure */
    unsigned code_length;
};

int mk_vcpu_open(struct mk_vcpu *c, struct mk_machine *machine, unsigned index,
                 struct mk_err *err);
void mk_vcpu_close(struct mk_vcpu *c);

/* Runs the guest on the calling thread until c->end says why not. */
void mk_vcpu_run(struct mk_vcpu *c);

/* Asks for attention; the vCPU leaves the guest at once. */
void mk_vcpu_request(struct mk_vcpu *c, uint32_t request);
/* Does the calling thread run this vCPU? */
bool mk_vcpu_is_current(struct mk_vcpu *c);
/* Request STOP with a reason that mk_vcpu_run() will report. */
void mk_vcpu_stop(struct mk_vcpu *c, enum mk_reason reason);

/* Ends the run after the current exit; the first call counts. */
void mk_vcpu_end(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                 const char *fmt, ...) MK_PRINTF(5, 6);

/* Registers; for the thread that runs the vCPU, or when none does. -1 with errno on failure. */
struct kvm_regs *mk_vcpu_regs(struct mk_vcpu *c);
int mk_vcpu_set_regs(struct mk_vcpu *c, const struct kvm_regs *regs);
int mk_vcpu_sregs(struct mk_vcpu *c, struct kvm_sregs *sregs);
int mk_vcpu_set_sregs(struct mk_vcpu *c, const struct kvm_sregs *sregs);

/* Registers, system registers and pending events together, at an exit. They travel in the memory
 * shared with KVM where it can do that: on some hosts an ioctl costs as much as a third of an exit.
 * What is set takes effect at the next entry. */
int mk_vcpu_state(struct mk_vcpu *c, struct kvm_sync_regs *state);
int mk_vcpu_set_state(struct mk_vcpu *c, const struct kvm_sync_regs *state);

/* KVM_RUN, without entering the guest when `only_complete`; -1 with errno as from the ioctl. */
int mk_vcpu_enter(struct mk_vcpu *c, bool only_complete);

/* Lets a port or memory read whose data was supplied take effect, so that the registers are those
 * after the instruction. A vCPU that runs looks around next. */
void mk_vcpu_complete(struct mk_vcpu *c);

/* Fires due timers, takes input, acts on requests and the deadline; stays there while the VM is
 * paused. */
void mk_vcpu_look_around(struct mk_vcpu *c);

/* Between pieces of an access that takes long: false when the run is to end. */
bool mk_vcpu_goes_on(struct mk_vcpu *c);

/* Sleeps until `until`, a timer of the VM, or a request. */
void mk_vcpu_sleep(struct mk_vcpu *c, uint64_t until);

/* In a handler, in the middle of an access: until it is done, which is true then; until `until`; or
 * until the run shall end, with the reason. Output, input, timers and doorbells go on; the time that
 * the VM is paused does not count. */
bool mk_vcpu_wait(struct mk_vcpu *c, uint64_t until, const struct mk_wait *wait,
                  enum mk_reason *reason);

/* Waits until all that was printed is written: false when the run shall end first. */
bool mk_vcpu_finish_output(struct mk_vcpu *c);

/* For the I/O thread: the vCPU shall look around if there is collected output or a wish to end the
 * run that nobody told it of; its thread gets the signal if what the script does there is due. */
void mk_vcpu_check(struct mk_vcpu *c);

/* Hands coalesced output to the bus, in order. */
void mk_vcpu_drain(struct mk_vcpu *c);

/* exit.c: serves what KVM_RUN returned with. */
void mk_vcpu_exit(struct mk_vcpu *c);
/* The name of a KVM_EXIT_* number as scripts see it; NULL when it has none. */
const char *mk_exit_name(unsigned kind);

#endif
