/* clock.c - vm.clock: functions called at a time, on vCPU 0's thread, while the VM runs.
 *
 * A timer object is its own handle. It is anchored in the VM's handler table from when it is armed
 * until it fired for the last time or was removed, so the core never sees a collected one. */
#include "lua/core.h"

#include <string.h>

struct timer {
    struct mk_timer core; /* first */
    struct mk_lua_vm *v;
    int self_ref, function_ref;
    uint64_t period; /* 0: once */
    lua_Integer hits;
    bool dead;
    bool removed; /* by the script */
};

#define SHORTEST_NS 10000u
#define GUEST_NS 200000u /* the guest has at least this long between two calls */

/* Lets go of the anchors; under the Lua lock. `table` is the handler table's stack index. */
static void release(lua_State *L, int table, struct timer *t)
{
    luaL_unref(L, table, t->function_ref);
    luaL_unref(L, table, t->self_ref);
    t->function_ref = t->self_ref = LUA_NOREF;
}

static int call(lua_State *co)
{
    struct timer *t = lua_touserdata(co, 1);
    if (t->dead || mk_lua_failed(t->v, 0)) /* one that was due at the same time */
        return 0;
    t->hits++;
    mk_lua_push_handler(t->v, co, t->function_ref);
    lua_call(co, 0, 0);
    return 0;
}

/* A tick that is late does not make the following ones early: they keep to the grid. Those that
 * would leave the guest no time are skipped. */
static void arm_next(struct timer *t)
{
    struct mk_clock *clock = &t->v->vm.clock;
    uint64_t next = t->core.due + t->period, earliest = mk_clock_now(clock) + GUEST_NS;
    if (next < earliest)
        next += (earliest - next + t->period - 1) / t->period * t->period;
    mk_clock_arm(clock, &t->core, next);
}

static int rearm_or_release(lua_State *co)
{
    struct timer *t = lua_touserdata(co, 1);
    if (t->dead || t->period == 0) {
        t->dead = true;
        release(t->v->anchor, MK_AT_HANDLERS, t);
    } else {
        arm_next(t);
    }
    return 0;
}

/* Core side. */
static void fire(void *ctx, uint64_t now)
{
    (void)now;
    struct timer *t = ctx;
    if (mk_lua_call(t->v, 0, "a timer's function", call, t) != MK_CALL_REFUSED)
        mk_lua_call(t->v, 0, NULL, rearm_or_release, t);
}

static uint64_t check_ns(lua_State *L, int index)
{
    lua_Number seconds = luaL_checknumber(L, index);
    luaL_argcheck(L, seconds >= 0 && seconds < 1e9, index, "seconds are 0 to 1e9");
    return mk_to_ns(seconds);
}

static int new_timer(lua_State *L, bool repeat)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_CLOCK);
    uint64_t ns = check_ns(L, 2), first = ns;
    luaL_checktype(L, 3, LUA_TFUNCTION);
    luaL_argcheck(L, !repeat || ns >= SHORTEST_NS, 2, "a period is 10 microseconds at least");
    if (repeat && !lua_isnoneornil(L, 4))
        first = check_ns(L, 4);
    lua_getiuservalue(L, 1, 1);
    int vm_index = lua_gettop(L);
    struct timer *t = mk_new_child(L, vm_index, sizeof(*t), MK_TIMER);
    t->v = v;
    t->core.fire = fire;
    t->core.ctx = t;
    t->period = repeat ? ns : 0;
    t->function_ref = mk_lua_ref(L, vm_index, 3);
    t->self_ref = mk_lua_ref(L, vm_index, -1);
    struct mk_clock *clock = &v->vm.clock;
    mk_clock_arm(clock, &t->core, mk_clock_now(clock) + first);
    return 1;
}

/* clock:after(seconds, fn) -> handle */
static int clock_after(lua_State *L)
{
    return new_timer(L, false);
}

/* clock:every(seconds, fn [, first]) -> handle; `first`: seconds to the first call */
static int clock_every(lua_State *L)
{
    return new_timer(L, true);
}

/* timer:remove(). One that fires this moment releases itself when it sees that it is dead. */
static int timer_remove(lua_State *L)
{
    struct timer *t = luaL_checkudata(L, 1, MK_TIMER);
    t->removed = true;
    if (!t->dead && t->v->open) {
        t->dead = true;
        if (mk_clock_disarm(&t->v->vm.clock, &t->core)) {
            lua_getiuservalue(L, 1, 1);
            lua_getiuservalue(L, -1, 1);
            release(L, lua_gettop(L), t);
        }
    }
    return 0;
}

