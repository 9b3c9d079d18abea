/* vm.c - the VM object: life, loading, running, results. Option tables are checked in Lua
 * (lua/minikvm/vm/init.lua); these functions take tables that are known to be right. */
#include "base/abi.h"
#include "debug/debug.h"
#include "io/tty.h"
#include "lua/core.h"
#include "vm/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- checked tables --- */

static enum mk_mode mode_field(lua_State *L, int index)
{
    const char *name = mk_string_field(L, index, "mode", NULL);
    for (int i = 0; name && i < MK_MODES; i++)
        if (strcmp(mk_lua_modes[i], name) == 0)
            return (enum mk_mode)i;
    return MK_MODE_REAL;
}

static uint64_t seconds_to_ns(lua_Number seconds)
{
    return seconds < 0 || seconds > 1e9 ? MK_FOREVER : (uint64_t)(seconds * 1e9);
}

/* limits of table `index`, or those of `base` where it has none. */
static struct mk_limits limits_field(lua_State *L, int index, const struct mk_limits *base)
{
    struct mk_limits limits = *base;
    if (lua_getfield(L, index, "seconds") != LUA_TNIL)
        limits.ns = seconds_to_ns(lua_tonumber(L, -1));
    lua_pop(L, 1);
    limits.exits = (uint64_t)mk_integer_field(L, index, "exits", (lua_Integer)base->exits);
    limits.output = (uint64_t)mk_integer_field(L, index, "output", (lua_Integer)base->output);
    return limits;
}

/* A handler's time: seconds, or false for as long as it likes. */
static uint64_t handler_field(lua_State *L, int index)
{
    int type = lua_getfield(L, index, "handler");
    uint64_t ns = type == LUA_TNUMBER ? seconds_to_ns(lua_tonumber(L, -1))
                  : type == LUA_TNIL  ? MK_HANDLER_NS
                                      : MK_FOREVER;
    lua_pop(L, 1);
    return ns;
}

/* --- callbacks of the core --- */

static bool interrupted(void *ctx)
{
    const struct mk_lua_vm *v = ctx;
    return atomic_load(&v->lua->ending) ||
           (v->in_run && mk_lua_interrupted(v->lua, v->hook_before));
}

static void trace(void *ctx, struct mk_vcpu *cpu, const struct mk_trace *event)
{
    struct mk_lua_vm *v = ctx;
    const char *text = "";
    size_t length = 0;
    if (event->kind == MK_TRACE_END)
        length = strlen(text = mk_reason_name((enum mk_reason)event->value));
    else if (event->kind == MK_TRACE_STEP)
        text = event->bytes, length = event->size;
    mk_lua_notify(v, cpu->cpu.index, "the trace function", &v->trace_ref, "iiiiiiiiis",
                  (uint64_t)cpu->cpu.index, (uint64_t)event->kind, event->time, cpu->counters.exits,
                  event->rip, event->linear, event->address, (uint64_t)event->size, event->value,
                  text, length);
}

static const struct mk_vm_ops vm_ops = { .interrupted = interrupted,
                                         .trace = trace,
                                         .overdue = mk_lua_overdue,
                                         .kicked = mk_lua_kicked,
                                         .attend = mk_lua_attend };

/* --- life --- */

static bool in_own_handler(const struct mk_lua_vm *v)
{
    return v->lua->handler && v->lua->handler->v == v;
}

/* Handlers that have given the Lua lock up come back for it, to be ended. */
static void end_waiting(struct mk_lua_vm *v)
{
    struct mk_lua_context context;
    mk_vm_stop(&v->vm, MK_STOPPED);
    mk_lua_begin_blocking(v->lua, &context);
    mk_vm_wait(&v->vm, MK_FOREVER);
    mk_lua_end_blocking(v->lua, &context);
}

