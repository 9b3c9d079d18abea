/* core.h - what the glue files share: the Lua lock, boxes, the one gate into Lua and the one wait.
 *
 * The Lua lock: code of one Lua state never runs in parallel with itself. The script's thread holds
 * the lock whenever it executes Lua and gives it up only inside blocking calls; a vCPU's thread
 * takes it for the time of a handler. Handlers run in a coroutine that belongs to their vCPU. What
 * they wait for is waited for by mk_lua_wait(), which gives the lock up meanwhile. */
#ifndef MK_LUA_CORE_H
#define MK_LUA_CORE_H

#include "lua/limit.h"
#include "snapshot/snapshot.h"
#include "vm/vm.h"

#include <lauxlib.h>
#include <lua.h>

#define MK_VM "minikvm.vm"
#define MK_CPU "minikvm.cpu"
#define MK_CPUS "minikvm.cpus" /* vm.cpu, the table of them */
#define MK_MEMORY "minikvm.memory"
#define MK_PORTS "minikvm.ports"
#define MK_MMIO "minikvm.mmio"
#define MK_MSRS "minikvm.msrs"
#define MK_CPUID "minikvm.cpuid"
#define MK_PCI "minikvm.pci"
#define MK_WINDOW "minikvm.window" /* of a BAR */
#define MK_HYPERCALLS "minikvm.hypercalls"
#define MK_CONSOLE "minikvm.console"
#define MK_CLOCK "minikvm.clock"
#define MK_TIMER "minikvm.timer"
#define MK_KEYBOARD "minikvm.keyboard"
#define MK_FILES "minikvm.files"      /* a policy */
#define MK_VM_FILES "minikvm.vmfiles" /* vm.files */
#define MK_SYMBOLS "minikvm.symbols"
#define MK_HANDLE "minikvm.handle"
#define MK_SNAPSHOT "minikvm.snapshot"
#define MK_WATCH "minikvm.watch"
#define MK_DISK "minikvm.disk"
#define MK_LAYER "minikvm.layer"
#define MK_HUB "minikvm.wire"
#define MK_PCI_FN "minikvm.pcifunction"
#define MK_SOCKET "minikvm.socket"
#define MK_VIEW "minikvm.viewsocket"

/* One per Lua state, in its registry. */
struct mk_lua {
    pthread_mutex_t mutex;
    pthread_cond_t script_turn, handler_turn;
    _Atomic bool held;
    _Atomic unsigned script_waits, handler_waits;
    struct mk_lua_cpu
        *handler; /* whose handler runs; NULL: the script. For the holder of the lock */
    lua_State *main;
    lua_State *volatile base; /* where the holder's call began: `main`, or a vCPU's coroutine */
    volatile bool away;       /* the script's thread gave up the lock; for that thread's signals */
    uint64_t handler_most;    /* what limits.handler can be at the most: --safe */
    _Atomic bool ending;      /* a worker's script shall end: mk_watchdog_end_script() */
    struct mk_watchdog
        *volatile watchdog; /* of the call that is in progress; NULL: it has no limit */
    lua_Hook script_hook;   /* the C side of debug.sethook() */
    struct mk_kvm kvm;
    bool kvm_open;
};

/* An access that a handler serves, for its next(). */
struct mk_frame {
    struct mk_io *io;
    bool in;
    uint64_t value; /* of an OUT */
    struct mk_frame *above;
};

struct mk_lua_cpu {
    struct mk_lua_vm *v;
    unsigned index;
    lua_State *co;
    unsigned depth; /* handlers in progress, one inside the other */
    bool waits;     /* the innermost one has given the Lua lock up */
    struct mk_frame *frame;
    struct mk_watchdog watchdog;
    const char *what; /* "the trace function"; NULL: as the exit says */
    const char *set; /* a register that the script has set since the last run or load; NULL: none */
    char *traceback; /* of the handler that failed */
    char waiting[140]; /* the guest's instruction that waited for it: "rip 0x1004: in al, dx" */
};

struct mk_lua_stopper;
struct mk_lua_branches;

/* What an object has in a VM, which ends with it: first in the object's struct. */
struct mk_lua_member {
    struct mk_lua_vm *v; /* NULL: in none, or not any more */
    struct mk_lua_member *next;
    void (*close)(struct mk_lua_member *member);
};

