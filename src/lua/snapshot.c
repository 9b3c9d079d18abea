/* snapshot.c - snapshots as objects. What surrounds them (devices and options of the script) is
 * in lua/minikvm/vm/snapshot.lua.
 *
 * A snapshot's user value is the list of the script's timers that were armed (clock.c), which
 * also keeps their VM. Used by the thread that runs Lua. */
#include "lua/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct mk_snapshot *check_snapshot(lua_State *L, int index)
{
    struct mk_snapshot **snap = luaL_testudata(L, index, MK_SNAPSHOT);
    if (!snap)
        mk_lua_error(L, "expected a snapshot, got %s", luaL_typename(L, index));
    if (!*snap)
        mk_lua_error(L, "the snapshot is closed");
    return *snap;
}

/* Paused, with no vCPU in the middle of an access. */
static bool stands_still(struct mk_lua_vm *v)
{
    bool waits = false;
    for (unsigned i = 0; i < v->vm.cpus; i++)
        waits |= v->vm.cpu[i]->c.waits != 0;
    return !waits && mk_vm_is_paused(&v->vm);
}

static void need_end(lua_State *L, struct mk_lua_vm *v, const char *what)
{
    mk_check_cpus(L, v);
    if (stands_still(v)) {
        mk_blks_run(&v->vm.blks, false); /* until it goes on */
        return;
    }
    if (v->lua->handler && v->lua->handler->v == v)
        mk_lua_error(L,
                     "%s: inside a handler of vm \"%s\": its guest waits for the answer; set a "
                     "variable, call vm:stop(), and do it when the run is over",
                     what, v->vm.name);
    if (!mk_vm_wait(&v->vm, 0))
        mk_lua_error(L,
                     "%s: vm \"%s\" is running: stop it first (vm:stop(), vm:pause(), or wait for "
                     "its end)",
                     what, v->vm.name);
}

/* check_idle(vm, what): raises while the VM runs. */
static int check_idle(lua_State *L)
{
    need_end(L, mk_check_vm(L, 1), luaL_checkstring(L, 2));
    return 0;
}

/* The layers of a list become the snapshot's. */
static void ref_layers(lua_State *L, int list, struct mk_snapshot *snap)
{
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++, lua_pop(L, 1))
        snap->layers[snap->layer_count++] = mk_layer_ref(mk_check_layer(L, -1));
    lua_pop(L, 1);
}

/* take(vm, devices, layers) -> snapshot | nil, text, name. `devices` are bytes, kept as they are;
 * `layers` what their disks hold (disk.c). */
static int take(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_bytes kept = { 0 };
    struct mk_err err;
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    luaL_checktype(L, 3, LUA_TTABLE);
    need_end(L, v, "vm:snapshot");
    if (lua_rawlen(L, 3) > MK_SNAPSHOT_LAYERS)
        return mk_lua_error(L, "vm:snapshot: vm \"%s\" has more than %u disks", v->vm.name,
                            MK_SNAPSHOT_LAYERS);
    void **snap = mk_push_owner(L, MK_SNAPSHOT);
    mk_lua_timers_push(L, v, 1);
    lua_setiuservalue(L, -2, 1);
    mk_bytes_add(&kept, bytes, length);
    if (kept.failed)
        mk_fail(&err, ENOMEM, "snapshot: out of memory");
    else
        *snap = mk_snapshot_take(&v->vm, &kept, &err);
    mk_bytes_free(&kept);
    if (!*snap)
        return mk_push_err(L, &err);
    ref_layers(L, 3, *snap);
    return 1;
}

/* check_fit(vm, snapshot, what): raises when it cannot go into this VM now. */
static int check_fit(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_snapshot *snap = check_snapshot(L, 2);
    const char *what = luaL_checkstring(L, 3);
    struct mk_err err;
    need_end(L, v, what);
    if (!mk_vm_wait(&v->vm, 0) && v->vm.live < v->vm.cpus)
        return mk_lua_error(L,
                            "%s: vm \"%s\" is paused, and a cpu of it has come to its end: stop "
                            "the run first",
                            what, v->vm.name);
    if (mk_snapshot_fits(snap, &v->vm, &err) < 0)
        return mk_lua_error(L, "%s: %s", what, err.text);
    return 0;
}

/* restore(vm, snapshot) -> vm | nil, text, name; after check_fit(). */
static int restore(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_snapshot *snap = check_snapshot(L, 2);
    struct mk_err err;
    mk_forget_result(v);
    if (mk_snapshot_restore(snap, &v->vm, false, &err) < 0)
        return mk_push_err(L, &err);
    lua_getiuservalue(L, 2, 1);
    mk_lua_timers_put(L, v, 1, lua_gettop(L));
    lua_settop(L, 1);
    return 1;
}

