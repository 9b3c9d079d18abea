/* core.c - see core.h. */
#include "lua/core.h"
#include "lua/hooks.h"

#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char registry_key;

/* --- the Lua lock --- */

static void *free_nothing(void *ud, void *block, size_t old_size, size_t new_size)
{
    (void)ud, (void)block, (void)old_size, (void)new_size;
    return NULL;
}

/* The last of our objects to go, with the state. os.exit(code, true) in a handler closes the state
 * while other threads still use what it holds: then it stays, and the process ends next. */
static int lua_state_gc(lua_State *L)
{
    struct mk_lua *lua = lua_touserdata(L, 1);
    if (lua->handler) {
        lua_setallocf(L, free_nothing, NULL);
        return 0;
    }
    mk_script_free(lua);
    if (lua->kvm_open)
        mk_kvm_close(&lua->kvm);
    lua->kvm_open = false;
    return 0;
}

/* What lua_gethook() answers for a hook that a script has set itself; NULL without debug
 * library. */
static lua_Hook find_script_hook(lua_State *L)
{
    lua_Hook hook = NULL;
    lua_State *co = lua_newthread(L);
    if (lua_getglobal(co, "debug") == LUA_TTABLE &&
        lua_getfield(co, -1, "sethook") == LUA_TFUNCTION) {
        lua_pushvalue(co, -1);
        lua_pushliteral(co, "c");
        if (lua_pcall(co, 2, 0, 0) == LUA_OK)
            hook = lua_gethook(co);
        lua_sethook(co, NULL, 0, 0);
    }
    lua_pop(L, 1);
    return hook;
}

static struct mk_lua *lua_new(lua_State *L)
{
    struct mk_lua *lua = lua_newuserdatauv(L, sizeof(*lua), 0);
    *lua = (struct mk_lua){ .handler_most = MK_FOREVER, .held = true, .kvm.fd = -1 };
    pthread_mutex_init(&lua->mutex, NULL);
    pthread_cond_init(&lua->script_turn, NULL);
    pthread_cond_init(&lua->handler_turn, NULL);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, lua_state_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &registry_key);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    lua->main = lua->base = lua_tothread(L, -1);
    lua_pop(L, 1);
    lua_pushliteral(L, "error in error handling"); /* Lua makes this one outside a protected call */
    lua_rawsetp(L, LUA_REGISTRYINDEX, lua);
    lua->script_hook = find_script_hook(L);
    return lua;
}

struct mk_lua *mk_lua_get(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &registry_key);
    struct mk_lua *lua = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return lua ? lua : lua_new(L);
}

/* --- the Lua lock ---
 *
 * Free most of the time: then one exchange takes it and one store gives it back. Who has to wait
 * counts itself as waiting before it tries again, and who gives up looks for such after that: either
 * the one sees the lock free, or the other sees somebody wait. */

static bool take(struct mk_lua *lua)
{
    return !atomic_exchange(&lua->held, true);
}

static void pass_on(struct mk_lua *lua)
{
    pthread_mutex_lock(&lua->mutex);
    if (lua->script_waits)
        pthread_cond_signal(&lua->script_turn);
    else if (lua->handler_waits)
        pthread_cond_signal(&lua->handler_turn);
    pthread_mutex_unlock(&lua->mutex);
}

static void give_up(struct mk_lua *lua)
{
    atomic_store(&lua->held, false);
    if (lua->script_waits || lua->handler_waits)
        pass_on(lua);
}

/* What Lua code printed comes before what guests print now. */
void mk_lua_flush_output(void)
{
    if (__fpending(stdout))
        fflush(stdout);
}

void mk_lua_release(struct mk_lua *lua, struct mk_turn *turn)
{
    *turn = (struct mk_turn){ lua->base, lua->guard, lua->handler };
    mk_lua_flush_output();
    if (turn->handler)
        turn->handler->waits = true;
    else
        lua->away = true;
    give_up(lua);
}

/* The script goes first: handlers of busy guests would keep it out for long otherwise. So does a
 * handler that has waited. */