struct mk_lua_vm {
    struct mk_vm vm; /* first */
    struct mk_lua *lua;
    bool open;
    _Atomic bool closing; /* handlers do not start any more */
    bool close_later;     /* closed from inside: when the run is over */
    _Atomic bool in_run;  /* the script's thread is inside vm:run() */
    unsigned busy;        /* and other calls that will look at the VM when they come back */
    unsigned waiting;     /* handlers that have given the Lua lock up */
    lua_Hook hook_before;
    struct mk_limits limits; /* defaults of its runs */
    uint64_t handler_ns;     /* a handler's time */
    lua_State *anchor;
    struct mk_lua_cpu *cpu[MK_MAX_CPUS]; /* as many as the VM has; until it is closed */
    unsigned cpus;
    _Atomic int calls[256]; /* who answers hypercalls, by number; 0: nobody */
    int line_ref, trace_ref, decide_ref, attend_ref;
    lua_State *opener; /* whose files:open() asks decide() at the moment; NULL: a guest's OPEN */
    _Atomic int unhandled_ref; /* on_unhandled */
    uint64_t unhandled_hits;
    uint64_t latched; /* bytes of its latches: a script's cap on memory does not count them */
    int *files;       /* images that are read again for a reset; -1: closed (load.c) */
    unsigned file_count;
    struct mk_lua_member *members;         /* what objects have in it, closed before it */
    struct mk_lua_stopper *stoppers;       /* breakpoints and watched memory (debug.c) */
    struct mk_lua_branches *past_branches; /* of coverages that are gone */
    size_t stopper_count, stoppers_kept;   /* at the last purge */
    int output_file;                       /* opened by console:output(); 0: none */
    int echo_before;                       /* out_fd while nobody listened */
    bool terminal;                         /* attached: raw while it runs */
    struct mk_console_input input_before;  /* the user's turn (hand_over) */
    int output_before;
};

/* Frees what the box of a VM holds. The Lua lock stays ours: handlers that would begin give up. */
void mk_lua_close_vm(struct mk_lua_vm *v);
/* The limits of the table at `index`, or those of `base` where it has none. */
struct mk_limits mk_limits_field(lua_State *L, int index, const struct mk_limits *base);
/* Closes v->files. */
void mk_lua_free_files(struct mk_lua_vm *v);
/* The descriptor of the open image whose number is at `index`; it is the VM's. */
int mk_lua_image_fd(lua_State *L, struct mk_lua_vm *v, int index);
/* The modes' names, by enum mk_mode. */
extern const char *const mk_lua_modes[MK_MODES];

/* What lies on the stack of the anchor, which runs nothing: there it has the same index however
 * deep in calls the handlers' coroutines are, and out of a script's reach. */
enum { MK_AT_VM = 1, MK_AT_HANDLERS, MK_AT_READ, MK_AT_WRITE, MK_AT_NEXT /* one for each vCPU */ };

/* --- a Lua state, and its lock (state.c) --- */

struct mk_lua *mk_lua_get(lua_State *L);
/* The coroutine that the innermost function of L, one of C, resumes; NULL: none. */
lua_State *mk_lua_resumed(lua_State *L);
/* The coroutine that runs, when `L` is where the call began. */
lua_State *mk_lua_running(lua_State *L);
/* Takes the lock when it is free; gives it up. */
bool mk_lua_trylock(struct mk_lua *lua);
void mk_lua_unlock(struct mk_lua *lua);

/* Around what blocks: gives the lock up; what `turn` keeps belongs to the call that comes back. */
struct mk_lua_context {
    lua_State *base;
    struct mk_watchdog *watchdog;
    struct mk_lua_cpu *handler;
};
void mk_lua_begin_blocking(struct mk_lua *lua, struct mk_lua_context *context);
/* What the script printed (C's stdout) goes on its way, before what guests print now. */
void mk_lua_flush_output(void);
void mk_lua_end_blocking(struct mk_lua *lua, const struct mk_lua_context *context);
/* Has Ctrl-C come, now or before the blocking call began with hook `before`? */
bool mk_lua_interrupted(const struct mk_lua *lua, lua_Hook before);
/* The vCPU of `v` whose handler runs, -1 outside one. */
int mk_lua_handler_cpu(const struct mk_lua_vm *v);
/* Raises when called inside a handler. */
void mk_check_outside_handler(lua_State *L, const char *what);

/* The wait of every function that blocks: gives the Lua lock up until wait->done() says true, or
 * `ns` have passed, or Ctrl-C came. True when it is done. In a handler it waits on the vCPU's
 * thread: the guest stays at its access, the VM's timers and other handlers go on. A stop, the
 * deadline and Ctrl-C end the wait and, at the next instruction, the handler; the time that the VM
 * is paused does not count (mk_vcpu_wait). */