/* Frees what the box holds. The Lua lock stays ours: handlers that would begin give up. */
static void close_box(struct mk_lua_vm *v)
{
    if (!v->open)
        return;
    pthread_mutex_lock(&v->lua->mutex);
    v->closing = true;
    pthread_cond_broadcast(&v->lua->handler_turn);
    pthread_mutex_unlock(&v->lua->mutex);
    v->busy++; /* a collection meanwhile leaves it alone */
    if (v->waiting)
        end_waiting(v);
    v->busy--;
    int in_fd = v->vm.console.in.fd;
    mk_lua_close_virtio(v); /* others may send to its cards */
    mk_lua_close_gdbs(v);
    mk_lua_close_coverages(v);
    mk_vm_close(&v->vm);
    if (in_fd > STDERR_FILENO)
        close(in_fd);
    if (v->output_file)
        close(v->output_file);
    if (v->terminal)
        mk_tty_restore();
    mk_lua_free_calls(v);
    mk_lua_free_files(v);
    mk_lua_close_disks(v);
    mk_lua_free_breaks(v);
    mk_lua_free_watchpoints(v);
    mk_lua_free_branches(v);
    for (unsigned i = 0; i < v->cpus; i++)
        free(v->cpu[i]->traceback);
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        free(v->cpu[i]);
    v->cpus = 0;
    v->open = false;
}

static int vm_close(lua_State *L)
{
    struct mk_lua_vm *v = luaL_testudata(L, 1, MK_VM);
    if (!v)
        mk_check_vm(L, 1); /* raises */
    if (v->open && (v->busy || in_own_handler(v))) {
        v->close_later = true; /* its guest is waiting for the handler that called us */
        mk_vm_stop(&v->vm, MK_STOPPED);
    } else {
        close_box(v);
    }
    return 0;
}

/* A collection may start inside a handler of the very VM that is garbage. Then it is only stopped,
 * and marked to be finalized again. One that the script waits for is garbage only at os.exit(). */
static int vm_gc(lua_State *L)
{
    struct mk_lua_vm *v = lua_touserdata(L, 1);
    if (v->open && (in_own_handler(v) || v->busy)) {
        mk_vm_stop(&v->vm, MK_STOPPED);
        luaL_setmetatable(L, MK_VM);
    } else {
        close_box(v);
    }
    return 0;
}

static lua_State *new_thread(lua_State *L, int table)
{
    lua_State *thread = lua_newthread(L);
    luaL_ref(L, table);
    return thread;
}

/* The handlers' side of the next vCPU: a coroutine. Those and the anchor are kept alive by the VM's
 * user value, not by the registry, so that a VM nobody knows can be collected. It counts when all
 * is there: Lua may run out of memory. */
static bool make_cpu(lua_State *L, struct mk_lua_vm *v, int vm_index)
{
    unsigned index = v->cpus;
    struct mk_lua_cpu *lc = v->cpu[index] ? v->cpu[index] : calloc(1, sizeof(*lc));
    if (!lc || !lua_checkstack(v->anchor, LUA_MINSTACK))
        return false;
    v->cpu[index] = lc;
    lua_getiuservalue(L, vm_index, 1);
    *lc = (struct mk_lua_cpu){ .v = v, .index = index, .co = new_thread(L, lua_gettop(L)) };
    lua_getfield(L, -1, "cpu");
    mk_push_cpu(L, vm_index, index);
    lua_rawseti(L, -2, index);
    mk_push_next(L, vm_index, index);
    lua_xmove(L, v->anchor, 1);
    v->cpus++;
    lua_pop(L, 2);
    return true;
}

/* The anchor, with what handlers need. */
static void make_anchor(lua_State *L, struct mk_lua_vm *v, int vm_index)
{
    lua_getiuservalue(L, vm_index, 1);
    v->anchor = new_thread(L, lua_gettop(L));
    lua_pushvalue(L, vm_index);
    lua_pushvalue(L, -2);
    lua_xmove(L, v->anchor, 2);
    lua_pop(L, 1);
}

