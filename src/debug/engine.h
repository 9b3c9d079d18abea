/* engine.h - what the files of the engine share. See debug.h.
 *
 * `lock` guards all of it but what is said to be of a vCPU's thread. It is recursive: memory is
 * read under it, and the guard of memory takes it. No function of a user is called under it. */
#ifndef MK_DEBUG_ENGINE_H
#define MK_DEBUG_ENGINE_H

#include "codec/bytes.h"
#include "debug/debug.h"
#include "debug/instruction.h"

#define HLT 0xf4 /* what patches are */
#define NOWHERE UINT64_MAX
#define PLACES 4 /* guest-physical addresses of one linear one: in so many address spaces */

struct page; /* page.c */

struct mk_break {
    struct mk_break_options o;
    struct mk_break *next; /* of those that are over */
    _Atomic uint64_t hits;
    unsigned held; /* hits that are being told */
    bool over;     /* not in the list any more */
    bool orphan;   /* nor its owner's: the last to hold it frees it */
    unsigned places;
    uint64_t place[PLACES];
};

struct mk_break_set {
    struct mk_break_set *next;
    struct mk_break_members m;
    uint64_t *place; /* of each; NOWHERE: of none */
};

/* Watched memory: guest-physical, whole or in part. */
struct chunk {
    uint64_t gpa, length, linear;
};

struct mk_watchpoint {
    struct mk_watchpoint *next;
    struct mk_watch_options o;
    _Atomic uint64_t hits;
    unsigned held;
    bool orphan;
    bool by_steps;       /* it is no memory that may be protected: every instruction is looked at */
    struct chunk *chunk; /* where it lies, as the page tables say */
    size_t chunks, room;
};

/* What the next instruction accesses: its own bytes first. */
struct accesses {
    unsigned count;
    struct access {
        struct chunk at;
        bool write, execute;
    } list[1 + MK_OPERANDS];
};

/* What page tables a vCPU had when it was last asked where things are. */
struct tables {
    uint64_t cr0, cr3, cr4, efer;
};

/* The guest's handler of an exception that may be ours (ring.c). */
struct handler {
    uint64_t linear, gpa; /* NOWHERE: it has none, or none that takes a patch */
};
#define RING_HANDLERS 2

/* A vCPU, for its thread unless said otherwise. */
struct cpu {
    bool in_guest;       /* under the lock */
    uint64_t generation; /* of the list that it has looked up */
    struct tables tables;
    size_t polled;
    struct handler handler[RING_HANDLERS]; /* under the lock */
    uint64_t over_at; /* the instruction there is executed, whatever is there; NOWHERE: none */
    struct {          /* an exception came of it: the next hit there is the same one */
        bool pending;
        uint64_t at, rsp, cr3;
    } faulted;
    const struct accesses *accesses;     /* of the instruction, while `accessing`: */
    int accessing;                       /* it is executed with these unprotected; 2: with all */
    _Atomic uint64_t steps;              /* to take yet */
    uint64_t hardware[MK_BREAKS_HIDDEN]; /* debug registers: linear addresses */
    unsigned hardware_count;             /* how many of them */
    uint64_t hardware_of;                /* d->changes that they are of; 0: of none */
    bool stepping;                       /* KVM steps since the last KVM_SET_GUEST_DEBUG */
    bool undone;                         /* KVM has refused the last KVM_SET_GUEST_DEBUG */
    bool stale_halt;                     /* an exit for a HLT that was told may still come */
    bool by_flag;                        /* the guest's TF does it */
    bool trailing;       /* one of its steps comes later: when an exception's handler returns */
    bool traced;         /* the next instruction was told to who traces */
    struct mk_stop stop; /* to be told, later than that of another vCPU */
};

struct mk_debug {
    struct mk_debugger base; /* first */
    struct mk_mem_guard guard;
    struct mk_vm *vm;
    pthread_mutex_t lock;
    /* exit_serve(): an instruction that is executed alone may exit, too. */
    bool (*serve)(struct mk_vcpu *c, int code);
    pthread_cond_t turn;    /* a vCPU has left the guest; the one that held the others is done */
    struct mk_vcpu *holder; /* executes an instruction without patches: the others stay outside */

