/* vm.h - a virtual machine: its life-cycle, devices, threads and results.
 *
 * One owner calls these functions, from one thread at a time, except mk_vm_stop(), which any thread
 * may call. While the VM runs, only mk_vm_wait(), mk_vm_stop(), mk_vm_pause() and what goes with
 * it, the console and the bus may be used; while it is paused, registers too. */
#ifndef MK_VM_H
#define MK_VM_H

#include "dev/blk.h"
#include "dev/bus.h"
#include "dev/debugcon.h"
#include "dev/doorbell.h"
#include "dev/exit.h"
#include "dev/file.h"
#include "dev/hypercall.h"
#include "dev/i8042.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/uart.h"
#include "dev/zones.h"
#include "io/clock.h"
#include "io/console.h"
#include "io/watch.h"
#include "vm/loop.h"
#include "x86/mode.h"

struct kvm_cpuid2;
struct mk_trace;

#define MK_FOREVER UINT64_MAX
/* What VMX wants for real mode: a page with a page table and three with a TSS, below the room of a
 * BIOS of 16 MiB. */
#define MK_KVM_PAGES UINT64_C(0xfeffc000)
#define MK_KVM_PAGES_SIZE 0x4000u
#define MK_BOOT_NATIVE (MK_BOOT_PAGING_NATIVE | MK_BOOT_INT_NATIVE | MK_BOOT_IRET_NATIVE)

struct mk_vm_config {
    const char *name; /* NULL: "vm" */
    enum mk_mode mode;
    uint64_t memory;
    unsigned cpus;
    bool coalesce, unhandled_fault;
    bool pic;                  /* 8259A pair, 8254 and i8042 */
    bool assist;               /* may minikvm do what this host's KVM cannot (assist.h) */
    struct mk_mapping mapping; /* long mode */
    uint32_t boot_features;    /* MK_BOOT_* bits beyond those of the host and the devices */
    const char *command_line;  /* NULL: none */
    struct mk_policy *files;   /* held by the VM; NULL: only files that it makes itself */
    struct mk_ram *ram;        /* RAM begins with these contents (ram.h); NULL: as after load */
    const struct mk_region *regions; /* with `ram`: all memory, but shared files, which are not */
    unsigned region_count;           /* mapped */
    struct mk_places places;         /* with `ram`: where in it the tables of the mode are */
    bool mode_open, memory_open;     /* mode and memory are what the first image makes of them */
    bool slots_later; /* a state is loaded next, which may have RAM elsewhere (mk_state_load) */
};

/* Where a vCPU starts. */
struct mk_entry {
    unsigned cpu;
    uint16_t segment; /* real mode */
    uint64_t ip;
    bool has_regs; /* the image's format says what these hold */
    uint32_t eax, ebx, edx, esi;
    bool has_handoff; /* long mode: what else the format says of segments and tables */
    struct mk_handoff handoff;
    struct mk_places places; /* not real mode: where the tables are to be */
};

/* What ends a run; MK_FOREVER for no limit. */
struct mk_limits {
    uint64_t ns, exits, output;
};

/* Who keeps the vCPUs outside the guest; they go on when nobody does. */
enum mk_pause { MK_PAUSED_BY_SCRIPT = 1, MK_PAUSED_BY_DEBUGGER = 2 };

enum mk_vm_state { MK_VM_IDLE, MK_VM_RUNNING, MK_VM_ENDED };

/* What only the script knows. All may be NULL. */
struct mk_vm_ops {
    /* The script wants its thread back (a signal such as Ctrl-C): end the run. On any thread. */
    bool (*interrupted)(void *ctx);
    /* Something happened while vm->tracing is set. On the vCPU's thread. */
    void (*trace)(void *ctx, struct mk_vcpu *cpu, const struct mk_trace *event);
    /* Code of the script that a vCPU's thread runs shall end. Asked on the I/O thread. */
    bool (*overdue)(void *ctx, struct mk_vcpu *cpu);
    /* At every kick of the vCPU's thread, in the signal's handler. */
    void (*kicked)(void *ctx, struct mk_vcpu *cpu);
    /* What mk_vm_attend() asked for. On the thread of a vCPU that is outside the guest: between two
     * entries, in the middle of an access, or paused. */
    void (*attend)(void *ctx, struct mk_vcpu *cpu);
};