static bool make_cpus(lua_State *L, struct mk_lua_vm *v, int vm_index, struct mk_err *err)
{
    while (v->cpus < v->vm.cpus)
        if (!make_cpu(L, v, vm_index)) {
            mk_fail_errno(err, ENOMEM, "vCPU %u", v->cpus);
            return false;
        }
    return true;
}

/* add_cpu(vm) -> number of the new vCPU | nil, text, name. Raises while it runs. */
static int add_cpu(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    mk_check_stopped(L, v, "vm:add_cpu");
    mk_check_cpus(L, v);
    if ((v->cpus == v->vm.cpus && mk_vm_add_cpu(&v->vm, &err) < 0) || !make_cpus(L, v, 1, &err))
        return mk_push_err(L, &err);
    lua_pushinteger(L, v->cpus - 1);
    return 1;
}

static void make_children(lua_State *L, struct mk_lua_vm *v, int vm_index)
{
    static const char *const kinds[][2] = {
        { "memory", MK_MEMORY },   { "ports", MK_PORTS },    { "mmio", MK_MMIO },
        { "msrs", MK_MSRS },       { "cpuid", MK_CPUID },    { "hypercalls", MK_HYPERCALLS },
        { "console", MK_CONSOLE }, { "clock", MK_CLOCK },    { "keyboard", MK_KEYBOARD },
        { "symbols", MK_SYMBOLS }, { "files", MK_VM_FILES }, { "pci", MK_PCI }
    };
    lua_getiuservalue(L, vm_index, 1);
    for (size_t i = 0; i < MK_COUNT(kinds); i++) {
        mk_new_child(L, vm_index, 0, kinds[i][1]);
        lua_setfield(L, -2, kinds[i][0]);
    }
    lua_createtable(L, (int)v->vm.cpus, 1);
    lua_setfield(L, -2, "cpu");
    lua_pop(L, 1);
}

static int open_kvm(struct mk_lua *lua, struct mk_err *err)
{
    if (lua->kvm_open)
        return 0;
    if (mk_io_ref(err) <
        0) /* until the state is closed: starting it takes longer than a VM's run */
        return -1;
    lua->kvm_open = mk_kvm_open(&lua->kvm, err) == 0;
    if (!lua->kvm_open)
        mk_io_unref();
    return lua->kvm_open ? 0 : -1;
}

static void connect(struct mk_lua_vm *v, bool echo)
{
    v->vm.ops = &vm_ops;
    v->vm.ctx = v;
    v->vm.console.out_fd = echo ? STDOUT_FILENO : -1;
    v->vm.console.on_line = mk_lua_line;
    v->vm.console.line_ctx = v;
    v->vm.hypercall.other = mk_lua_hypercall;
    v->vm.hypercall.ctx = v;
    mk_lua_connect_unhandled(v);
}

/* The configuration that the options at index 1 say, and the snapshot that it is to be made from.
 */
static struct mk_vm_config read_config(lua_State *L, const struct mk_snapshot *snap)
{
    struct mk_vm_config config = {
        .name = mk_string_field(L, 1, "name", NULL),
        .mode = mode_field(L, 1),
        .memory = (uint64_t)mk_integer_field(L, 1, "memory", 0),
        .cpus = (unsigned)mk_integer_field(L, 1, "cpus", 1),
        .coalesce = mk_true_field(L, 1, "coalesce"),
        .unhandled_fault = mk_true_field(L, 1, "fatal"),
        .mode_open = mk_true_field(L, 1, "mode_open"),
        .memory_open = mk_true_field(L, 1, "memory_open"),
        .pic = mk_true_field(L, 1, "pic"),
        .assist = mk_true_field(L, 1, "assist"),
        .mapping = { .large = mk_true_field(L, 1, "large"),
                     .size = (uint64_t)mk_integer_field(L, 1, "map_size", 0),
                     .base = (uint64_t)mk_integer_field(L, 1, "map_base", 0),
                     .io = (uint64_t)mk_integer_field(L, 1, "map_io", 0) },
        .boot_features = mk_true_field(L, 1, "uart") ? MK_BOOT_UART : 0,
        .command_line = mk_string_field(L, 1, "cmdline", NULL),
        .files = mk_files_field(L, 1)
    };
    if (snap) {
        config.ram = snap->ram;
        config.regions = snap->config.regions;
        config.region_count = snap->config.region_count;
        config.mapping = snap->config.mapping;
        config.places = snap->config.places;
        config.command_line = snap->config.command_line;
    }
    return config;
}