bool mk_lua_wait(lua_State *L, uint64_t ns, const struct mk_wait *wait);
/* The same for what a VM comes to, which is not collected meanwhile. */
bool mk_lua_wait_vm(lua_State *L, struct mk_lua_vm *v, uint64_t ns, bool (*done)(void *ctx),
                    void *ctx);

/* The gate: every call into Lua from a vCPU's thread. Takes the Lua lock and calls body(co), which
 * finds `ctx` as a light userdata at index 1, pushes a handler and its arguments, calls it and
 * reads its results: all of it in one protected call, because an error outside of one would go on
 * in the main thread's frame. What fails ends the VM with message and traceback. `what` names the
 * handler in messages; NULL: it is that of the exit being served. */
enum mk_call_result {
    MK_CALL_REFUSED, /* the VM is being closed */
    MK_CALL_DONE,
    MK_CALL_FAILED, /* the VM ends */
};
enum mk_call_result mk_lua_call(struct mk_lua_vm *v, unsigned cpu, const char *what,
                                lua_CFunction body, void *ctx);
/* The same in pieces, for calls with nothing around them that can raise: enter, push a handler and
 * at most 4 arguments that allocate nothing, such as integers, run, read the results, leave. */
struct mk_gate {
    struct mk_lua_vm *v;
    unsigned cpu;
    int base; /* of the coroutine's stack */
    struct mk_lua_context outer;
    const char *what; /* of the handler outside this one */
    bool waits;
};
#define MK_GATE_STACK 8 /* a message handler, a handler, its arguments */
/* The coroutine; NULL: the VM is being closed, or has failed. */
lua_State *mk_gate_enter(struct mk_gate *g, struct mk_lua_vm *v, unsigned cpu, const char *what);
/* False: it failed, the VM ends. */
bool mk_gate_run(struct mk_gate *g, int arguments, int results);
void mk_gate_leave(struct mk_gate *g);
/* Inside the gate: pushes handler `ref`. */
void mk_lua_push_handler(struct mk_lua_vm *v, lua_State *co, int ref);
/* Calls handler *ref, whose answer nobody wants; nothing when there is none (0 or less) any more.
 * What follows, as `fmt` says: i (uint64_t), b (bool), s (const char *, size_t). */
void mk_lua_notify(struct mk_lua_vm *v, unsigned cpu, const char *what, const int *ref,
                   const char *fmt, ...);
/* No handler is called any more once one has failed. */
static inline bool mk_lua_failed(const struct mk_lua_vm *v, unsigned cpu)
{
    return v->vm.cpu[cpu]->c.end.reason == MK_ERROR;
}
/* Ends the VM because a handler answered with nonsense. */
void mk_lua_bad_answer(struct mk_lua_vm *v, unsigned cpu, const char *fmt, ...) MK_PRINTF(3, 4);