/* restoring(vm, on): a reset or a restore is being finished in Lua: until then the VM cannot run.
 */
static int restoring(lua_State *L)
{
    mk_check_vm(L, 1)->vm.restoring = lua_toboolean(L, 2);
    return 0;
}

/* disable(vm, "reset" or "restore", why): that failed: the VM is not to run. */
static int disable(lua_State *L)
{
    mk_vm_disable(&mk_check_vm(L, 1)->vm, luaL_checkstring(L, 2), luaL_checkstring(L, 3));
    return 0;
}

/* fill_hooks(vm, snapshot): what latches and fifos held, for those that were made meanwhile. */
static int fill_hooks(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_state_load(&v->vm, &check_snapshot(L, 2)->state, MK_LOAD_HOOKS, NULL);
    return 0;
}

/* saved_devices(snapshot) -> the bytes that take() got */
static int saved_devices(lua_State *L)
{
    const struct mk_snapshot *snap = check_snapshot(L, 1);
    lua_pushlstring(L, (const char *)snap->script.data, snap->script.length);
    return 1;
}

/* saved_layers(snapshot) -> the list that take() got */
static int saved_layers(lua_State *L)
{
    const struct mk_snapshot *snap = check_snapshot(L, 1);
    lua_createtable(L, (int)snap->layer_count, 0);
    for (unsigned i = 0; i < snap->layer_count; i++) {
        mk_push_layer(L, snap->layers[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* load_snapshot(path) -> snapshot | nil, text, name */
static int load_snapshot(lua_State *L)
{
    const char *path = mk_check_cstring(L, 1);
    struct mk_err err;
    void **snap = mk_push_owner(L, MK_SNAPSHOT);
    *snap = mk_snapshot_load(path, &err);
    return *snap ? 1 : mk_push_err(L, &err);
}

/* snapshot:save(path) -> snapshot | nil, text, name */
static int snapshot_save(lua_State *L)
{
    struct mk_snapshot *snap = check_snapshot(L, 1);
    const char *path = mk_check_cstring(L, 2);
    struct mk_err err;
    return mk_push_self(L, mk_snapshot_save(snap, path, &err), &err);
}

MK_RELEASE(free_snapshot, MK_SNAPSHOT, mk_snapshot_free)

/* snapshot:close(): VMs that were made from it, or restored to it, go on. */
static int snapshot_close(lua_State *L)
{
    free_snapshot(L);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

static int snapshot_index(lua_State *L)
{
    const char *key = luaL_checkstring(L, 2);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    const struct mk_snapshot *snap = check_snapshot(L, 1);
    if (strcmp(key, "name") == 0)
        lua_pushstring(L, snap->config.name);
    else if (strcmp(key, "mode") == 0)
        lua_pushstring(L, mk_lua_modes[snap->config.mode]);
    else if (strcmp(key, "memory") == 0)
        lua_pushinteger(L, (lua_Integer)snap->config.memory);
    else if (strcmp(key, "cpus") == 0)
        lua_pushinteger(L, snap->config.cpus);
    else if (strcmp(key, "irqchip") == 0)
        lua_pushstring(L, snap->config.pic ? "pic" : "none");
    else
        return mk_unknown_field(L, MK_SNAPSHOT, false);
    return 1;
}

struct mk_snapshot *mk_snapshot_field(lua_State *L, int options)
{
    lua_getfield(L, options, "snapshot");
    struct mk_snapshot *snap = lua_isnil(L, -1) ? NULL : check_snapshot(L, -1);
    lua_pop(L, 1);
    return snap;
}

static const luaL_Reg meta[] = {
    { "__index", snapshot_index }, { "__gc", snapshot_close }, { "__close", snapshot_close }, MK_END
};
static const luaL_Reg methods[] = { { "save", snapshot_save },
                                    { "close", snapshot_close },
                                    MK_END };
static const luaL_Reg core[] = { MK_FN(take),
                                 MK_FN(restore),
                                 MK_FN(check_idle),
                                 MK_FN(check_fit),
                                 MK_FN(restoring),
                                 MK_FN(disable),
                                 MK_FN(fill_hooks),
                                 MK_FN(saved_devices),
                                 MK_FN(saved_layers),
                                 MK_FN(load_snapshot),
                                 MK_END };

MK_EXPORTS = { { .type = MK_SNAPSHOT, .meta = meta, .methods = methods, .core = core } };
