/* module.c - luaopen_minikvm: puts the module together.
 *
 * The part written in Lua (part.c) called init builds what require "minikvm" returns. */
#include "lua/alloc.h"
#include "lua/core.h"
#include "vm/probe.h"

#include "minikvm.h"

#include <signal.h>
#include <string.h>

/* methods(type) -> the table that objects of a type take their methods from */
static int methods(lua_State *L)
{
    luaL_getmetatable(L, luaL_checkstring(L, 1));
    lua_getfield(L, -1, "methods");
    return 1;
}

/* kind(value) -> the name of a kind of object of the core's, or nil */
static int kind(lua_State *L)
{
    luaL_checkany(L, 1);
    if (lua_type(L, 1) != LUA_TUSERDATA || luaL_getmetafield(L, 1, "__name") == LUA_TNIL)
        lua_pushnil(L);
    return 1;
}

/* sleep(seconds): other VMs' handlers run meanwhile. Ctrl-C ends it. */
static int sleep_seconds(lua_State *L)
{
    mk_lua_wait(L, mk_check_seconds(L, 1), &(struct mk_wait){ 0 });
    return 0;
}

/* signal([number]) -> the signal that interrupts guests, which is chosen before the first VM. */
static int choose_signal(lua_State *L)
{
    lua_Integer number = luaL_optinteger(L, 1, 0);
    struct mk_err err;
    luaL_argcheck(L, number >= 0 && number <= SIGRTMAX, 1, "no such signal");
    if (number && mk_kick_set_signal((int)number, &err) < 0)
        return mk_lua_error(L, "kvm.signal: %s", err.text);
    lua_pushinteger(L, mk_kick_signal());
    return 1;
}

int minikvm_signal(int number)
{
    struct mk_err err = { 0 };
    return mk_kick_set_signal(number, &err) < 0 ? err.code : 0;
}

/* now() -> seconds of a clock that only goes forward */
static int time_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)mk_now() / 1e9);
    return 1;
}

/* error_text(number) -> the sentence and the name of an errno of Linux */
static int error_text(lua_State *L)
{
    int number = (int)luaL_checkinteger(L, 1);
    lua_pushstring(L, strerror(number));
    lua_pushstring(L, mk_err_name(number));
    return 2;
}

/* probe() -> table; never raises because of the host. */
static int probe(lua_State *L)
{
    struct mk_probe p;
    mk_probe(&p);
    lua_createtable(L, 0, 10);
    lua_pushboolean(L, p.ok);
    lua_setfield(L, -2, "ok");
    mk_set_string(L, "host", p.host);
    mk_set_string(L, "paging32", p.paging32);
    mk_set_string(L, "int_n", p.int_n);
    mk_set_string(L, "iret", p.iret);
    mk_set_string(L, "cpuid", p.cpuid);
    mk_set_integer(L, "api", (uint64_t)p.api);
    lua_newtable(L);
    for (size_t i = 0; i < p.cap_count; i++) {
        lua_pushboolean(L, p.caps[i].present);
        lua_setfield(L, -2, p.caps[i].name);
    }
    lua_setfield(L, -2, "caps");
    if (!p.ok) {
        mk_set_string(L, "why", p.err.text);
        mk_set_string(L, "code", mk_err_name(p.err.code));
    }
    return 1;
}

static void push_core(lua_State *L)
{
    static const luaL_Reg functions[] = { { "methods", methods },
                                          { "kind", kind },
                                          { "sleep", sleep_seconds },
                                          { "signal", choose_signal },
                                          { "probe", probe },
                                          { "now", time_now },
                                          { "error_text", error_text },
                                          { "limit", mk_lua_limit },
                                          { "end_after", mk_lua_end_after },
                                          { "bounded_strings", mk_lua_bounded_strings },
                                          { "disassemble", mk_lua_disassemble },
                                          { NULL, NULL } };
    luaL_newlib(L, functions);
    lua_pushstring(L, MK_VERSION);
    lua_setfield(L, -2, "version");
    mk_open_vm(L);
    mk_open_cpu(L);
    mk_open_memory(L);
    mk_open_map(L);
    mk_open_hooks(L);
    mk_open_unhandled(L);
    mk_open_stats(L);
    mk_open_cpuid(L);
    mk_open_zlib(L);
    mk_open_hypercalls(L);
    mk_open_console(L);
    mk_open_load(L);
    mk_open_clock(L);
    mk_open_keyboard(L);
    mk_open_files(L);
    mk_open_snapshot(L);
    mk_open_disk(L);
    mk_open_worker(L, luaopen_minikvm);
    mk_open_watch(L);
    mk_open_process(L);
    mk_open_handle(L);
    mk_open_prims(L);
    mk_open_pci(L);
}

/* require "minikvm.test" alone, too: it may be all that a spec file needs. */
int luaopen_minikvm_test(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "minikvm");
    lua_call(L, 1, 0);
    mk_lua_part(L, "test");
    lua_call(L, 0, 1);
    return 1;
}

static int build(lua_State *L)
{
    mk_lua_preload(L);
    push_core(L);
    mk_lua_part(L, "init");
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    return 1;
}

/* Nothing of what is made here is garbage, so the collector need not look for some. */
int luaopen_minikvm(lua_State *L)
{
    luaL_checkversion(L);
    int collecting = lua_gc(L, LUA_GCISRUNNING);
    lua_gc(L, LUA_GCSTOP);
    lua_pushcfunction(L, build);
    int status = lua_pcall(L, 0, 1, 0);
    if (collecting)
        lua_gc(L, LUA_GCRESTART);
    return status == LUA_OK ? 1 : lua_error(L);
}
