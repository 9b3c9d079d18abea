/* module.c - luaopen_minikvm: puts the module together.
 *
 * The part written in Lua (part.c) called init builds what require "minikvm" returns. */
#include "kvm/kvm.h"
#include "lua/core.h"
#include "x86/weak/probe.h"

#include "minikvm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>

/* methods(type) -> the table that objects of a type take their methods from */
static int methods(lua_State *L)
{
    mk_push_type(L, luaL_checkstring(L, 1));
    lua_getfield(L, -1, "methods");
    return 1;
}

/* metatable(name) -> the metatable of a kind of object, for the metamethods written in Lua */
static int metatable(lua_State *L)
{
    mk_push_type(L, luaL_checkstring(L, 1));
    return 1;
}

/* owner(value) -> the VM of one of its children, closed or not; nil for anything else */
static int owner(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TUSERDATA || lua_getiuservalue(L, 1, 1) == LUA_TNONE ||
        !luaL_testudata(L, -1, MK_VM))
        lua_pushnil(L);
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

/* vm_of(child, type) -> the VM of a vm.console, vm.cpu[0] and so on; raises when it is none, or
 * closed
 */
static int vm_of(lua_State *L)
{
    mk_check_child(L, 1, luaL_checkstring(L, 2));
    lua_getiuservalue(L, 1, 1);
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

/* The table on top of the stack, of numbers of capabilities by name, gets whether there are such.
 */
static void query_capabilities(lua_State *L, const struct mk_kvm *kvm)
{
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        lua_pushboolean(L, mk_kvm_capability(kvm, (int)lua_tointeger(L, -2)) > 0);
        lua_rawset(L, -5);
    }
}

/* What this KVM does by itself, as fields of the table on top; nothing where it is not known. */
static bool push_native(lua_State *L, const struct mk_kvm *kvm, struct mk_err *err)
{
    struct mk_native native;
    enum mk_cpuid_kind cpuid;
    if (mk_native_probe_all(&native, &cpuid, kvm, err) < 0)
        return false;
    if (cpuid == MK_CPUID_UNKNOWN)
        return true;
    mk_set_boolean(L, "paging32", native.paging32);
    mk_set_boolean(L, "int_n", native.int_n);
    mk_set_boolean(L, "iret", native.iret);
    mk_set_boolean(L, "cpuid", cpuid == MK_CPUID_SHAPED);
    return true;
}

/* probe(capabilities) -> { ok=, host=, api=, paging32=, int_n=, iret=, cpuid=, why=, code= }; never
 * raises because of the host. The numbers in `capabilities` become booleans. */
static int probe(lua_State *L)
{
    struct mk_kvm kvm;
    struct mk_err err;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    bool ok = mk_kvm_open(&kvm, &err) == 0;
    if (ok)
        query_capabilities(L, &kvm);
    lua_createtable(L, 0, 10);
    mk_set_string(L, "host", mk_kvm_kind());
    mk_set_integer(L, "api", ok ? KVM_API_VERSION : 0);
    if (ok) {
        ok = push_native(L, &kvm, &err);
        mk_kvm_close(&kvm);
    }
    mk_set_boolean(L, "ok", ok);
    if (!ok) {
        mk_set_string(L, "why", err.text);
        mk_set_string(L, "code", mk_err_name(err.code));
    }
    return 1;
}

#define RANDOM_MAX 65536

/* random(count) -> so many bytes, 0 to 65536, of the host's generator: getrandom(2) */
static int random_bytes(lua_State *L)
{
    lua_Integer count = luaL_checkinteger(L, 1);
    luaL_argcheck(L, count >= 0 && count <= RANDOM_MAX, 1, "at most 65536 bytes at once");
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, (size_t)count);
    for (lua_Integer done = 0; done < count;) {
        ssize_t got = getrandom(to + done, (size_t)(count - done), 0);
        if (got < 0 && errno != EINTR)
            return mk_lua_error(L, "getrandom: %s", strerror(errno));
        done += got > 0 ? got : 0;
    }
    luaL_pushresultsize(&b, (size_t)count);
    return 1;
}

static const luaL_Reg functions[] = { MK_FN(methods),
                                      { "random", random_bytes },
                                      MK_FN(kind),
                                      MK_FN(vm_of),
                                      MK_FN(metatable),
                                      MK_FN(owner),
                                      { "sleep", sleep_seconds },
                                      { "signal", choose_signal },
                                      MK_FN(probe),
                                      { "now", time_now },
                                      MK_FN(error_text),
                                      MK_END };

MK_EXPORTS = { { .core = functions } };

static void push_core(lua_State *L)
{
    lua_newtable(L);
    mk_open_exports(L);
    mk_set_string(L, "version", MK_VERSION);
    mk_open_worker(L, luaopen_minikvm);
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
