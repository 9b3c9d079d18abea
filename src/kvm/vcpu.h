/* vcpu.h - one virtual CPU: entering it, its registers, and how to get it out of the guest.
 *
 * A vCPU runs on one thread at a time. mk_vcpu_request() may be called from any thread and from a
 * signal handler's thread; everything else belongs to the thread that runs the vCPU, or to the
 * owner while none does. */
#ifndef MK_VCPU_H
#define MK_VCPU_H

#include "kvm/cpu.h"
#include "kvm/kick.h"
#include "kvm/kvm.h"
#include "kvm/mem.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

struct mk_vm;
struct mk_vcpu;

#define MK_EXIT_KINDS 40

enum {                    /* requests */
       MK_REQ_STOP = 1,   /* end the run; the reason is in `stop` */
       MK_REQ_WAKE = 2,   /* input, a timer or an interrupt arrived: look again */
       MK_REQ_SAMPLE = 4, /* somebody wants to know where it is */
};

struct mk_end {
    enum mk_reason reason;
    int64_t code;
    bool whole_vm;
    bool resumable; /* for a wait of the script, which will run it again: its line is not over */
    char text[400];
};

struct mk_counters {
    uint64_t entries;           /* calls of KVM_RUN */
    uint64_t exits;             /* returns of it with something to do */
    uint64_t by[MK_EXIT_KINDS]; /* the same by KVM_EXIT_* */
    uint64_t c, lua, none;      /* accesses answered in C, in Lua, by nobody */
    uint64_t coalesced;         /* OUTs that cost no exit */
    uint64_t assists;           /* what the host's KVM could not do itself (assist.h) */
};

/* What a vCPU asks of the VM that it is a part of; src/vm answers. All may be NULL. */
struct mk_vcpu_ops {
    /* At every kick of its thread, in the signal's handler. */
    void (*kicked)(struct mk_vcpu *c);
    /* Its run ends, and that of the VM's other vCPUs with it. */
    void (*end_others)(struct mk_vcpu *c);
    /* INTA: takes the vector of the request that `intr` stands for. */
    int (*acknowledge)(struct mk_vcpu *c);
    /* An interrupt is delivered with the next entry. */
    void (*delivered)(struct mk_vcpu *c, uint8_t vector);
};

/* A write that faulted: made up for when the handler returns to where it was. */
struct mk_deferred_write {
    bool pending;
    uint64_t linear, rip;
    uint32_t length;
    uint8_t data[8];
};

/* What stands in for a KVM that cannot run all of a guest, of one VM (x86/weak/assist.h). */
struct mk_assist {
    const struct mk_assist_ops *ops;
    bool alone;         /* the VM has one vCPU */
    const bool *paging; /* paging that KVM does not do is on: memory slots are where the guest's
                         * tables say */
    struct mk_deferred_write deferred;
};

struct mk_assist_ops {
    /* Each returns true when it has dealt with the exit and the guest can go on. */
    bool (*failure)(struct mk_vcpu *c); /* emulation failure */
    bool (*mmio)(struct mk_vcpu *c);    /* access outside the memory slots */
    bool (*shutdown)(struct mk_vcpu *c);
    /* After an exit, while paging is on: follows what the guest has changed. */
    void (*follow)(struct mk_vcpu *c);
    /* The guest-physical address of an access that mmio() left alone. */
    uint64_t (*address)(struct mk_vcpu *c, uint64_t address);

    /* The rest is the VM's, while it does not run. Paging begins, or goes on with these control
     * registers. It ends. */
    int (*set_paging)(struct mk_assist *a, const struct mk_mem *mem, int vm_fd,
                      const struct kvm_sregs *s, struct mk_err *err);
    int (*end_paging)(struct mk_assist *a, struct mk_mem *mem, int vm_fd, struct mk_err *err);
    /* While it is on: slots go before memory gets other regions; they are made anew, for those, or
     * for KVM to log writes; what it logged is noted in mem. -1, the last with errno. */
    void (*remove_slots)(struct mk_assist *a, const struct mk_mem *mem, int vm_fd);
    int (*rebuild_slots)(struct mk_assist *a, const struct mk_mem *mem, int vm_fd,
                         struct mk_err *err);
    int (*sync_log)(const struct mk_assist *a, const struct mk_mem *mem, int vm_fd);
    void (*reset)(struct mk_assist *a); /* the VM's KVM half is new */
    void (*free)(struct mk_assist *a);
};