void mk_lua_acquire(struct mk_lua *lua, const struct mk_turn *turn)
{
    pthread_mutex_lock(&lua->mutex);
    lua->script_waits++;
    while (!take(lua))
        pthread_cond_wait(&lua->script_turn, &lua->mutex);
    lua->script_waits--;
    pthread_mutex_unlock(&lua->mutex);
    lua->base = turn->base;
    lua->guard = turn->guard;
    lua->handler = turn->handler;
    if (turn->handler)
        turn->handler->waits = false;
    else
        lua->away = false;
}

/* Interpreters turn Ctrl-C into a hook on every event, which raises at the script's next step. It
 * may have been set when the call had begun but not yet looked at `before`. */
bool mk_lua_interrupted(const struct mk_lua *lua, lua_Hook before)
{
    if (atomic_load(&lua->ending))
        return true;
    const int every = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
    lua_Hook hook = lua_gethook(lua->main);
    return hook != before || (hook && hook != lua->script_hook &&
                              lua_gethookmask(lua->main) == every &&
                              lua_gethookcount(lua->main) == 1);
}

int mk_lua_handler_cpu(const struct mk_lua_vm *v)
{
    const struct mk_lua_cpu *handler = v->lua->handler;
    return handler && handler->v == v ? (int)(handler - v->cpu) : -1;
}

void mk_lua_no_handler(lua_State *L, const char *what)
{
    if (mk_lua_get(L)->handler)
        mk_misuse(L, "%s would block inside a handler: a guest is waiting for its answer; set a "
                      "variable here and do it after the run, or in another thread's turn", what);
}

static bool wait_for_turn(struct mk_lua_vm *v)
{
    struct mk_lua *lua = v->lua;
    bool mine = false;
    pthread_mutex_lock(&lua->mutex);
    lua->handler_waits++;
    while (!v->closing && !(mine = !lua->script_waits && take(lua)))
        pthread_cond_wait(&lua->handler_turn, &lua->mutex);
    lua->handler_waits--;
    if (!mine && !lua->held && lua->handler_waits) /* pass on the turn that woke us */
        pthread_cond_signal(&lua->handler_turn);
    pthread_mutex_unlock(&lua->mutex);
    return mine;
}

static bool acquire_for_handler(struct mk_lua_vm *v)
{
    struct mk_lua *lua = v->lua;
    if (atomic_load_explicit(&v->closing, memory_order_relaxed))
        return false;
    return (!lua->script_waits && take(lua)) || wait_for_turn(v);
}

/* --- waiting --- */

struct waiting {
    struct mk_lua *lua;
    lua_Hook before;
};

static bool interrupted(void *ctx)
{
    const struct waiting *w = ctx;
    return mk_lua_interrupted(w->lua, w->before);
}

static bool wait_as_script(struct mk_lua *lua, uint64_t ns, const struct mk_wait *wait)
{
    struct waiting w = { lua, lua_gethook(lua->main) };
    struct mk_wait own = *wait;
    own.interrupted = interrupted;
    own.interrupted_ctx = &w;
    return mk_wait(&own, mk_time_in(ns));
}

static bool wait_as_handler(struct mk_lua_cpu *lc, uint64_t ns, const struct mk_wait *wait)
{
    struct mk_vcpu *c = &lc->v->vm.cpu[lc - lc->v->cpu];
    struct mk_guard before;
    uint64_t began = mk_now();
    enum mk_reason reason = MK_RUNNING;
    mk_guard_suspend(&lc->guard, &before);
    bool over = mk_vcpu_wait(c, mk_time_in(ns), wait, &reason);
    mk_guard_resume(&lc->guard, &before, mk_now() - began, reason);
    return over;
}

bool mk_lua_wait(lua_State *L, uint64_t ns, const struct mk_wait *wait)
{
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_turn turn;
    struct mk_lua_vm *v = lua->handler ? lua->handler->v : NULL;
    if (ns == 0)
        return mk_wait(wait, 0);
    if (v)
        v->waiting++;
    mk_lua_release(lua, &turn);
    bool over = v ? wait_as_handler(turn.handler, ns, wait) : wait_as_script(lua, ns, wait);
    mk_lua_acquire(lua, &turn);
    if (v)
        v->waiting--;
    if (v && turn.guard->due)
        mk_guard_arm(L);
    return over;
}

/* --- the gate --- */

/* Keeps message and traceback of the first failure; runs as the message handler, on the failing
 * stack. */