/* A vCPU of a VM. */
struct mk_vm_cpu {
    struct mk_vcpu c;
    bool ready;            /* has something to run */
    bool has_entry;        /* by a load: a reset sets it again */
    bool restarted;        /* that was set after the last run */
    bool over;             /* it does not take part in this run */
    struct mk_entry entry; /* for reset */
    pthread_t thread;
    uint64_t
        exits_checked; /* so many of its exits watches know of (watch.c), since they were set */
    unsigned watch_round;
};

/* Who samples where the vCPUs are (debug/profile.h). It stays as long as the VM. */
struct mk_profiler {
    void (*run)(struct mk_vm *vm, bool runs); /* the run begins; ends */
    void (*sample)(struct mk_vcpu *c);        /* MK_REQ_SAMPLE, on its thread */
    void (*free)(struct mk_vm *vm);
};

struct mk_vm {
    /* What the run loops of its vCPUs read; what changes meanwhile is atomic or has a lock. */
    const struct mk_kvm *kvm;
    int fd; /* of the KVM VM; -1: there is none */
    struct mk_mem mem;
    struct mk_bus bus; /* ports */
    struct mk_zones zones;
    struct mk_clock clock;
    struct mk_console console;
    bool unhandled_fault;          /* an access that nobody serves ends the vCPU */
    _Atomic unsigned char tracing; /* MK_TRACE_EVENTS and so on (trace.h); 0: it is not */
    _Atomic uint64_t deadline;     /* mk_now() time, UINT64_MAX: none */
    _Atomic unsigned paused;       /* vCPUs shall stay outside the guest: bits of enum mk_pause */
    _Atomic bool attention;        /* a vCPU shall call ops->attend */
    unsigned only;                 /* vCPU only - 1 runs, the others stay where they are; 0: all */
    bool pauses;                   /* a debugger's stop pauses it, and does not end the run */
    _Atomic bool holds;            /* it holds it, and is attended to */
    bool on_caller_thread;         /* its vCPU runs on the thread of who may be interrupted */
    uint64_t exit_limit;           /* per vCPU and run, UINT64_MAX: none */
    uint64_t output_limit;         /* bytes per vCPU, UINT64_MAX: none */
    struct mk_assist *assist;      /* NULL: this host needs none, or it is not wanted */
    struct mk_debugger *debug;     /* NULL: none */
    const struct mk_vm_ops *ops;
    void *ctx;          /* for ops */
    struct mk_bus mmio; /* guest-physical addresses outside RAM */
    struct mk_bus msrs; /* those that KVM hands to us (hooks.c) */

    char name[64];
    enum mk_mode mode;
    unsigned cpus;
    struct mk_vm_cpu *cpu[MK_MAX_CPUS]; /* the first `cpus` of them; more are added (cpus.c) */
    struct mk_devs devices;             /* all of them (compose.c): */
    struct mk_uart uart;
    struct mk_debugcon debugcon;
    struct mk_dev exit_port;
    struct mk_hypercall hypercall;
    struct mk_fsbox fsbox;
    struct mk_file_port file;
    bool has_pic; /* and what drives its lines */
    struct mk_pic pic;
    struct mk_pit pit;
    struct mk_i8042 keyboard;
    struct mk_pci pci;
    struct mk_ram *base; /* what RAM was a copy of, but for pages written since; NULL: none */
    struct mk_mapping mapping;
    struct mk_places places;                 /* of the tables of the mode */
    bool mode_open, memory_open, may_assist; /* as configured; mode_open until something starts */
    bool slots_later;                        /* as configured, until a state is loaded */
    uint32_t boot_features;
    char command_line[448];
    bool restoring; /* the part of a reset or a restore that is done in Lua: it cannot run */
    struct mk_err load_error; /* of the last load, to explain a run with nothing loaded */
    struct kvm_cpuid2 *cpuid; /* NULL: nobody changed it */
    struct kvm_cpuid2 *default_cpuid;
    bool msr_exits;    /* KVM hands some MSRs to us */
    bool unknown_msrs; /* a script wants those that KVM does not know */
    /* An MSR that KVM does not know either; as the bus's on_unhandled. */
    bool (*on_unhandled_msr)(void *ctx, struct mk_io *io, bool in, uint64_t *value, bool *script);
    void *unhandled_msr_ctx;
    struct mk_doorbells doorbells;
    struct mk_blks blks;          /* disks that are served on other threads */
    _Atomic unsigned watch_round; /* how often watches were set */
    _Atomic uint64_t exits_checked;