    struct mk_break **list; /* all breakpoints, by address, the newest first */
    size_t count, room;
    unsigned hidden;       /* of them, in debug registers alone */
    struct mk_break *past; /* those that are over */
    struct mk_break_set *sets;
    uint64_t generation; /* grows when there is something to look up */
    uint64_t changes;    /* grows when a breakpoint comes, goes, or gets a place */

    struct page **page; /* with patches, by address */
    size_t pages, page_room;
    struct page *lifted; /* of which some are not in memory at the moment, and are to be */
    bool outer;          /* programs of outer rings may reach some breakpoint */
    unsigned inside;     /* vCPUs that may enter the guest */

    bool starved; /* there was no memory for what has to be placed: the run ends */

    int memory_fd; /* this process's memory, where sealed pages can be written; -1 */
    size_t given;  /* pages that are */
    struct mk_watchpoint *watches;
    bool open;     /* watched memory is not protected at the moment, or not all of it */
    bool shut;     /* it is, or some of it */
    bool by_steps; /* some watch is */

    _Atomic bool traces; /* every instruction is told */
    struct mk_stop last;
    unsigned stepped; /* the vCPU of mk_debug_begin_step() */
    struct cpu cpu[MK_MAX_CPUS];
};

/* The first of `count` things, sorted by key_of(list, number), that is not below `key`. */
static inline size_t first_from(const void *list, size_t count, uint64_t key,
                                uint64_t (*key_of)(const void *list, size_t i))
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (key_of(list, mid) < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static inline struct mk_debug *debug_of(const struct mk_vcpu *c)
{
    return (struct mk_debug *)c->debug;
}

static inline struct cpu *cpu_of(const struct mk_vcpu *c)
{
    return &debug_of(c)->cpu[c->cpu.index];
}

/* System registers as the guest has set them, at an exit; false when KVM does not tell. */
bool debug_sregs(struct mk_vcpu *c, struct kvm_sregs *s);
/* A locked instruction is no more than a read and a write to memory that is protected. */
bool debug_emulates_locks(const struct mk_debug *d);
/* The same, and where the next instruction is, linear; NOWHERE when KVM does not tell. */
uint64_t debug_here(struct mk_vcpu *c, struct kvm_sregs *s);
/* Registers at an exit that left nothing pending: what is known of the rest stays so. -1 */
int debug_set_regs(struct mk_vcpu *c, const struct kvm_regs *regs);
/* An exit of the engine's making is counted. */
void debug_count(struct mk_vcpu *c);
/* The exception that KVM has queued is delivered no more. */
bool debug_drop_exception(struct mk_vcpu *c);
/* Where the handler of an interrupt begins, linear; NOWHERE when the table does not say. */
uint64_t debug_handler(struct mk_vcpu *c, const struct kvm_sregs *s, unsigned vector);
/* The engine has one more user; one less. */
void debug_use(struct mk_debug *d);
void debug_unuse(struct mk_debug *d);
/* The vCPU has come to what stops the VM. */
void debug_stop(struct mk_vcpu *c, const struct mk_stop *stop);

/* probe.c */
bool probe_hardware(const struct mk_kvm *kvm);

/* page.c: under the lock. */
/* One more user of a patch there, while this code is there (NULL: always). False: no patch is
 * possible. */
bool page_ref(struct mk_debug *d, uint64_t gpa, const struct mk_break_code *code);
void page_unref(struct mk_debug *d, uint64_t gpa);
/* Out of memory until page_insert_all(): these bytes, up to the end of their page. */
void page_lift(struct mk_debug *d, uint64_t gpa, unsigned length);
void page_insert_all(struct mk_debug *d);
void page_lift_all(struct mk_debug *d);
void page_free_all(struct mk_debug *d);
void page_init_guard(struct mk_debug *d);
/* The page is sealed; it is not any more, until page_insert_all(). */
bool page_is_sealed(const struct mk_debug *d, uint64_t gpa);
void page_unseal(struct mk_debug *d, uint64_t gpa, uint64_t length);
/* Patches that were written over by who has a pointer are made anew. */
void page_check_given(struct mk_debug *d);
/* Without the lock too: is there a patch, or will be, at this linear address? *w: where that is. */
bool page_has_patch(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t linear,
                    struct mk_walk *w);

/* watch.c: adds one, without the lock; NULL with *err. */
struct mk_watchpoint *watch_add(struct mk_debug *d, const struct mk_watch_options *options,
                                struct mk_err *err);
/* The rest under the lock. */
void watch_place_all(struct mk_debug *d, const struct kvm_sregs *s);
void watch_forget(struct mk_debug *d);
void watch_protect(struct mk_debug *d); /* all of it */
void watch_open(struct mk_debug *d, uint64_t gpa, uint64_t length);
void watch_open_all(struct mk_debug *d);
bool watch_has(const struct mk_debug *d, uint64_t gpa, uint64_t length, bool write);
void watch_free(struct mk_debug *d);
/* Without the lock: an access to this guest-physical address is done. */
void watch_report(struct mk_vcpu *c, const struct mk_access *access);

/* access.c: an exit because of protected memory. False when it is none; else it is served. */
bool access_mmio(struct mk_vcpu *c);
/* One step, of which is told what it accesses. */
void access_step(struct mk_vcpu *c);
/* KVM_RUN has failed with EFAULT, or an instruction could not be emulated. */
bool access_fault(struct mk_vcpu *c, bool emulation);

/* list.c: adds one, without the lock; NULL with *err. */
struct mk_break *list_add(struct mk_debug *d, const struct mk_break_options *options,
                          struct mk_err *err);
struct mk_break_set *list_add_set(struct mk_debug *d, const struct mk_break_members *members,
                                  struct mk_err *err);
/* The rest under the lock. */
/* The number in d->list of the first breakpoint that is not below an address. */
size_t list_first(const struct mk_debug *d, uint64_t address);
void list_free(struct mk_debug *d);
/* Where each is in memory, by the page tables of this vCPU. */
void list_place_all(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s);
/* The same for those that were nowhere, some of them at each call. */
void list_poll(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s);
void list_forget_places(struct mk_debug *d);
/* A hit was told: without the lock. It is over: with it. */
void list_release(struct mk_debug *d, struct mk_break *b);
void list_end(struct mk_debug *d, struct mk_break *b);
/* Notes that the set's members at this place were reached: false when there are none. */
bool list_reach(struct mk_debug *d, uint64_t linear);

/* ring.c: where the guest's handlers of #GP and #DB begin gets a patch, under the lock; forgets it.
 */
void ring_place(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s);
void ring_forget(struct mk_debug *d);
/* The vCPU has come to this linear address, with these system registers: if that is a handler, and
 * what raised the exception was ours, it is back where it was, and *s what it was. */
enum ring { RING_NONE, RING_PATCH, RING_STEP };
enum ring ring_return(struct mk_vcpu *c, struct kvm_sregs *s, uint64_t linear);

/* hit.c: an instruction with a breakpoint is about to be executed. */
void hit_report(struct mk_vcpu *c, uint64_t linear, uint64_t gpa);

/* step.c: executes the next instruction, which is at this linear address, whatever else is there.
 * False: it is to be executed yet. */
bool step_over(struct mk_vcpu *c, uint64_t linear);
/* KVM steps no more, unless a step is still to come. */
void step_begin(struct mk_vcpu *c);
void step_end(struct mk_vcpu *c);
/* Breakpoints that are nowhere in memory go into debug registers, as many as there are. */
void step_set_hardware(struct mk_vcpu *c);
void step_clear_hardware(struct mk_vcpu *c);
bool step_is_hardware(const struct mk_vcpu *c, uint64_t linear);

/* trace.c: delivers an interrupt that is due: true when the vCPU was in the guest for it. */
bool trace_deliver(struct mk_vcpu *c);

/* alone.c */
/* KVM_RUN with the gate at which a vCPU waits while another one holds all; -1 with errno. */
int alone_enter(struct mk_vcpu *c, bool only_complete);
/* No other vCPU is in the guest until alone_end(). */
void alone_begin(struct mk_vcpu *c);
void alone_end(struct mk_vcpu *c);
/* Under the lock: a moment of waiting for who executes one; the loop handles events in between. */
void alone_wait(struct mk_debug *d);

/* exit.c: serves what KVM_RUN returned with; `code` is its errno or 0. True: it has stepped. */
bool exit_serve(struct mk_vcpu *c, int code);

/* run.c */
extern const struct mk_debug_ops run_ops;

#endif
