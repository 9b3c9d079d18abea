/* state.c - what belongs to a Lua state, and the Lua lock. See core.h. */
#include "lua/core.h"

#include <stdio.h>

static const char registry_key;

/* --- the Lua lock --- */

static void *fail_alloc(void *ud, void *block, size_t old_size, size_t new_size)
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
        lua_setallocf(L, fail_alloc, NULL);
        return 0;
    }
    if (lua->kvm_open) {
        mk_kvm_close(&lua->kvm);
        mk_io_unref();
    }
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
 * counts itself as waiting before it tries again, and who gives up looks for such after that:
 * either the one sees the lock free, or the other sees somebody wait. */

bool mk_lua_trylock(struct mk_lua *lua)
{
    return !atomic_exchange(&lua->held, true);
}

static void wake_next(struct mk_lua *lua)
{
    pthread_mutex_lock(&lua->mutex);
    if (lua->script_waits)
        pthread_cond_signal(&lua->script_turn);
    else if (lua->handler_waits)
        pthread_cond_signal(&lua->handler_turn);
    pthread_mutex_unlock(&lua->mutex);
}

MK_HOT void mk_lua_unlock(struct mk_lua *lua)
{
    atomic_store(&lua->held, false);
    if (lua->script_waits || lua->handler_waits)
        wake_next(lua);
}

/* What Lua code printed comes before what guests print now. */
MK_HOT void mk_lua_flush_output(void)
{
    if (stdout->_IO_write_ptr != stdout->_IO_write_base) /* __fpending(), without a call */
        fflush(stdout);
}

void mk_lua_begin_blocking(struct mk_lua *lua, struct mk_lua_context *context)
{
    *context = (struct mk_lua_context){ lua->base, lua->watchdog, lua->handler };
    mk_lua_flush_output();
    if (context->handler)
        context->handler->waits = true;
    else
        lua->away = true;
    mk_lua_unlock(lua);
}

/* The script goes first: handlers of busy guests would keep it out for long otherwise. So does a
 * handler that has waited. */
void mk_lua_end_blocking(struct mk_lua *lua, const struct mk_lua_context *context)
{
    pthread_mutex_lock(&lua->mutex);
    lua->script_waits++;
    while (!mk_lua_trylock(lua))
        pthread_cond_wait(&lua->script_turn, &lua->mutex);
    lua->script_waits--;
    pthread_mutex_unlock(&lua->mutex);
    lua->base = context->base;
    lua->watchdog = context->watchdog;
    lua->handler = context->handler;
    if (context->handler)
        context->handler->waits = false;
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
    return hook != before ||
           (hook && hook != lua->script_hook && lua_gethookmask(lua->main) == every &&
            lua_gethookcount(lua->main) == 1);
}

/* --- coroutines --- */

/* The coroutine that the innermost function of L, one of C, resumes; NULL: none. Only looks. One
 * that is resumed has a call and is neither suspended nor dead; L stands still then. */
lua_State *mk_lua_resumed(lua_State *L)
{
    lua_Debug ar;
    if (!lua_getstack(L, 0, &ar) || !lua_getinfo(L, "S", &ar) || ar.what[0] != 'C')
        return NULL;
    lua_State *co = lua_tothread(L, 1);
    if (!co)
        co = lua_tothread(L, lua_upvalueindex(1));
    if (!co) /* the function of our wrap() has it second */
        co = lua_tothread(L, lua_upvalueindex(2));
    return co && co != L && lua_status(co) == LUA_OK && lua_getstack(co, 0, &ar) ? co : NULL;
}

lua_State *mk_lua_running(lua_State *L)
{
    for (lua_State *co = L; co; co = mk_lua_resumed(L))
        L = co;
    return L;
}