    pthread_mutex_t lock;      /* state, live, waiters */
    struct mk_waiter *waiters; /* for a change of what the VM is or does */
    enum mk_vm_state state;
    unsigned live;                /* vCPUs still running */
    unsigned paused_cpus;         /* of those, outside the guest because the VM is paused */
    _Atomic unsigned pause_round; /* a new one whenever it is resumed */
    bool hold_told;               /* the debugger knows that they all are */
    bool threaded;                /* threads wait to be joined */
    uint64_t began, ended;        /* mk_now() of the last run */
    uint64_t paused_since;

    struct mk_io_timer deadline_timer, alarm, poll, blocked; /* monitor.c */
    _Atomic uint64_t blocked_ns; /* until the next look at an interrupt that waits for an OUT */
    _Atomic uint64_t alarm_earliest;
    _Atomic bool polling;
    struct mk_profiler *_Atomic profiler; /* NULL: none */
};

/* For mk_wait(): the script wants its thread back. */
static inline bool mk_vm_interrupted(void *ctx)
{
    const struct mk_vm *vm = ctx;
    return vm->ops && vm->ops->interrupted && vm->ops->interrupted(vm->ctx);
}

int mk_vm_open(struct mk_vm *vm, const struct mk_kvm *kvm, const struct mk_vm_config *config,
               struct mk_err *err);
/* Stops it if need be, joins its threads, frees everything. */
void mk_vm_close(struct mk_vm *vm);

/* One more vCPU, before the VM runs for the first time, with nothing to run yet: the others learn
 * of it by their CPUID. -1 with *err, and the VM as it was. */
int mk_vm_add_cpu(struct mk_vm *vm, struct mk_err *err);

/* One more region of memory (mem.h) while the VM does not run; NULL with *err. Before its contents
 * are made: whether there is a place for it. */
int mk_vm_check_map(const struct mk_vm *vm, const struct mk_region *want, struct mk_err *err);
struct mk_region *mk_vm_map(struct mk_vm *vm, const struct mk_region *want, int fd,
                            struct mk_err *err);
int mk_vm_unmap(struct mk_vm *vm, struct mk_region *region, struct mk_err *err);

/* Moves the tables of the mode if need be, and points a vCPU at its first instruction. Nothing
 * changes when that would not be in RAM. */
int mk_vm_set_entry(struct mk_vm *vm, const struct mk_entry *entry, struct mk_err *err);
/* Another mode and size of RAM while vm->mode_open. */
int mk_vm_set_mode(struct mk_vm *vm, enum mk_mode mode, uint64_t memory, struct mk_err *err);
/* The script wrote memory itself: the vCPU has something to run. It loaded an image for it, or set
 * registers: the same, also when it had come to its end. */
void mk_vm_set_ready(struct mk_vm *vm, unsigned cpu);
void mk_vm_restart_cpu(struct mk_vm *vm, unsigned cpu);

/* Runs to the end of all vCPUs, the only one of a VM on the calling thread. */
int mk_vm_run(struct mk_vm *vm, const struct mk_limits *limits, struct mk_err *err);
/* The same on threads of the VM's own; returns at once. */
int mk_vm_start(struct mk_vm *vm, const struct mk_limits *limits, struct mk_err *err);
/* Waiting for a VM (wait.h): done(ctx) is asked under its lock, whenever something has changed. */
struct mk_wait mk_vm_wait_for(struct mk_vm *vm, bool (*done)(void *ctx), void *ctx);
/* For it, of the VM: it does not run (any more); it is paused, or does not run. */
bool mk_vm_is_stopped(void *vm);
bool mk_vm_is_paused_or_stopped(void *vm);
/* Waits at most `ns`; true when the VM does not run (any more). */
bool mk_vm_wait(struct mk_vm *vm, uint64_t ns);
/* A VM that runs on threads of its own, or by a debugger on any: its vCPUs leave the guest and stay
 * outside. False when it does not run; a debugger then has its next run begin so. The run's
 * deadline is put off by the time that it is paused. When a debugger has it and all vCPUs are
 * outside, ops->attend is called. */
