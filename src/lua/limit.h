/* limit.h - what ends Lua code that does not end by itself.
 *
 * A watchdog watches a call into Lua that has a limit. The I/O thread checks it now and then;
 * when the call is due, it signals the thread that makes it, and the signal's handler arms a hook
 * on the coroutine that runs, which raises at the next instruction. It stays armed until the call
 * is unwound, so that pcall() catches it and is raised at again. Before a call is due this costs a
 * few stores.
 *
 * A coroutine that runs is found from the one that resumed it: that one is inside coroutine.resume,
 * wrap or close, whose argument or upvalue it is. C code that resumes coroutines in other ways is
 * not seen into. No hook gets into a C function that takes long, or into a finalizer; nor, unless
 * mk_coroutine_open() was there, into what Lua runs while it handles the hook's own error: an
 * xpcall()'s message handler, a variable that coroutine.wrap() closes.
 * A system call that blocks is broken off: while a call is due, the signal does not restart it. */
#ifndef MK_LUA_LIMIT_H
#define MK_LUA_LIMIT_H

#include "base/util.h"

#include "dev/dev.h"

#include <lua.h>
#include <stdatomic.h>

#define MK_HANDLER_NS                                                                              \
    UINT64_C(10000000000)      /* a handler's time unless the script says otherwise                \
                                */
#define MK_GRACE_NS 300000000u /* a handler has so long after a stop, the deadline or Ctrl-C */

struct mk_lua;
struct mk_lua_vm;
struct mk_vcpu;

enum mk_due {
    MK_DUE_NOT,
    MK_DUE_HANDLER,  /* its own time is up */
    MK_DUE_DEADLINE, /* the run's is */
    MK_DUE_STOP,     /* vm:stop(), Ctrl-C, a worker's close() */
};

struct mk_watchdog {
    /* Written by the thread that makes the call. */
    _Atomic unsigned depth;  /* calls in progress, one inside the other; 0: nothing to end */
    _Atomic unsigned calls;  /* outermost ones so far: names the one in progress */
    _Atomic uint64_t used;   /* ns of it, before it waited */
    _Atomic enum mk_due due; /* it is being ended */
    volatile bool raised;    /* the hook has been there; `text` is set */
    volatile unsigned armed; /* times, since it was there last */
    bool interrupts;         /* mk_kick_interrupt_syscalls() was called for it */
    lua_State *co;           /* of the outermost call */
    char text[200];          /* where it was and why it ended */
    /* Written by the I/O thread. */
    _Atomic unsigned seen;     /* the call it looked at last, */
    _Atomic uint64_t since;    /* mk_now() of its first look at that, less `used` */
    uint64_t asked;            /* of the first look that saw a wish to end */
    _Atomic unsigned due_call; /* shall end: */
    _Atomic enum mk_due why;
    _Atomic uint64_t ran; /* ns, when it was found due */
};

/* Around a protected call into `co`. */
void mk_watchdog_enter(struct mk_lua *lua, struct mk_watchdog *g, lua_State *co);
void mk_watchdog_leave(struct mk_watchdog *g, lua_State *co);
/* The call waits, and others may be made; it goes on after `ns`, which do not count, and is due
 * when a reason came to end it. */
void mk_watchdog_suspend(struct mk_watchdog *g, struct mk_watchdog *kept);
void mk_watchdog_resume(struct mk_watchdog *g, const struct mk_watchdog *kept, uint64_t ns,
                        enum mk_reason reason);
/* What runs in `L` ends at its next instruction. */
void mk_watchdog_arm(lua_State *L);

/* The same for the whole script of a worker, whose watchdog is due: blocking calls return, too. */
void mk_watchdog_end_script(struct mk_lua *lua, struct mk_watchdog *g);

/* The core's questions (vm.h): on the I/O thread; in a signal handler on the vCPU's thread. */
bool mk_lua_overdue(void *ctx, struct mk_vcpu *c);
void mk_lua_kicked(void *ctx, struct mk_vcpu *c);
/* After a handler's call failed: ends the VM when that was because it was due. */
bool mk_limit_end_vm(struct mk_lua_vm *v, unsigned cpu);
/* Notes which instruction of the guest waits for the handler that failed. */
void mk_limit_describe(struct mk_lua_vm *v, unsigned cpu);

/* Replaces coroutine.wrap and xpcall of a state that is our own. */
void mk_coroutine_open(lua_State *L);

#endif
