/* lua_hypercalls.c - vm.hypercalls: calls of the guest by number, answered in Lua. */
#include "lua_core.h"

/* Core side: on the vCPU's thread. A definition goes before a built-in call of the same number. */
bool mk_lua_hypercall(void *ctx, struct mk_io *io, uint8_t number, uint32_t *value)
{
    struct mk_lua_vm *v = ctx;
    unsigned cpu = io->cpu->index;
    lua_State *co = v->calls[number] ? mk_lua_enter(v, cpu) : NULL;
    if (!co)
        return v->closing;
    if (!v->calls[number]) { /* removed while we waited for the lock */
        mk_lua_exit(v, cpu);
        return false;
    }
    v->call_hits[number]++;
    mk_lua_push_handler(v, cpu, v->calls[number]);
    lua_pushinteger(co, (lua_Integer)io->cpu->ops->reg(io->cpu, MK_RBX));
    lua_pushinteger(co, cpu);
    if (mk_lua_call(v, cpu, 2, 1)) {
        if (lua_isinteger(co, -1) && (uint64_t)lua_tointeger(co, -1) <= UINT32_MAX)
            *value = (uint32_t)lua_tointeger(co, -1);
        else if (!lua_isnil(co, -1))
            mk_lua_blame(v, cpu, "hypercall 0x%02x answered a %s: it must return an integer of 0 to "
                         "0xffffffff, or nothing", number, luaL_typename(co, -1));
        lua_pop(co, 1);
    }
    mk_lua_exit(v, cpu);
    return true;
}

static uint64_t call_hits(struct mk_lua_vm *v, struct mk_handle *h)
{
    return v->call_hits[h->number];
}

static void call_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index)
{
    mk_lua_unref(L, vm_index, v->calls[h->number]);
    v->calls[h->number] = 0;
}

/* hypercalls:define(number, name, fn(argument, cpu)) -> handle. `argument` is RBX; an integer that
 * fn returns is what the guest's next IN from the port reads. */
static int hypercalls_define(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_HYPERCALLS);
    lua_Integer number = luaL_checkinteger(L, 2);
    luaL_argcheck(L, number >= 0 && number <= 255, 2, "a hypercall number is 0 to 255");
    luaL_checkstring(L, 3);
    luaL_checktype(L, 4, LUA_TFUNCTION);
    if (v->calls[number])
        return luaL_error(L, "hypercall %d is defined already: remove() its handle first",
                          (int)number);
    lua_getiuservalue(L, 1, 1);
    int vm_index = lua_gettop(L);
    struct mk_handle *h = mk_new_handle(L, vm_index);
    *h = (struct mk_handle){ .remove = call_remove, .count = call_hits, .number = (int)number,
                             .removed = true };
    v->call_hits[number] = 0;
    v->calls[number] = mk_lua_ref(L, vm_index, 4);
    h->removed = false;
    return 1;
}

void mk_open_hypercalls(lua_State *L)
{
    static const luaL_Reg methods[] = { { "define", hypercalls_define }, { NULL, NULL } };
    mk_new_type(L, MK_HYPERCALLS, NULL, methods);
}