/* Pushes a VM that is not open yet. */
static struct mk_lua_vm *push_vm(lua_State *L, struct mk_lua *lua)
{
    static const struct mk_limits none = { MK_FOREVER, MK_FOREVER, MK_FOREVER };
    struct mk_lua_vm *v = lua_newuserdatauv(L, sizeof(*v), 1);
    memset(v, 0, sizeof(*v));
    v->lua = lua;
    v->limits = limits_field(L, 1, &none);
    v->handler_ns = handler_field(L, 1);
    if (v->handler_ns > lua->handler_most)
        v->handler_ns = lua->handler_most;
    lua_createtable(L, 4, 6);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, MK_VM);
    return v;
}

static bool load_into_new(struct mk_lua_vm *v, struct mk_snapshot *snap, struct mk_err *err)
{
    return (!snap->cpuid || mk_vm_set_cpuid(&v->vm, snap->cpuid, err) == 0) &&
           mk_snapshot_restore(snap, &v->vm, true, err) == 0;
}

/* new_vm(options) -> vm | nil, text, name */
static int new_vm(lua_State *L)
{
    struct mk_err err;
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_snapshot *snap = mk_snapshot_field(L, 1);
    struct mk_vm_config config = read_config(L, snap);
    if (open_kvm(lua, &err) < 0)
        return mk_push_err(L, &err);
    struct mk_lua_vm *v = push_vm(L, lua);
    int vm_index = lua_gettop(L);
    if (mk_vm_open(&v->vm, &lua->kvm, &config, &err) < 0)
        return mk_push_err(L, &err);
    v->open = true;
    make_anchor(L, v, vm_index);
    make_children(L, v, vm_index);
    bool made = make_cpus(L, v, vm_index, &err);
    if (made) {
        connect(v, mk_true_field(L, 1, "echo"));
        mk_lua_connect_files(L, v, vm_index, 1);
        lua_settop(L, vm_index);
        made = !snap || load_into_new(v, snap, &err);
    }
    if (made)
        return 1;
    close_box(v);
    return mk_push_err(L, &err);
}

/* --- running --- */

/* After a run: the terminal as it was, a close() that was put off, and the answer. */
static int finish(lua_State *L, struct mk_lua_vm *v)
{
    if (v->terminal)
        mk_tty_restore();
    int pushed = mk_push_result(L, v);
    if (v->close_later && v->busy == 0)
        close_box(v);
    return pushed;
}

