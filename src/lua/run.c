/* run.c - a VM runs, waits, pauses and ends. What scripts give is checked in Lua
 * (lua/minikvm/vm/init.lua), but for what is a method here. */
#include "debug/debug.h"
#include "io/tty.h"
#include "lua/core.h"
#include "vm/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* After a run: the terminal as it was, a close() that was put off, and the answer. */
static int finish(lua_State *L, struct mk_lua_vm *v)
{
    if (v->terminal)
        mk_tty_restore();
    int pushed = mk_push_result(L, v);
    if (v->close_later && v->busy == 0)
        mk_lua_close_vm(v);
    return pushed;
}

/* Returns false with nil, text, name pushed. */
static bool prepare(lua_State *L, struct mk_lua_vm *v, const char *what, struct mk_limits *limits)
{
    struct mk_err err;
    mk_check_stopped(L, v, what);
    *limits = mk_limits_field(L, 2, &v->limits);
    mk_forget_result(v);
    if (v->terminal && mk_tty_raw(STDIN_FILENO, &err) < 0) {
        mk_push_err(L, &err);
        return false;
    }
    return true;
}

/* run(vm, { seconds=, exits=, output= }) -> reason, info. Raises when there is nothing to run. */
static int run(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_limits limits;
    struct mk_lua_context context;
    struct mk_err err;
    mk_check_outside_handler(L, "run()");
    if (!prepare(L, v, "run", &limits))
        return 3;
    v->hook_before = lua_gethook(v->lua->main);
    v->in_run = true;
    v->busy++;
    mk_lua_begin_blocking(v->lua, &context);
    int rc = mk_vm_run(&v->vm, &limits, &err);
    mk_lua_end_blocking(v->lua, &context);
    v->in_run = false;
    v->busy--;
    if (rc < 0) {
        mk_tty_restore();
        return mk_lua_error(L, "%s", err.text);
    }
    return finish(L, v);
}

/* start(vm, { seconds=, exits=, output= }) -> vm */
static int start(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_limits limits;
    struct mk_err err;
    if (!prepare(L, v, "start", &limits))
        return 3;
    fflush(stdout);
    if (mk_vm_start(&v->vm, &limits, &err) < 0) {
        mk_tty_restore();
        return mk_lua_error(L, "%s", err.text);
    }
    lua_settop(L, 1);
    return 1;
}

/* Its state is a vCPU thread's business while it runs. */
static bool never_ran(struct mk_lua_vm *v)
{
    return mk_vm_wait(&v->vm, 0) && v->vm.state == MK_VM_IDLE;
}

/* wait(vm, seconds | nil) -> reason, info; or nil, "still running", "ETIMEDOUT" */
static int wait(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    uint64_t ns = mk_opt_seconds(L, 2);
    struct mk_err err;
    if (ns > 0)
        mk_check_outside_handler(L, "wait()");
    if (never_ran(v))
        return mk_lua_error(L, "wait: vm \"%s\" was never started", v->vm.name);
    if (mk_lua_wait_vm(L, v, ns, mk_vm_is_stopped, &v->vm))
        return finish(L, v);
    mk_fail(&err, ETIMEDOUT, "vm \"%s\" is still running", v->vm.name);
    return mk_push_err(L, &err);
}

/* vm:stop() -> reason, info. Inside a handler it only asks: the run ends when the handler is
 * done. */
static int vm_stop(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_vm_stop(&v->vm, MK_STOPPED);
    if (v->lua->handler || never_ran(v))
        return 0;
    mk_lua_wait_vm(L, v, MK_FOREVER, mk_vm_is_stopped, &v->vm);
    return finish(L, v);
}

/* vm:exit([code]): inside a handler of the VM, ends the run when the handler is done, as a guest
 * that writes `code` (0) to the exit port does. */
static int vm_exit(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    lua_Integer code = luaL_optinteger(L, 2, 0);
    int cpu = mk_lua_handler_cpu(v);
    if (cpu < 0)
        return mk_lua_error(
            L, "vm:exit: only a handler of the vm ends it with a code: vm:stop() ends it "
               "from outside");
    luaL_argcheck(L, code >= 0 && code <= UINT32_MAX, 2, "a code is 0 to 0xffffffff");
    mk_vcpu_end(&v->vm.cpu[cpu]->c, MK_EXIT, code, true, "the script ended it with %lld",
                (long long)code);
    return 0;
}

/* vm:crash("panic" or "shutdown", text): inside a handler of the VM, ends the run so when the
 * handler is done: a device was told that the guest is broken, or has reset the machine. */