bool mk_vm_pause(struct mk_vm *vm, enum mk_pause who);
bool mk_vm_is_paused(struct mk_vm *vm);
/* False when it was not paused. */
bool mk_vm_resume(struct mk_vm *vm, enum mk_pause who);
/* Any thread: one of its vCPUs shall call ops->attend soon; of a VM that does not run, the thread
 * that waits with mk_vm_wants_attention(), or the next run. */
void mk_vm_attend(struct mk_vm *vm);
bool mk_vm_wants_attention(void *vm);
/* Asks a running VM to end with this reason. */
void mk_vm_stop(struct mk_vm *vm, enum mk_reason reason);
/* Leaves a VM of which only a part was reset or restored so that it does not run, and says why. */
void mk_vm_disable(struct mk_vm *vm, const char *what, const char *why);
/* Back to the state after loading: memory, vCPUs, devices, console. After -1 it has no vCPUs and
 * does not run until it is reset again. */
int mk_vm_reset(struct mk_vm *vm, struct mk_err *err);

/* The guest does not mind when the interrupt controllers hear of its OUTs later (zones.h). */
void mk_vm_collect_pic(struct mk_vm *vm);
/* Makes the devices, and what they need of a VM (compose.c); after -1 that is there all the same.
 * And frees it. */
int mk_vm_compose(struct mk_vm *vm, const struct mk_vm_config *config, struct mk_err *err);
void mk_vm_dismantle(struct mk_vm *vm);

/* For what follows the end of a run: its threads are gone, too. */
void mk_vm_join(struct mk_vm *vm);
/* Waiting for output (watch.c). Between mk_vm_watch() and mk_watch_disarm() a decision of the watch
 * ends the run, if it `stops`, and wakes who waits with mk_vm_watch_decided(). Both may be called
 * while it runs. */
void mk_vm_watch(struct mk_vm *vm, struct mk_watch *w);
/* For mk_wait(): a watch is decided, or its VM does not run any more. */
struct mk_vm_watched {
    struct mk_vm *vm;
    struct mk_watch *w;
};
bool mk_vm_watch_decided(void *watched);
/* A timer tick was delivered. */
void mk_vm_timer_tick(struct mk_vm *vm);

/* All vCPUs handle events: input arrived, output went. */
void mk_vm_wake(void *vm);
/* Of a VM that does not run; others may be asking. */
void mk_vm_set_state(struct mk_vm *vm, enum mk_vm_state state);
/* Wakes who waits for the VM. */
void mk_vm_notify(void *vm);
/* A vCPU stays outside the guest because the VM is paused; it goes on. */
void mk_vm_count_paused(struct mk_vcpu *c, bool in);
/* The caller holds vm->lock and has changed who of the vCPUs is live or paused. */
void mk_vm_check_held(struct mk_vm *vm);
/* After an exit of a vCPU while there are watches (watch.c). */
void mk_vm_check_watches(struct mk_vm *vm, struct mk_vcpu *c);

/* The I/O thread's part (monitor.c), from the begin of a run to its end. After the end nothing
 * there knows the VM any more, but for output that its reader has not taken. */
void mk_vm_init_monitor(struct mk_vm *vm);
void mk_vm_start_monitor(struct mk_vm *vm);
void mk_vm_stop_monitor(struct mk_vm *vm);
/* A vCPU's thread looks after timers that are due, input that arrived, doorbells. */
void mk_vm_serve_due(struct mk_vm *vm, struct mk_vcpu *c);
/* It is about to sleep until `until`: tells how long it may. It is awake (again). */
uint64_t mk_vm_begin_sleep(struct mk_vm *vm, struct mk_vcpu *c, uint64_t until);
void mk_vm_start_polling(struct mk_vm *vm);
/* May an interrupt still come for a halted vCPU? */
bool mk_vm_can_wake(struct mk_vm *vm);