/* Returns false with nil, text, name pushed. */
static bool prepare(lua_State *L, struct mk_lua_vm *v, const char *what, struct mk_limits *limits)
{
    struct mk_err err;
    mk_check_stopped(L, v, what);
    *limits = limits_field(L, 2, &v->limits);
    for (unsigned i = 0; i < v->cpus; i++) {
        free(v->cpu[i]->traceback);
        v->cpu[i]->traceback = NULL;
        v->cpu[i]->waiting[0] = 0;
        v->cpu[i]->set = NULL;
    }
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

/* Gives the lock up until done(vm), `ns` have passed or Ctrl-C came. */
static bool wait_for(lua_State *L, struct mk_lua_vm *v, bool (*done)(void *vm), uint64_t ns)
{
    struct mk_wait wait = mk_vm_wait_for(&v->vm, done, &v->vm);
    v->busy++;
    bool is = mk_lua_wait(L, ns, &wait);
    v->busy--;
    return is;
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
    if (ns > 0)
        mk_check_outside_handler(L, "wait()");
    if (never_ran(v))
        return mk_lua_error(L, "wait: vm \"%s\" was never started", v->vm.name);
    if (wait_for(L, v, mk_vm_is_stopped, ns))
        return finish(L, v);
    luaL_pushfail(L);
    lua_pushfstring(L, "vm \"%s\" is still running", v->vm.name);
    lua_pushstring(L, "ETIMEDOUT");
    return 3;
}

/* vm:stop() -> reason, info. Inside a handler it only asks: the run ends when the handler is
 * done. */
static int vm_stop(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_vm_stop(&v->vm, MK_STOPPED);
    if (v->lua->handler || never_ran(v))
        return 0;
    wait_for(L, v, mk_vm_is_stopped, MK_FOREVER);
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
    bool runs = mk_vm_pause(&v->vm);
    if (runs && !v->lua->handler) {
        wait_for(L, v, mk_vm_is_paused_or_stopped, MK_FOREVER);
        runs = !mk_vm_wait(&v->vm, 0);
    }
    lua_settop(L, 1);
    if (runs)
        return 1;
    luaL_pushfail(L);
    lua_pushfstring(L, "vm \"%s\" has ended", v->vm.name);
    lua_pushstring(L, "ESRCH");
    return 3;
}

/* vm:resume() -> vm */
static int vm_resume(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_lua_flush_output();
    if (!mk_vm_resume(&v->vm))
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
    for (unsigned i = 0; i < v->cpus; i++)
        v->cpu[i]->set = NULL;
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

/* --- the object --- */

static int vm_index(lua_State *L)
{
    static const char *const states[] = { "idle", "running", "ended" };
    struct mk_lua_vm *v = luaL_checkudata(L, 1, MK_VM);
    const char *key = luaL_checkstring(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    if (strcmp(key, "name") == 0) {
        lua_pushstring(L, v->vm.name);
    } else if (strcmp(key, "mode") == 0) {
        lua_pushstring(L, mk_lua_modes[v->vm.mode]);
    } else if (strcmp(key, "state") == 0) {
        lua_pushstring(L, !v->open ? "closed"
                          : mk_vm_is_paused(&v->vm)
                              ? "paused"
                              : states[mk_vm_wait(&v->vm, 0) ? v->vm.state : MK_VM_RUNNING]);
    } else {
        lua_getiuservalue(L, 1, 1);
        lua_pushvalue(L, 2);
        lua_rawget(L, -2);
        if (lua_isnil(L, -1) || lua_type(L, 2) != LUA_TSTRING)
            return mk_unknown_field(L, MK_VM, false);
    }
    return 1;
}

static int vm_tostring(lua_State *L)
{
    struct mk_lua_vm *v = luaL_checkudata(L, 1, MK_VM);
    lua_pushfstring(L, MK_VM " \"%s\"%s", v->vm.name, v->open ? "" : " (closed)");
    return 1;
}

void mk_open_vm(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__index", vm_index },
                                     { "__gc", vm_gc },
                                     { "__close", vm_close },
                                     { "__tostring", vm_tostring },
                                     { NULL, NULL } };
    static const luaL_Reg methods[] = { { "close", vm_close }, { "stop", vm_stop },
                                        { "exit", vm_exit },   { "crash", vm_crash },
                                        { "reset", vm_reset }, { "irq", vm_irq },
                                        { "pause", vm_pause }, { "resume", vm_resume },
                                        { NULL, NULL } };
    static const luaL_Reg core[] = { { "new_vm", new_vm },
                                     { "run", run },
                                     { "start", start },
                                     { "wait", wait },
                                     { "trace", set_trace },
                                     { "add_cpu", add_cpu },
                                     { "lose_ticks", lose_ticks },
                                     { "collect_pic", collect_pic },
                                     { NULL, NULL } };
    mk_new_type(L, MK_VM, meta, methods);
    luaL_setfuncs(L, core, 0); /* into the core table on top */
}