static int describe_error(lua_State *L)
{
    const char *text = luaL_tolstring(L, 1, NULL);
    luaL_traceback(L, L, text, 1);
    return 1;
}

void mk_lua_push_handler(struct mk_lua_vm *v, lua_State *co, int ref)
{
    lua_rawgeti(v->anchor, MK_AT_HANDLERS, ref);
    lua_xmove(v->anchor, co, 1);
}

void mk_lua_blame(struct mk_lua_vm *v, unsigned cpu, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    v->vm.cpu[cpu].end.reason = MK_RUNNING; /* also when it has ended: with the guest's last line */
    mk_vcpu_end(&v->vm.cpu[cpu], MK_ERROR, 0, true, "%s", text);
}

static void handler_failed(struct mk_lua_vm *v, unsigned cpu)
{
    lua_State *co = v->cpu[cpu].co;
    const char *trace = lua_tostring(co, -1);
    if (!trace)
        trace = "a handler failed without a message";
    if (!v->cpu[cpu].traceback)
        v->cpu[cpu].traceback = strdup(trace);
    const char *end = strstr(trace, "\nstack traceback:");
    mk_limit_describe(v, cpu);
    if (!mk_limit_blame(v, cpu, trace))
        mk_lua_blame(v, cpu, "%.*s", end ? (int)(end - trace) : (int)strlen(trace), trace);
    lua_pop(co, 1);
}

/* The lock, and room on the coroutine's stack, which has plenty while nothing runs on it. A handler
 * inside another one has the lock, unless that one waits. */
static bool enter(struct mk_lua_vm *v, unsigned cpu, struct mk_turn *outer)
{
    struct mk_lua_cpu *lc = &v->cpu[cpu];
    *outer = (struct mk_turn){ .handler = lc->depth && !lc->waits ? lc : NULL };
    if (!outer->handler && mk_console_unwritten(&v->vm.m.console))
        mk_vcpu_finish_output(&v->vm.cpu[cpu]); /* before what the script prints */
    if (!outer->handler && !acquire_for_handler(v))
        return false;
    outer->base = v->lua->base;
    outer->guard = v->lua->guard;
    v->lua->handler = lc;
    lc->depth++;
    return true;
}

static void leave(struct mk_lua_vm *v, unsigned cpu, const struct mk_turn *outer)
{
    struct mk_lua *lua = v->lua;
    v->cpu[cpu].depth--;
    lua->base = outer->base;
    lua->guard = outer->guard;
    lua->handler = outer->handler;
    if (!outer->handler)
        give_up(lua);
}

/* Nothing here but lua_pcall() can raise. */
static enum mk_called call_protected(struct mk_lua_vm *v, unsigned cpu, lua_CFunction body,
                                     void *ctx)
{
    struct mk_lua_cpu *lc = &v->cpu[cpu];
    lua_State *co = lc->co;
    if (lc->depth > 1 && !lua_checkstack(co, 4)) {
        mk_lua_blame(v, cpu, "out of Lua stack");
        return MK_CALL_FAILED;
    }
    lua_pushcfunction(co, describe_error);
    int base = lua_gettop(co);
    lua_pushcfunction(co, body);
    lua_pushlightuserdata(co, ctx);
    mk_guard_enter(v->lua, &lc->guard, co);
    int rc = lua_pcall(co, 1, 0, base);
    mk_lua_flush_output(); /* under the guard: nobody may read it */
    mk_guard_leave(&lc->guard, co);
    if (rc != LUA_OK)
        handler_failed(v, cpu);
    lua_settop(co, base - 1); /* a script that got hold of it finds it dead */
    return rc == LUA_OK ? MK_CALL_DONE : MK_CALL_FAILED;
}

enum mk_called mk_lua_call(struct mk_lua_vm *v, unsigned cpu, const char *what, lua_CFunction body,
                           void *ctx)
{
    struct mk_lua_cpu *lc = &v->cpu[cpu];
    struct mk_turn outer;
    if (!enter(v, cpu, &outer))
        return MK_CALL_NOT;
    bool waits = lc->waits;
    const char *before = lc->what;
    lc->waits = false;
    lc->what = what;
    enum mk_called called = call_protected(v, cpu, body, ctx);
    lc->what = before;
    lc->waits = waits;
    leave(v, cpu, &outer);
    return called;
}