/* Seconds until it fires; nil: not any more. */
static void push_left(lua_State *L, const struct timer *t)
{
    if (t->dead || !t->v->open) {
        lua_pushnil(L);
        return;
    }
    struct mk_clock *clock = &t->v->vm.clock;
    uint64_t at = mk_clock_at(clock, &t->core), now = mk_clock_now(clock);
    lua_pushnumber(L, at > now ? (lua_Number)(at - now) / 1e9 : 0);
}

static int timer_index(lua_State *L)
{
    const struct timer *t = luaL_checkudata(L, 1, MK_TIMER);
    const char *key = luaL_checkstring(L, 2);
    if (strcmp(key, "hits") == 0) {
        lua_pushinteger(L, t->hits);
    } else if (strcmp(key, "left") == 0) {
        push_left(L, t);
    } else {
        lua_pushvalue(L, 2);
        lua_gettable(L, lua_upvalueindex(1));
    }
    return 1;
}

/* clock.now: the VM's time in seconds. */
static int clock_index(lua_State *L)
{
    if (strcmp(luaL_checkstring(L, 2), "now") == 0) {
        struct mk_lua_vm *v = mk_check_child(L, 1, MK_CLOCK);
        lua_pushnumber(L, (lua_Number)mk_clock_now(&v->vm.clock) / 1e9);
    } else {
        lua_pushvalue(L, 2);
        lua_gettable(L, lua_upvalueindex(1));
    }
    return 1;
}

/* --- snapshots: the VM does not run, so the list of timers does not change --- */

static struct timer *next_of(struct mk_timer *core)
{
    while (core && core->fire != fire)
        core = core->next; /* a device's */
    return (struct timer *)core;
}

/* An entry: { timer, nanoseconds left, function }. */
void mk_lua_timers_push(lua_State *L, struct mk_lua_vm *v, int vm_index)
{
    uint64_t now = mk_clock_now(&v->vm.clock);
    lua_getiuservalue(L, vm_index, 1);
    int table = lua_gettop(L);
    lua_pushnil(L);
    int count = 0;
    for (struct timer *t = next_of(v->vm.clock.first); t; t = next_of(t->core.next)) {
        if (count++ == 0)
            lua_newtable(L);
        lua_createtable(L, 3, 0);
        lua_rawgeti(L, table, t->self_ref);
        lua_rawseti(L, -2, 1);
        lua_pushinteger(L, t->core.at > now ? (lua_Integer)(t->core.at - now) : 0);
        lua_rawseti(L, -2, 2);
        lua_rawgeti(L, table, t->function_ref);
        lua_rawseti(L, -2, 3);
        lua_rawseti(L, -2, count);
    }
    lua_replace(L, table);
    lua_settop(L, table);
}

static void end_all(lua_State *L, struct mk_lua_vm *v, int table)
{
    struct timer *t;
    while ((t = next_of(v->vm.clock.first))) {
        mk_clock_disarm(&v->vm.clock, &t->core);
        t->dead = true;
        release(L, table, t);
    }
}

/* The entry on top; those of another VM, or removed since, are passed over. */
static void arm_again(lua_State *L, struct mk_lua_vm *v, int vm_index, uint64_t now)
{
    int entry = lua_gettop(L);
    lua_rawgeti(L, entry, 1);
    lua_rawgeti(L, entry, 2);
    lua_rawgeti(L, entry, 3);
    struct timer *t = lua_touserdata(L, entry + 1);
    if (t->v == v && !t->removed) {
        t->dead = false;
        t->function_ref = mk_lua_ref(L, vm_index, entry + 3);
        t->self_ref = mk_lua_ref(L, vm_index, entry + 1);
        mk_clock_arm(&v->vm.clock, &t->core, now + (uint64_t)lua_tointeger(L, entry + 2));
    }
    lua_settop(L, entry);
}

void mk_lua_timers_put(lua_State *L, struct mk_lua_vm *v, int vm_index, int list)
{
    uint64_t now = mk_clock_now(&v->vm.clock);
    lua_getiuservalue(L, vm_index, 1);
    end_all(L, v, lua_gettop(L));
    lua_pop(L, 1);
    for (lua_Integer i = 1; lua_istable(L, list) && lua_rawgeti(L, list, i) == LUA_TTABLE; i++) {
        arm_again(L, v, vm_index, now);
        lua_pop(L, 1);
    }
}

static const luaL_Reg clock_meta[] = { { "__index", clock_index }, MK_END };
static const luaL_Reg clock_methods[] = { { "after", clock_after },
                                          { "every", clock_every },
                                          MK_END };
static const luaL_Reg timer_meta[] = { { "__index", timer_index },
                                       { "__close", timer_remove },
                                       MK_END };
static const luaL_Reg timer_methods[] = { { "remove", timer_remove }, MK_END };

MK_EXPORTS = { { .type = MK_CLOCK, .meta = clock_meta, .methods = clock_methods },
               { .type = MK_TIMER, .meta = timer_meta, .methods = timer_methods } };