/* Argument checks: the object itself, and that it is still open. */
struct mk_lua_vm *mk_check_vm(lua_State *L, int index);
/* The stream of output of the vCPU whose number is at `index`; nil: of the first. */
unsigned mk_check_stream(lua_State *L, const struct mk_lua_vm *v, int index);
/* Raises when a reset that failed left the VM without vCPUs. */
void mk_check_cpus(lua_State *L, const struct mk_lua_vm *v);
struct mk_lua_vm *mk_check_child(lua_State *L, int index, const char *type);
/* The vCPU at index 1, when its registers can be looked at now; and when they can be set. */
struct mk_vcpu *mk_check_cpu(lua_State *L, struct mk_lua_vm **vm);
struct mk_vcpu *mk_check_settable_cpu(lua_State *L, struct mk_lua_vm **vm);
/* Seconds, 0 or more, in nanoseconds; MK_FOREVER beyond 1e9. */
uint64_t mk_to_ns(lua_Number seconds);
uint64_t mk_check_seconds(lua_State *L, int index);
/* The same; MK_FOREVER when there is none. */
uint64_t mk_opt_seconds(lua_State *L, int index);
/* "script.lua:12": the innermost line of the script's own. Allocates nothing. */
void mk_lua_where(lua_State *L, char *text, size_t size);
/* Pushes the script's place, "file:line: ", below minikvm's own Lua parts. */
void mk_push_where(lua_State *L);
/* luaL_error() that blames the script's line, not one of minikvm's own Lua parts. */
int mk_lua_error(lua_State *L, const char *fmt, ...) MK_PRINTF(2, 3);
/* luaL_checkstring() of what C reads up to its NUL, such as a path: one inside raises. */
const char *mk_check_cstring(lua_State *L, int index);
/* A string, without the first so many bytes as the integer behind it says; how many are left. */
const char *mk_check_rest(lua_State *L, int index, size_t *left);
/* What the last run left in the vCPUs for its result goes. */
void mk_forget_result(struct mk_lua_vm *v);
/* The reason and the information table of a VM that ended: 2. */
int mk_push_result(lua_State *L, struct mk_lua_vm *v);
/* nil, text, name: the world failed. */
int mk_push_err(lua_State *L, const struct mk_err *err);
/* That when rc < 0, else the first argument: what most calls that can fail return. */
int mk_push_self(lua_State *L, int rc, const struct mk_err *err);
/* An integer; nil when there is none. */
int mk_push_optional(lua_State *L, bool is, uint64_t value);
/* Fields of an option table that was checked in Lua. A string lives as long as the table. */
lua_Integer mk_integer_field(lua_State *L, int index, const char *key, lua_Integer absent);
bool mk_true_field(lua_State *L, int index, const char *key);
const char *mk_string_field(lua_State *L, int index, const char *key, size_t *length);
/* Sets a field of the table on top. */
void mk_set_integer(lua_State *L, const char *key, uint64_t value);
void mk_set_string(lua_State *L, const char *key, const char *value);
void mk_set_boolean(lua_State *L, const char *key, bool value);
void mk_set_seconds(lua_State *L, const char *key, uint64_t ns);
/* Raises when the VM runs; `what` was called. */
void mk_check_stopped(lua_State *L, struct mk_lua_vm *v, const char *what);
/* Keeps a function in the VM's handler table, its user value, which also holds the children by
 * name; returns its reference. */
int mk_lua_ref(lua_State *L, int vm_index, int function_index);
void mk_lua_unref(lua_State *L, int vm_index, int ref);
/* Pushes an object that owns what its pointer is set to, which MK_RELEASE()'s function frees. */
void **mk_push_owner(lua_State *L, const char *type);
#define MK_RELEASE(close, type, release)                                                           \
    static int close(lua_State *L)                                                                 \
    {                                                                                              \
        void **owner = luaL_checkudata(L, 1, type);                                                \
        if (*owner)                                                                                \
            release(*owner);                                                                       \
        *owner = NULL;                                                                             \
        return 0;                                                                                  \
    }
/* `close`, which calls mk_lua_leave(), is called at the latest when the VM closes, that of the
 * newest member first. */
void mk_lua_join(struct mk_lua_vm *v, struct mk_lua_member *member,
                 void (*close)(struct mk_lua_member *member));
/* Takes it out of its VM: that, or NULL when it was in none. */
struct mk_lua_vm *mk_lua_leave(struct mk_lua_member *member);
/* Pushes a new box of `size` bytes whose user value 1 is the VM at vm_index. */
void *mk_new_child(lua_State *L, int vm_index, size_t size, const char *type);

/* What a file adds to the core. */
struct mk_exports {
    const char *type;    /* a kind of objects */
    const char *extends; /* or one of another file, which gets more methods */
    const luaL_Reg *meta, *methods;
    const luaL_Reg *core;       /* functions of minikvm.core, */
    const char *table;          /* or of a table there */
    void (*open)(lua_State *L); /* with the core on top */
};
#define MK_FN(name)                                                                                \
    {                                                                                              \
#name, name                                                                                \
    }
#define MK_END                                                                                     \
    {                                                                                              \
        0                                                                                          \
    }
/* MK_EXPORTS = { { … }, … }: the linker puts those of all files into one array. */
#define MK_EXPORTS                                                                                 \
    static const struct mk_exports exports[]                                                       \
        __attribute__((section("mk_exports"), used, aligned(sizeof(void *))))
void mk_open_worker(lua_State *L, lua_CFunction open_module); /* a worker's state gets it, too */
/* What --safe refused last of memory: "script.lua:12: not enough memory: …"; NULL: nothing. */
const char *mk_safe_refusal(void);
/* Pushes the chunk of a part of the module that is written in Lua: "cli.interpreter". */
void mk_lua_part(lua_State *L, const char *name);
/* Lets require find all of them, as minikvm.NAME. */
void mk_lua_preload(lua_State *L);
/* The same in a state that may not load the module at once: package.preload gets what opens it. */
void mk_lua_offer(lua_State *L, lua_CFunction open_module);
/* luaopen_minikvm_NAME of each part (the Makefile's embed.S): require of a stock Lua looks for that
 * in the module's file when the module is not there yet. */