/* --- checks --- */

void mk_lua_blame_line(lua_State *L)
{
    char where[100];
    mk_lua_where(L, where, sizeof(where));
    lua_pushfstring(L, where[0] == '?' ? "" : "%s: ", where);
}

int mk_misuse(lua_State *L, const char *fmt, ...)
{
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    mk_lua_blame_line(L);
    lua_pushstring(L, text);
    lua_concat(L, 2);
    return lua_error(L);
}

static void need_colon(lua_State *L, int index, const char *type)
{
    lua_Debug ar;
    const char *name = "method";
    if (lua_getstack(L, 0, &ar) && lua_getinfo(L, "n", &ar) && ar.name)
        name = ar.name;
    luaL_error(L, "'%s' needs a %s as its first argument, got %s: call it with ':' (object:%s(...))",
               name, type, luaL_typename(L, index), name);
}

struct mk_lua_vm *mk_check_vm(lua_State *L, int index)
{
    struct mk_lua_vm *v = luaL_testudata(L, index, MK_VM);
    if (!v)
        need_colon(L, index, MK_VM);
    if (!v->open)
        luaL_error(L, "vm \"%s\" is closed", v->vm.name);
    return v;
}

void mk_need_cpus(lua_State *L, const struct mk_lua_vm *v)
{
    if (v->vm.m.fd < 0)
        mk_misuse(L, "vm \"%s\" has no vCPUs, because its reset failed: reset() it", v->vm.name);
}

struct mk_lua_vm *mk_check_child(lua_State *L, int index, const char *type)
{
    if (!luaL_testudata(L, index, type))
        need_colon(L, index, type);
    lua_getiuservalue(L, index, 1);
    struct mk_lua_vm *v = mk_check_vm(L, -1);
    lua_pop(L, 1);
    return v;
}

uint64_t mk_check_seconds(lua_State *L, int index)
{
    lua_Number seconds = luaL_checknumber(L, index);
    luaL_argcheck(L, seconds >= 0, index, "seconds are 0 or more");
    return seconds > 1e9 ? MK_FOREVER : (uint64_t)(seconds * 1e9);
}

uint64_t mk_opt_seconds(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? MK_FOREVER : mk_check_seconds(L, index);
}

int mk_push_err(lua_State *L, const struct mk_err *err)
{
    luaL_pushfail(L);
    lua_pushstring(L, err->text);
    lua_pushstring(L, mk_err_name(err->code));
    return 3;
}

const char *const mk_lua_modes[MK_MODES] = { "real", "protected", "paged", "long" };

void mk_need_stopped(lua_State *L, struct mk_lua_vm *v, const char *what)
{
    if (!mk_vm_wait(&v->vm, 0))
        mk_misuse(L, "%s: vm \"%s\" is running", what, v->vm.name);
}

/* --- fields of checked tables --- */

lua_Integer mk_integer_field(lua_State *L, int index, const char *key, lua_Integer absent)
{
    lua_Integer value = lua_getfield(L, index, key) == LUA_TNIL ? absent : lua_tointeger(L, -1);
    lua_pop(L, 1);
    return value;
}

bool mk_true_field(lua_State *L, int index, const char *key)
{
    lua_getfield(L, index, key);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

const char *mk_string_field(lua_State *L, int index, const char *key, size_t *length)
{
    lua_getfield(L, index, key);
    const char *value = lua_tolstring(L, -1, length);
    lua_pop(L, 1);
    return value;
}

void mk_set_integer(lua_State *L, const char *key, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, key);
}

void mk_set_string(lua_State *L, const char *key, const char *value)
{
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
}

/* --- handlers and children --- */

int mk_lua_ref(lua_State *L, int vm_index, int function_index)
{
    function_index = lua_absindex(L, function_index);
    lua_getiuservalue(L, vm_index, 1);
    lua_pushvalue(L, function_index);
    int ref = luaL_ref(L, -2);
    lua_pop(L, 1);
    return ref;
}

void mk_lua_unref(lua_State *L, int vm_index, int ref)
{
    lua_getiuservalue(L, vm_index, 1);
    luaL_unref(L, -1, ref);
    lua_pop(L, 1);
}