/* Who debugs a VM (debug/debug.h). It stays as long as the VM once it was there. */
struct mk_debugger {
    const struct mk_debug_ops *ops;
    _Atomic unsigned users; /* 0: the vCPUs run as if there was no debugger */
};

struct mk_debug_ops {
    /* The VM begins to run, or goes on; under its lock. */
    void (*resumed)(struct mk_vm *vm);
    /* A run begins; c->end is still how the last one ended. */
    void (*begin)(struct mk_vcpu *c);
    void (*end)(struct mk_vcpu *c); /* it has ended; c->end says how */
    /* The run loop in place of the plain one, until the run ends or the last user goes. */
    void (*run)(struct mk_vcpu *c);
    /* The vCPU stays outside the guest, because its VM is paused; it goes on. */
    void (*pause)(struct mk_vcpu *c, bool in);
    bool (*wants)(const struct mk_vcpu *c); /* while paused: it is to run all the same */
    void (*free)(struct mk_vm *vm);
};

struct mk_vcpu {
    struct mk_cpu cpu; /* first: devices see only this */
    const struct mk_kvm *kvm;
    int vm_fd, fd;
    struct mk_mem *mem;
    struct mk_vm *vm; /* for who made this vCPU */
    const struct mk_vcpu_ops *ops;
    struct mk_assist *assist;          /* NULL: none */
    struct mk_debugger *_Atomic debug; /* NULL: none */
    _Atomic bool debugged;             /* it is in the debugger's run loop */
    struct kvm_run *run;
    struct kvm_coalesced_mmio_ring *ring; /* NULL without coalescing */
    struct mk_counters counters;
    struct mk_end end;
    uint64_t exits_before;  /* counters.exits when this run began */
    uint64_t exits_marked;  /* and when they were asked about last */
    uint64_t output_before; /* bytes printed until then */

    /* Kick: `thread` is valid while `running`. */
    pthread_mutex_t lock;
    bool running;
    pthread_t thread;
    _Atomic bool awake;   /* in its run loop, and not asleep */
    _Atomic bool held;    /* stays outside the guest, whatever the others do */
    unsigned pause_round; /* of the VM, when it went outside last because that was paused */
    unsigned loads;       /* how often its state was set as a whole, by a restore */
    bool attends;         /* its thread serves what the VM was asked to attend to */
    struct mk_kick_handler kicks;
    _Atomic uint32_t requests;
    _Atomic int stop_reason; /* enum mk_reason of MK_REQ_STOP */

    const _Atomic bool *intr;       /* INT output of the interrupt controller; NULL: it has none */
    struct {                        /* interrupts (interrupt.h) */
        _Atomic uint64_t queued[4]; /* requested vectors */
        _Atomic bool any, nmi;
        uint8_t last[8]; /* ring of those delivered, for explanations */
        uint64_t delivered;
        unsigned burst;              /* taken one upon the other */
        uint64_t burst_began;        /* mk_now() times */
        _Atomic uint64_t hold_until; /* 0: no pause of a storm; others look */
    } irq;

    bool msr_refused;       /* the access being served raises #GP in the guest */
    uint64_t last_rip;      /* at the exit before this one */
    _Atomic bool in_access; /* an access to a port or to memory is being served */
    bool incomplete;        /* the last exit's access is completed by the next KVM_RUN */
    unsigned waits;  /* handlers that wait, one inside the other: an access is being served */
    bool regs_known; /* `regs` is what the vCPU has */
    uint64_t synced; /* KVM_SYNC_X86_* parts of run->s.regs that KVM filled in last */
    struct kvm_regs regs;
    uint8_t code[16]; /* instruction bytes of the last failure */
    unsigned code_length;
};