static int vm_crash(lua_State *L)
{
    static const char *const names[] = { "panic", "shutdown", NULL };
    static const enum mk_reason reasons[] = { MK_PANIC, MK_SHUTDOWN };
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    enum mk_reason reason = reasons[luaL_checkoption(L, 2, NULL, names)];
    const char *text = luaL_checkstring(L, 3);
    int cpu = mk_lua_handler_cpu(v);
    if (cpu < 0)
        return mk_lua_error(L, "vm:crash: only a handler of the vm ends it so: vm:stop() ends it "
                               "from outside");
    mk_vcpu_end(&v->vm.cpu[cpu]->c, reason, 0, true, "%s", text);
    return 0;
}

/* vm:pause() -> vm | nil, text, name. Inside a handler it only asks. */
static int vm_pause(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    if (never_ran(v))
        return mk_lua_error(L, "pause: vm \"%s\" was never started", v->vm.name);
    if (v->in_run)
        return mk_lua_error(L,
                            "pause: vm \"%s\" is inside run(), and nobody could resume it: start() "
                            "it instead",
                            v->vm.name);
    struct mk_err err;
    bool runs = mk_vm_pause(&v->vm, MK_PAUSED_BY_SCRIPT);
    if (runs && !v->lua->handler) {
        mk_lua_wait_vm(L, v, MK_FOREVER, mk_vm_is_paused_or_stopped, &v->vm);
        runs = !mk_vm_wait(&v->vm, 0);
    }
    lua_settop(L, 1);
    if (runs)
        return 1;
    mk_fail(&err, ESRCH, "vm \"%s\" has ended", v->vm.name);
    return mk_push_err(L, &err);
}

/* vm:resume() -> vm */
static int vm_resume(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_lua_flush_output();
    if (!mk_vm_resume(&v->vm, MK_PAUSED_BY_SCRIPT))
        return mk_lua_error(L, "resume: vm \"%s\" is not paused%s", v->vm.name,
                            v->vm.paused ? ": its debugger holds it" : "");
    lua_settop(L, 1);
    return 1;
}

/* vm:irq(line [, level]): sets an input of the PIC; without a level it goes up and, when the guest
 * has taken the interrupt, down again. */
static int vm_irq(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    lua_Integer line = luaL_checkinteger(L, 2);
    luaL_argcheck(L, line >= 0 && line <= 15 && line != 2, 2, "a line is 0 to 15, not 2");
    if (!v->vm.has_pic)
        return mk_lua_error(L, "vm \"%s\" has no interrupt lines: create it with irqchip = \"pic\"",
                            v->vm.name);
    mk_lua_flush_output();
    if (lua_isnoneornil(L, 3))
        mk_pic_pulse(&v->vm.pic, (unsigned)line);
    else
        mk_pic_set_line(&v->vm.pic, (unsigned)line, lua_toboolean(L, 3));
    return 0;
}

/* collect_pic(vm): its interrupt controllers may hear of OUTs at the next exit. */
static int collect_pic(lua_State *L)
{
    mk_vm_collect_pic(&mk_check_vm(L, 1)->vm);
    return 0;
}

/* lose_ticks(vm): of its timer, those that the guest does not take in time. */
static int lose_ticks(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_check_stopped(L, v, "change the timer");
    v->vm.pit.lose_ticks = true;
    return 0;
}

/* vm:reset() -> vm: as after its load() calls. */
static int vm_reset(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    mk_check_stopped(L, v, "reset");
    if (mk_vm_reset(&v->vm, &err) < 0)
        return mk_push_err(L, &err);
    mk_forget_result(v);
    lua_settop(L, 1);
    return 1;
}

/* trace(vm, fn(cpu, kind, ns, exits, rip, linear, address, size, value, text) | nil, times, steps)
 * -> true | nil, why, code: of events as in trace.h; with `times`, when exits have been served,
 * too, with `steps` of every instruction. Takes effect at once, also while the VM runs. */
static int set_trace(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    bool times = lua_toboolean(L, 3), steps = lua_toboolean(L, 4);
    struct mk_err err;
    lua_settop(L, 2);
    if (mk_debug_trace(&v->vm, steps, &err) < 0)
        return mk_push_err(L, &err);
    int old = v->trace_ref;
    v->trace_ref = lua_isnil(L, 2) ? 0 : mk_lua_ref(L, 1, 2);
    v->vm.tracing = !v->trace_ref ? 0 : times ? MK_TRACE_EVENTS | MK_TRACE_TIMES : MK_TRACE_EVENTS;
    if (old)
        mk_lua_unref(L, 1, old);
    lua_pushboolean(L, 1);
    return 1;
}

static const luaL_Reg methods[] = { { "stop", vm_stop },     { "exit", vm_exit },
                                    { "crash", vm_crash },   { "reset", vm_reset },
                                    { "irq", vm_irq },       { "pause", vm_pause },
                                    { "resume", vm_resume }, MK_END };
static const luaL_Reg core[] = {
    MK_FN(run),        MK_FN(start),       MK_FN(wait), { "trace", set_trace },
    MK_FN(lose_ticks), MK_FN(collect_pic), MK_END
};

MK_EXPORTS = { { .extends = MK_VM, .methods = methods, .core = core } };