void *mk_new_child(lua_State *L, int vm_index, size_t size, const char *type)
{
    vm_index = lua_absindex(L, vm_index);
    void *box = lua_newuserdatauv(L, size, 1);
    memset(box, 0, size);
    lua_pushvalue(L, vm_index);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, type);
    return box;
}

int mk_unknown_field(lua_State *L, const char *type, bool set)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "minikvm.strict");
    lua_getfield(L, -1, "unknown");
    lua_pushstring(L, type);
    lua_pushvalue(L, 2);
    lua_pushboolean(L, set);
    lua_call(L, 3, 0); /* raises */
    return 0;
}

static int no_field(lua_State *L)
{
    return mk_unknown_field(L, lua_tostring(L, lua_upvalueindex(1)), lua_gettop(L) > 2);
}

/* Pushes a function that raises for the field it is asked for. */
static void push_no_field(lua_State *L, const char *type)
{
    lua_pushstring(L, type);
    lua_pushcclosure(L, no_field, 1);
}

void mk_new_type(lua_State *L, const char *type, const luaL_Reg *meta, const luaL_Reg *methods)
{
    luaL_newmetatable(L, type);
    push_no_field(L, type);
    lua_setfield(L, -2, "__newindex");
    lua_newtable(L);
    if (methods)
        luaL_setfuncs(L, methods, 0);
    lua_createtable(L, 0, 1); /* what the table of methods does not have */
    push_no_field(L, type);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__index");
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "methods"); /* for the methods written in Lua */
    lua_insert(L, -2);
    lua_pushstring(L, "locked");
    lua_setfield(L, -2, "__metatable");
    if (meta) {
        lua_pushvalue(L, -2); /* metamethods see the methods as their upvalue */
        luaL_setfuncs(L, meta, 1);
    }
    lua_pop(L, 2);
}

/* --- handles --- */

/* The VM of a handle, or NULL when it is closed; pushes the VM. */
static struct mk_lua_vm *handle_vm(lua_State *L, struct mk_handle **h)
{
    *h = luaL_testudata(L, 1, MK_HANDLE);
    if (!*h)
        need_colon(L, 1, MK_HANDLE);
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, 1);
    struct mk_lua_vm *v = lua_touserdata(L, -1);
    return v->open ? v : NULL;
}

static int handle_remove(lua_State *L)
{
    struct mk_handle *h;
    struct mk_lua_vm *v = handle_vm(L, &h);
    if (!v && !h->removed)
        return luaL_error(L, "handle of a closed vm");
    if (!h->removed) {
        h->hits = h->count(v, h);
        h->removed = true;
        h->remove(L, v, h, 3);
    }
    return 0;
}

static int handle_close(lua_State *L)
{
    struct mk_handle *h;
    return handle_vm(L, &h) ? handle_remove(L) : 0;
}

static int handle_index(lua_State *L)
{
    struct mk_handle *h;
    struct mk_lua_vm *v = handle_vm(L, &h);
    const char *key = luaL_checkstring(L, 2);
    if (strcmp(key, "hits") == 0) {
        lua_pushinteger(L, (lua_Integer)(v && !h->removed ? h->count(v, h) : h->hits));
    } else {
        lua_pushvalue(L, 2);
        lua_gettable(L, lua_upvalueindex(1));
    }
    return 1;
}

static int handle_tostring(lua_State *L)
{
    struct mk_handle *h = luaL_checkudata(L, 1, MK_HANDLE);
    lua_pushfstring(L, MK_HANDLE "%s", h->removed ? " (removed)" : "");
    return 1;
}

struct mk_handle *mk_new_handle(lua_State *L, int vm_index)
{
    return mk_new_child(L, vm_index, sizeof(struct mk_handle), MK_HANDLE);
}

void mk_open_handle(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__index", handle_index }, { "__close", handle_close },
                                     { "__tostring", handle_tostring }, { NULL, NULL } };
    static const luaL_Reg methods[] = { { "remove", handle_remove }, { NULL, NULL } };
    mk_new_type(L, MK_HANDLE, meta, methods);
    luaL_getmetatable(L, MK_HANDLE);
    lua_getfield(L, -1, "methods");
    luaL_setfuncs(L, mk_prim_handle_methods, 0);
    lua_pop(L, 2);
}
