/* vm.c - the VM object and its life. Option tables are checked in Lua
 * (lua/minikvm/vm/init.lua); these functions take tables that are known to be right. */
#include "debug/instruction.h"
#include "io/tty.h"
#include "lua/core.h"
#include "vm/trace.h"

#include <errno.h>
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

struct mk_limits mk_limits_field(lua_State *L, int index, const struct mk_limits *base)
{
    struct mk_limits limits = *base;
    if (lua_getfield(L, index, "seconds") != LUA_TNIL)
        limits.ns = mk_to_ns(lua_tonumber(L, -1));
    lua_pop(L, 1);
    limits.exits = (uint64_t)mk_integer_field(L, index, "exits", (lua_Integer)base->exits);
    limits.output = (uint64_t)mk_integer_field(L, index, "output", (lua_Integer)base->output);
    return limits;
}

/* A handler's time: seconds, or false for as long as it likes. */
static uint64_t handler_field(lua_State *L, int index)
{
    int type = lua_getfield(L, index, "handler");
    uint64_t ns = type == LUA_TNUMBER ? mk_to_ns(lua_tonumber(L, -1))
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
    struct kvm_sregs s;
    if (event->kind == MK_TRACE_SERVED && !(v->vm.tracing & MK_TRACE_TIMES))
        return;
    uint64_t now = mk_now(), rip = mk_access_rip(cpu);
    uint64_t linear = mk_vcpu_get_guest_sregs(cpu, &s) == 0 ? mk_code_address(&s, rip) : rip;
    if (event->kind == MK_TRACE_END)
        length = strlen(text = mk_reason_name((enum mk_reason)event->value));
    else if (event->kind == MK_TRACE_STEP)
        text = event->bytes, length = event->size;
    mk_lua_notify(v, cpu->cpu.index, "the trace function", &v->trace_ref, "iiiiiiiiis",
                  (uint64_t)cpu->cpu.index, (uint64_t)event->kind, now, cpu->counters.exits, rip,
                  linear, event->address, (uint64_t)event->size, event->value, text, length);
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

void mk_lua_close_vm(struct mk_lua_vm *v)
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
    while (v->members)
        v->members->close(v->members);
    mk_vm_close(&v->vm);
    if (in_fd > STDERR_FILENO)
        close(in_fd);
    if (v->input_before.fd > STDERR_FILENO) /* closed in the user's turn */
        close(v->input_before.fd);
    if (v->output_file)
        close(v->output_file);
    if (v->terminal)
        mk_tty_restore();
    mk_lua_free_files(v);
    mk_lua_free_stoppers(v);
    mk_lua_free_branches(v);
    mk_forget_result(v);
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
        mk_lua_close_vm(v);
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
        mk_set_type(L, MK_VM);
    } else {
        mk_lua_close_vm(v);
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
    lua_pushliteral(L, "read"); /* for taps */
    lua_pushliteral(L, "write");
    lua_xmove(L, v->anchor, MK_AT_NEXT - 1);
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
    mk_set_type(L, MK_CPUS);
    lua_setfield(L, -2, "cpu");
    lua_pop(L, 1);
}

static int open_kvm(struct mk_lua *lua, struct mk_err *err)
{
    if (lua->kvm_open)
        return 0;
    if (mk_io_ref(err) < 0) /* until the state is closed: starting it takes longer than a run */
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
        config.slots_later = snap->state.paging;
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
    v->limits = mk_limits_field(L, 1, &none);
    v->handler_ns = handler_field(L, 1);
    if (v->handler_ns > lua->handler_most)
        v->handler_ns = lua->handler_most;
    lua_createtable(L, 4, 6);
    lua_setiuservalue(L, -2, 1);
    mk_set_type(L, MK_VM);
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
    mk_lua_close_vm(v);
    return mk_push_err(L, &err);
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

static const luaL_Reg meta[] = {
    { "__index", vm_index }, { "__gc", vm_gc }, { "__close", vm_close }, MK_END
};
static const luaL_Reg methods[] = { { "close", vm_close }, MK_END };
static const luaL_Reg core[] = { MK_FN(new_vm), MK_FN(add_cpu), MK_END };

MK_EXPORTS = { { .type = MK_VM, .meta = meta, .methods = methods, .core = core } };
