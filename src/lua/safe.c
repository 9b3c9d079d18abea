/* safe.c - what the script's process of --safe does for its parent (parent.h): it says where the
 * script is when its time is up, and where it was when memory was refused. */
#include "files/fsbox.h"
#include "lua/core.h"
#include "lua/parent.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A process has one such script. */
static struct {
    struct mk_lua *lua;
    struct mk_parent_page *page;
    volatile unsigned asked;
    lua_Alloc below; /* the state's own allocator */
    char refused[200];
} safe;

/* --- the time is up --- */

/* The last that this process does. */
static void tell(const char *script, lua_State *handler)
{
    char where[100];
    int n = snprintf(safe.page->where, sizeof(safe.page->where), "%s", script);
    if (handler) {
        mk_lua_where(handler, where, sizeof(where));
        snprintf(safe.page->where + n, sizeof(safe.page->where) - (size_t)n, ": in a handler: %s",
                 where);
    }
    raise(SIGKILL);
}

static void tell_from_hook(lua_State *L, lua_Debug *ar)
{
    char where[100];
    (void)ar;
    mk_lua_where(L, where, sizeof(where));
    tell(where, NULL);
}

static void tell_from_signal(void)
{
    const struct mk_lua *lua = safe.lua;
    char where[100];
    lua_State *handler = lua->handler ? mk_lua_running(lua->base) : NULL;
    mk_lua_where(lua->away ? lua->main : mk_lua_running(lua->base), where, sizeof(where));
    tell(where, handler);
}

/* Lua code is asked at its next instruction, first where the call began, then where coroutines have
 * got to. Where that does not help, the stack is looked at as it is. It may be on the move: then
 * this process ends without a word, as it would have done next. */
static void on_asked(int number)
{
    (void)number;
    unsigned asked = safe.asked++;
    if (safe.lua->away || asked >= 2)
        tell_from_signal();
    lua_State *L = safe.lua->base;
    for (lua_State *co = L; co; co = asked ? mk_lua_resumed(co) : NULL)
        lua_sethook(co, tell_from_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                    1);
}

/* --- memory --- */

/* Lua 5.4.5 and later hold offsets in the place of pointers while a stack moves (ldo.c, relstack):
 * there only a block that is new can be told from one that is a stack. What is refused when no
 * function runs any more, a smaller stack, does not say where the script was. */
static void note_refusal(const void *block, size_t size)
{
    char where[100] = "";
    if (!block || LUA_VERSION_RELEASE_NUM < 50405)
        mk_lua_where(mk_lua_running(safe.lua->base), where, sizeof(where));
    if (safe.refused[0] && strcmp(where, "?") == 0)
        return;
    snprintf(safe.refused, sizeof(safe.refused),
             "%s%snot enough memory: %zu bytes more were wanted (--memory)", where,
             where[0] ? ": " : "", size);
}

static void *allocate(void *ud, void *block, size_t old_size, size_t new_size)
{
    void *now = safe.below(ud, block, old_size, new_size);
    if (!now && new_size)
        note_refusal(block, new_size);
    return now;
}

const char *mk_safe_refusal(void)
{
    return safe.refused[0] ? safe.refused : NULL;
}

/* --- the beginning --- */

static void begin(lua_State *L, struct mk_parent_page *page)
{
    struct sigaction asked = { .sa_handler = on_asked, .sa_flags = SA_RESTART | SA_ONSTACK };
    void *ud;
    sigemptyset(&asked.sa_mask);
    safe.lua = mk_lua_get(L);
    safe.page = page;
    safe.below = lua_getallocf(L, &ud);
    lua_setallocf(L, allocate, ud);
    sigaction(MK_PARENT_SIGNAL, &asked, NULL);
    setvbuf(stdout, NULL, _IOLBF,
            BUFSIZ); /* what was printed is there when the process is killed */
}

/* begin_time(): the script begins */
static int begin_time(lua_State *L)
{
    (void)L;
    if (safe.page)
        safe.page->began = mk_now();
    return 0;
}

/* supervise(seconds, memory, files, handler) -> true, folder | nil: in the process of the script;
 * false, status: in its parent, when that has ended | nil, why, code */
static int supervise(lua_State *L)
{
    struct mk_parent_grant grant = { .ns = mk_check_seconds(L, 1),
                                     .memory = (uint64_t)luaL_checkinteger(L, 2),
                                     .files = lua_toboolean(L, 3) };
    struct mk_parent_page *page = NULL;
    struct mk_err err;
    int status = 0, rc = mk_parent_start(&grant, &page, &status, &err);
    if (rc < 0)
        return mk_push_err(L, &err);
    lua_pushboolean(L, rc == 0);
    if (rc == 1) {
        lua_pushinteger(L, status);
        return 2;
    }
    begin(L, page);
    safe.lua->handler_most = mk_check_seconds(L, 4);
    if (mk_fsbox_use_folder(page->folder[0] ? page->folder : NULL, &err) < 0)
        return mk_push_err(L, &err);
    lua_pushstring(L, page->folder[0] ? page->folder : NULL);
    return 2;
}

static const luaL_Reg core[] = { MK_FN(supervise), MK_FN(begin_time), MK_END };

MK_EXPORTS = { { .core = core } };