/* Opens the vCPU, of which the caller has filled in what it is made of: cpu, kvm, vm_fd, mem, ops,
 * and intr and vm where there are any; all else is 0. */
int mk_vcpu_open(struct mk_vcpu *c, struct mk_err *err);
void mk_vcpu_close(struct mk_vcpu *c);

/* The calling thread runs it from here on, or does not any more: kicks reach it there. */
void mk_vcpu_set_running(struct mk_vcpu *c, bool running);
/* The next entry returns at once, until this is taken back. */
static inline void mk_vcpu_set_immediate_exit(struct mk_vcpu *c, bool on)
{
    __atomic_store_n(&c->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

/* Asks for attention; the vCPU leaves the guest at once. */
void mk_vcpu_request(struct mk_vcpu *c, uint32_t request);
/* Signals the thread that runs it, for what the script does there. */
void mk_vcpu_signal(struct mk_vcpu *c);
/* Does the calling thread run this vCPU? */
bool mk_vcpu_is_current(struct mk_vcpu *c);
/* Request STOP with a reason that mk_vcpu_run() will report. */
void mk_vcpu_stop(struct mk_vcpu *c, enum mk_reason reason);

/* Ends the run after the current exit; the first call counts. */
MK_COLD void mk_vcpu_end(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                         const char *fmt, ...) MK_PRINTF(5, 6);
void mk_vcpu_end_va(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                    const char *fmt, va_list ap);

/* Registers; for the thread that runs the vCPU, or when none does. -1 with errno on failure. Where
 * KVM does not tell the general ones, they are not known (`regs_known`), and a run has ended. */
struct kvm_regs *mk_vcpu_get_regs(struct mk_vcpu *c);
int mk_vcpu_set_regs(struct mk_vcpu *c, const struct kvm_regs *regs);
int mk_vcpu_get_sregs(struct mk_vcpu *c, struct kvm_sregs *sregs);
int mk_vcpu_set_sregs(struct mk_vcpu *c, const struct kvm_sregs *sregs);
/* KVM_GET_MSRS or KVM_SET_MSRS of one MSR: false with errno, or with EINVAL when KVM has none of
 * that number or takes no such value. */
bool mk_vcpu_msr(const struct mk_vcpu *c, unsigned long request, uint32_t index, uint64_t *value);
/* Paging is on for the guest, by an assist, and off for KVM. */
static inline bool mk_vcpu_is_assisted(const struct mk_vcpu *c)
{
    return c->assist && *c->assist->paging;
}
/* Makes system registers as KVM has them those that the guest has set; and back. */
void mk_vcpu_show_paging(const struct mk_vcpu *c, struct kvm_sregs *sregs);
void mk_vcpu_hide_paging(const struct mk_vcpu *c, struct kvm_sregs *sregs);
/* System registers as the guest has set them. */
int mk_vcpu_get_guest_sregs(struct mk_vcpu *c, struct kvm_sregs *sregs);
int mk_vcpu_set_guest_sregs(struct mk_vcpu *c, const struct kvm_sregs *sregs);

/* Registers, system registers and pending events together, at an exit. They travel in the memory
 * shared with KVM where it can do that: on some hosts an ioctl costs as much as a third of an exit.
 * What is set takes effect at the next entry. */
int mk_vcpu_get_state(struct mk_vcpu *c, struct kvm_sync_regs *state);
int mk_vcpu_set_state(struct mk_vcpu *c, const struct kvm_sync_regs *state);

/* Any thread: KVM holds output that it collected. */
bool mk_vcpu_has_coalesced(const struct mk_vcpu *c);

/* The debugger has users, and the vCPU is not in its run loop. */
static inline bool mk_vcpu_wants_debugger(const struct mk_vcpu *c)
{
    return c->debug && c->debug->users && !c->debugged;
}

/* KVM_RUN, without entering the guest when `only_complete`; -1 with errno as from the ioctl. */
int mk_vcpu_enter(struct mk_vcpu *c, bool only_complete);

/* Lets a port or memory read whose data was supplied take effect, so that the registers are those
 * after the instruction. A vCPU that runs handles events next. */
void mk_vcpu_complete(struct mk_vcpu *c);

#endif