int mk_lua_load_part(lua_State *L);
/* Pushes vm.cpu[cpu]. */
void mk_push_cpu(lua_State *L, int vm_index, unsigned cpu);
/* Pushes the function that the handlers of one vCPU get as `next`. */
void mk_push_next(lua_State *L, int vm_index, unsigned cpu);
/* The core's callbacks into hypercall and line handlers. */
bool mk_lua_hypercall(void *ctx, struct mk_io *io, uint8_t number, uint32_t *value);
void mk_lua_line(void *ctx, struct mk_cpu *cpu, const char *line, size_t length, bool more);

/* The policy in field `files` of an options table, or NULL; and its decide function as a handler of
 * the new VM. */
struct mk_policy *mk_files_field(lua_State *L, int options);
void mk_lua_connect_files(lua_State *L, struct mk_lua_vm *v, int vm_index, int options);

/* Lets the VM show the script what nobody serves (unhandled.c). */
void mk_lua_connect_unhandled(struct mk_lua_vm *v);
/* Pushes a list of the script's timers that are armed, to arm them again; nil when there are none.
 * Putting it back ends those that are not in it, and leaves those that the script removed. */
void mk_lua_timers_push(lua_State *L, struct mk_lua_vm *v, int vm_index);
void mk_lua_timers_put(lua_State *L, struct mk_lua_vm *v, int vm_index, int list);

/* What was written to a disk (disk.c), as an object, which is one more user of it. */
struct mk_layer *mk_check_layer(lua_State *L, int index);
void mk_push_layer(lua_State *L, struct mk_layer *layer);
/* Frees v->past_branches. */
void mk_lua_free_branches(struct mk_lua_vm *v);
/* The disk at `index`; raises when it is closed. */
struct mk_disk *mk_check_disk(lua_State *L, int index);
/* Frees v->stoppers, after the VM is closed. */
void mk_lua_free_stoppers(struct mk_lua_vm *v);
/* Pushes what stopped the VM last, or nil. */
void mk_push_stop(lua_State *L, struct mk_lua_vm *v);
/* The function of the PCI bus at index 1; a queue's place in the table at `index`. */
struct mk_pci_fn *mk_check_pci_fn(lua_State *L);
struct mk_virtq mk_virtq_field(lua_State *L, int index);
/* A socket that listens by TCP, without blocking: -1 with *err; host "*": on every address of this
 * machine. And the port that it has. (socket.c) */
int mk_listen_tcp(const char *host, const char *port, struct mk_err *err);
unsigned mk_port_of(int fd);
/* mk_vm_ops.attend. */
void mk_lua_attend(void *ctx, struct mk_vcpu *cpu);

/* The snapshot in field `snapshot` of an options table, or NULL. */
struct mk_snapshot *mk_snapshot_field(lua_State *L, int options);

/* The first instruction of `bytes` as text; false when it is none, or without capstone. */
bool mk_disassemble(const uint8_t *bytes, size_t length, unsigned bits, uint64_t address,
                    char *text, size_t size);

/* Handles: what hooks return. */
struct mk_handle {
    void (*remove)(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index);
    uint64_t (*count)(struct mk_lua_vm *v, struct mk_handle *h);
    uint64_t hits; /* after its removal */
    bool removed;
    struct mk_prim *prim; /* has a value (prims.c) */
    void *target;
    int number;
};
/* One that has nothing to remove yet. */
struct mk_handle *mk_new_handle(lua_State *L, int vm_index);

/* Raises for a field that objects of `type` do not have, or whose value cannot be set; the key is
 * at index 2. strict.lua words it. */
int mk_unknown_field(lua_State *L, const char *type, bool set);
/* Defines a kind of userdata: metatable with methods reachable through __index. A field that is
 * neither there nor served by a metamethod of `meta` raises, read or written. */
void mk_new_type(lua_State *L, const char *type, const luaL_Reg *meta, const luaL_Reg *methods);
/* Gives the core, which is on top, what files export: each function, and each kind of objects, is
 * there when it is first asked for. */
void mk_open_exports(lua_State *L);
/* Pushes the metatable of a kind of objects; sets that of the object on top. */
void mk_push_type(lua_State *L, const char *type);
void mk_set_type(lua_State *L, const char *type);

#endif