/* For vm.c (cpus.c): whether a VM can have so many vCPUs; makes them and frees them, as data, and
 * opens and closes those that KVM has. */
int mk_vm_check_cpus(const struct mk_kvm *kvm, enum mk_mode mode, uint64_t memory, unsigned cpus,
                     struct mk_err *err);
int mk_vm_make_cpus(struct mk_vm *vm, unsigned cpus, struct mk_err *err);
void mk_vm_free_cpus(struct mk_vm *vm);
/* In real mode each prints to a stream of its own; in the others all to one. */
void mk_vm_share_console(struct mk_vm *vm);
int mk_vm_open_cpus(struct mk_vm *vm, struct mk_err *err);
void mk_vm_close_cpus(struct mk_vm *vm);

/* For vm.c: the tables of the mode at their usual places; whether a mode can map RAM of this size
 * as configured (load.c); what the host does without help in this mode (assist.c). */
int mk_vm_prepare_memory(struct mk_vm *vm, struct mk_err *err);
int mk_vm_probe_native(struct mk_vm *vm, struct mk_err *err);
/* vCPUs are new: gives them the assist, where there is one. */
void mk_vm_attach_assist(struct mk_vm *vm);
/* Gives the VM a debugger, and its vCPUs, now and whenever they are new; any thread (cpus.c). */
void mk_vm_attach_debugger(struct mk_vm *vm, struct mk_debugger *debug);
/* For the rest of the VM and for snapshots (assist.c): the KVM VM is new, or gone. */
void mk_vm_reset_assist(struct mk_vm *vm);
void mk_vm_free_assist(struct mk_vm *vm);
/* Paging that KVM does not do: whether it is done for it; it begins or goes on with these
 * registers, of which KVM is to have what then is left; it ends; -1 with *err, because nobody does
 * it. */
bool mk_vm_assists_paging(const struct mk_vm *vm);
int mk_vm_set_paging(struct mk_vm *vm, struct kvm_sregs *sregs, struct mk_err *err);
int mk_vm_end_paging(struct mk_vm *vm, struct mk_err *err);
int mk_vm_no_paging(const struct mk_vm *vm, struct mk_err *err);
/* What this build lacks that the host needs, as a remedy; NULL: nothing. */
const char *mk_vm_missing_assist(void);
/* Memory slots: made for the list of regions, or anew for KVM to log writes; the one of a region
 * goes; what was logged is noted in mem. */
int mk_vm_register_slots(struct mk_vm *vm, struct mk_err *err);
void mk_vm_remove_slot(struct mk_vm *vm, uint32_t slot);
int mk_vm_sync_log(struct mk_vm *vm, struct mk_err *err);
int mk_mapping_check(enum mk_mode mode, const struct mk_mapping *map, uint64_t memory,
                     struct mk_err *err);

/* What KVM has to be told of hooks (hooks.c). */
const struct kvm_cpuid2 *mk_vm_cpuid(const struct mk_vm *vm);             /* as vCPU 0 is told */
int mk_vm_init_cpuid(struct mk_vm *vm, unsigned cpu, struct mk_err *err); /* the vCPU is new */
int mk_vm_update_cpuid(struct mk_vm *vm, struct mk_err *err); /* there are more vCPUs than before */
/* The hooks of bus `msrs` changed. */
int mk_vm_filter_msrs(struct mk_vm *vm, struct mk_err *err);
/* The bus's callback for an MSR that no script serves: KVM's own, when it has one. */
bool mk_vm_msr(void *ctx, struct mk_io *io, bool in, uint64_t *value, bool *script);
/* Changes what CPUID answers (SDM volume 2, CPUID), before the VM runs for the first time. APIC ids
 * are vCPU 0's; the others' are higher by their index. */
int mk_vm_set_cpuid(struct mk_vm *vm, const struct kvm_cpuid2 *cpuid, struct mk_err *err);

/* The vCPU whose end speaks for the VM: the gravest, and of those the first. */
const struct mk_vcpu *mk_vm_deciding_cpu(const struct mk_vm *vm);
const char *mk_reason_name(enum mk_reason reason);

#endif
