/* hooks.c - vm.ports, vm.mmio and vm.msrs: accesses of the guest served in Lua.
 *
 *   ports:on(range, { read = fn(port, size), write = fn(port, value, size) })
 *   ports:override(range, { read = fn(port, size, next), write = fn(port, value, size, next) })
 *   ports:tap(range, fn(what, port, value, size))
 *   mmio:on(range, ...)   the same, with guest-physical addresses outside RAM
 *   msrs:on(range, ...)   the same, with numbers of MSRs; a handler that returns false raises #GP
 * in the guest
 *
 * `on` takes what nobody serves yet; `override` goes on top of whatever is there, and `next` is the
 * handler beneath; a tap sees and changes nothing. A direction without a function passes to what
 * lies beneath. */
#include "lua/hooks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the vCPU's side --- */

static int call_hook(lua_State *co)
{
    struct mk_hook_call *c = lua_touserdata(co, 1);
    if (c->h->removed) /* while we waited for the lock */
        return 0;
    c->called = true;
    mk_lua_push_handler(c->h->v, co, c->ref);
    return c->body(co, c);
}

bool mk_hook_call(struct mk_hook_call *c, struct mk_cpu *cpu)
{
    return cpu->index < c->h->v->vm.cpus && !mk_lua_failed(c->h->v, cpu->index) &&
           mk_lua_call(c->h->v, cpu->index, NULL, call_hook, c) != MK_CALL_REFUSED && c->called;
}

/* An access of the guest for a handler. */
struct access {
    struct mk_hook_call call; /* first */
    struct mk_io *io;
    struct mk_frame frame;
    uint64_t value; /* of an IN */
};

/* The same for next(): which access it stands for. */
static bool call_for(struct access *a)
{
    struct mk_lua_cpu *lc = a->call.h->v->cpu[a->io->cpu->index];
    a->frame.above = lc->frame;
    lc->frame = &a->frame;
    bool called = mk_hook_call(&a->call, a->io->cpu);
    lc->frame = a->frame.above;
    return called;
}

static int push_next(lua_State *co, const struct access *a)
{
    const struct mk_lua_hook *h = a->call.h;
    if (h->with_next) {
        lua_pushvalue(h->v->anchor, MK_AT_NEXT + (int)a->io->cpu->index);
        lua_xmove(h->v->anchor, co, 1);
    }
    return h->with_next;
}

static const char *kind_of(const struct mk_io *io)
{
    static const char *const kinds[] = { "port", "address", "MSR" };
    return kinds[io->bus->space];
}

/* #GP or not: the topmost handler has the last word. */
static void refuse_msr(const struct access *a, bool refused)
{
    if (a->io->bus->space == MK_SPACE_MSRS)
        a->call.h->v->vm.cpu[a->io->cpu->index]->c.msr_refused = refused;
}

/* The answer of a read handler: an integer that fits. */
static void take_value(struct access *a, lua_State *co)
{
    struct mk_io *io = a->io;
    uint64_t limit = mk_mask(io->size), value = (uint64_t)lua_tointeger(co, -1);
    unsigned long long at = io->address;
    bool is_false = lua_isboolean(co, -1) && !lua_toboolean(co, -1);
    a->value = value;
    refuse_msr(a, is_false);
    if (is_false && io->bus->space == MK_SPACE_MSRS) {
        a->value = limit;
    } else if (!lua_isinteger(co, -1)) {
        const char *type = luaL_typename(co, -1);
        const char *text = lua_tostring(co, -1);
        mk_lua_bad_answer(a->call.h->v, io->cpu->index,
                          "read handler of %s 0x%llx answered %s%s%s: it "
                          "must return an integer of 0 to 0x%llx",
                          kind_of(io), at, type, text ? " " : "", text ? text : "",
                          (unsigned long long)limit);
    } else if (value > limit) {
        mk_lua_bad_answer(a->call.h->v, io->cpu->index,
                          "read handler of %s 0x%llx answered %lld: it "
                          "does not fit in %u byte%s",
                          kind_of(io), at, (long long)value, io->size, io->size > 1 ? "s" : "");
    }
}

static int call_in(lua_State *co, struct mk_hook_call *c)
{
    struct access *a = (struct access *)c;
    lua_pushinteger(co, (lua_Integer)a->io->address);
    lua_pushinteger(co, a->io->size);
    lua_call(co, 2 + push_next(co, a), 1);
    take_value(a, co);
    return 0;
}

static uint64_t hook_in(void *self, struct mk_io *io)
{
    struct mk_lua_hook *h = self;
    struct access a = { .call = { h, h->read_ref, call_in, false },
                        .io = io,
                        .frame = { .io = io, .in = true },
                        .value = mk_mask(io->size) };
    io->passed = !call_for(&a);
    return a.value;
}

static int call_out(lua_State *co, struct mk_hook_call *c)
{
    struct access *a = (struct access *)c;
    bool msr = a->io->bus->space == MK_SPACE_MSRS;
    lua_pushinteger(co, (lua_Integer)a->io->address);
    lua_pushinteger(co, (lua_Integer)a->frame.value);
    lua_pushinteger(co, a->io->size);
    lua_call(co, 3 + push_next(co, a), msr);
    if (msr && lua_isboolean(co, -1))
        refuse_msr(a, !lua_toboolean(co, -1));
    return 0;
}

static void hook_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_lua_hook *h = self;
    struct access a = { .call = { h, h->write_ref, call_out, false },
                        .io = io,
                        .frame = { .io = io, .value = value } };
    io->passed = !call_for(&a);
}

static int call_tap(lua_State *co, struct mk_hook_call *c)
{
    struct access *a = (struct access *)c;
    lua_pushstring(co, a->frame.in ? "read" : "write");
    lua_pushinteger(co, (lua_Integer)a->io->address);
    lua_pushinteger(co, (lua_Integer)a->frame.value);
    lua_pushinteger(co, a->io->size);
    lua_call(co, 4, 0);
    return 0;
}

static void notify_tap(struct mk_lua_hook *h, struct mk_io *io, bool in, uint64_t value)
{
    struct access a = { .call = { h, h->read_ref, call_tap, false },
                        .io = io,
                        .frame = { .io = io, .in = in, .value = value } };
    call_for(&a);
}

static uint64_t tap_in(void *self, struct mk_io *io)
{
    (void)self;
    io->passed = true;
    return 0;
}

static void tap_read(void *self, struct mk_io *io, uint64_t value)
{
    notify_tap(self, io, true, value);
}

static void tap_out(void *self, struct mk_io *io, uint64_t value)
{
    notify_tap(self, io, false, value);
    io->passed = true;
}

static void hook_retire(void *self)
{
    free(self);
}

#define LUA_OPS .name = "a Lua handler", .width = 8, .script = true, .retire = hook_retire

static const struct mk_io_ops read_ops = { LUA_OPS, .in = hook_in };
static const struct mk_io_ops write_ops = { LUA_OPS, .out = hook_out };
static const struct mk_io_ops both_ops = { LUA_OPS, .in = hook_in, .out = hook_out };
static const struct mk_io_ops tap_ops = { LUA_OPS, .in = tap_in, .out = tap_out, .tap = tap_read };

static const struct mk_io_ops *ops_for(const struct mk_lua_hook *h)
{
    return h->read_ref == LUA_NOREF    ? &write_ops
           : h->write_ref == LUA_NOREF ? &read_ops
                                       : &both_ops;
}

static int next_write(lua_State *L, struct mk_frame *frame)
{
    uint64_t value = frame->value;
    if (!lua_isnoneornil(L, 1)) {
        value = (uint64_t)luaL_checkinteger(L, 1);
        luaL_argcheck(L, value <= mk_mask(frame->io->size), 1, "value does not fit the access");
    }
    mk_bus_next_out(frame->io, value);
    return 0;
}

/* next([value]): the handler beneath. One closure per vCPU; which access it stands for is in the
 * vCPU's frame, so that calling it allocates nothing. The VM is its other upvalue, to stay alive.
 */
static int call_next(lua_State *L)
{
    struct mk_lua_cpu *lc = lua_touserdata(L, lua_upvalueindex(1));
    struct mk_frame *frame = lc->frame;
    if (!frame || !lc->depth)
        return mk_lua_error(L,
                            "next() belongs to an access that is over: call it inside the handler");
    int results = 1;
    if (frame->call)
        lua_pushinteger(L, frame->call(lc->v, frame));
    else if (frame->in)
        lua_pushinteger(L, (lua_Integer)mk_bus_next_in(frame->io));
    else
        results = next_write(L, frame);
    if (lc->v->vm.cpu[frame->io->cpu->index]->c.end.reason == MK_ERROR)
        return mk_lua_error(L, "the handler beneath failed");
    return results;
}

void mk_push_next(lua_State *L, int vm_index, unsigned cpu)
{
    struct mk_lua_vm *v = lua_touserdata(L, vm_index);
    lua_pushlightuserdata(L, v->cpu[cpu]);
    lua_pushvalue(L, vm_index);
    lua_pushcclosure(L, call_next, 2);
}

/* --- ranges --- */

/* "ports 0x300-0x30f" */
static void describe_range(const struct mk_bus *bus, uint64_t first, uint64_t last, char *to,
                           size_t size)
{
    static const char *const kinds[] = { "port", "address", "MSR" };
    static const char *const many[] = { "ports", "addresses", "MSRs" };
    if (first == last)
        snprintf(to, size, "%s 0x%llx", kinds[bus->space], (unsigned long long)first);
    else
        snprintf(to, size, "%s 0x%llx-0x%llx", many[bus->space], (unsigned long long)first,
                 (unsigned long long)last);
}

void mk_describe_function(lua_State *L, int index, char *to, size_t size)
{
    lua_Debug ar;
    lua_pushvalue(L, index);
    lua_getinfo(L, ">S", &ar);
    if (ar.linedefined < 0)
        snprintf(to, size, "a Lua handler");
    else
        snprintf(to, size, "a Lua handler (%.40s:%d)", ar.short_src, ar.linedefined);
}

/* The range { first, last } or { first, size = n } at index 2. */
static void table_range(lua_State *L, uint64_t *first, uint64_t *last)
{
    static const char form[] = "a range is { first, last } or { first, size = n }, in integers";
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        bool known = lua_isinteger(L, -2) ? lua_tointeger(L, -2) == 1 || lua_tointeger(L, -2) == 2
                                          : lua_type(L, -2) == LUA_TSTRING &&
                                                strcmp(lua_tostring(L, -2), "size") == 0;
        luaL_argcheck(L, known && lua_isinteger(L, -1), 2, form);
    }
    bool sized = lua_getfield(L, 2, "size") != LUA_TNIL;
    lua_Integer size = lua_tointeger(L, -1);
    luaL_argcheck(L, lua_rawgeti(L, 2, 1) != LUA_TNIL, 2, form);
    luaL_argcheck(L, (lua_rawgeti(L, 2, 2) != LUA_TNIL) != sized, 2, form);
    luaL_argcheck(L, !sized || size > 0, 2, "a size is 1 or more");
    *first = (uint64_t)lua_tointeger(L, -2);
    *last = sized ? *first + (uint64_t)size - 1 : (uint64_t)lua_tointeger(L, -1);
    luaL_argcheck(L, !sized || *last >= *first, 2, "the range ends behind the last address");
    lua_pop(L, 3);
}

/* A device does not lie over memory; writes to what is read-only do reach one. */
static void check_no_memory(lua_State *L, const struct mk_range *r)
{
    const struct mk_mem *mem = &r->v->vm.m.mem;
    char text[200];
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *m = &mem->regions[i];
        if (m->read_only || r->first >= m->gpa + m->size || r->last < m->gpa)
            continue;
        snprintf(text, sizeof(text),
                 "addresses 0x%llx-0x%llx lie over %s, which ends at 0x%llx: "
                 "memory is no device",
                 (unsigned long long)r->first, (unsigned long long)r->last, m->name,
                 (unsigned long long)(m->gpa + m->size));
        luaL_argerror(L, 2, text);
    }
}

static void check_ends(lua_State *L, const struct mk_range *r)
{
    static const struct {
        uint64_t last;
        const char *what;
    } spaces[] = { { 0xffff, "a port is 0 to 0xffff" },
                   { INT64_MAX, "a guest-physical address is 0 or more" },
                   { UINT32_MAX, "an MSR is 0 to 0xffffffff" } };
    uint64_t most = spaces[r->bus->space].last;
    int index = r->next - 1;
    luaL_argcheck(L, r->first <= most, 2, spaces[r->bus->space].what);
    luaL_argcheck(L, r->last <= most, index, spaces[r->bus->space].what);
    luaL_argcheck(L, r->last >= r->first, index, "the last comes before the first");
    if (r->bus->space == MK_SPACE_MMIO)
        check_no_memory(L, r);
}

/* The short forms: of addresses base, size; of the others first [, last], but where an integer
 * follows that is something else only first. */
static void short_range(lua_State *L, struct mk_range *r, bool more_integers)
{
    r->first = r->last = (uint64_t)luaL_checkinteger(L, 2);
    if (r->bus->space == MK_SPACE_MMIO) {
        uint64_t size = (uint64_t)luaL_checkinteger(L, 3);
        luaL_argcheck(L, size > 0 && size <= INT64_MAX, 3, "a size is 1 or more");
        luaL_argcheck(L, r->first <= INT64_MAX, 2, "a guest-physical address is 0 or more");
        luaL_argcheck(L, size - 1 <= INT64_MAX - r->first, 3,
                      "the range ends behind the last address");
        r->last += size - 1;
        r->next = 4;
    } else if (!more_integers && lua_isinteger(L, 3)) {
        r->last = (uint64_t)lua_tointeger(L, 3);
        r->next = 4;
    }
}

static struct mk_range range_argument(lua_State *L, bool more_integers)
{
    bool mmio = luaL_testudata(L, 1, MK_MMIO), msrs = luaL_testudata(L, 1, MK_MSRS);
    struct mk_lua_vm *v = mk_check_child(L, 1, mmio ? MK_MMIO : msrs ? MK_MSRS : MK_PORTS);
    struct mk_machine *m = &v->vm.m;
    struct mk_range r = { .v = v, .bus = mmio ? &m->mmio : msrs ? &m->msrs : &m->bus, .next = 3 };
    if (lua_istable(L, 2))
        table_range(L, &r.first, &r.last);
    else
        short_range(L, &r, more_integers);
    check_ends(L, &r);
    return r;
}

struct mk_range mk_check_range(lua_State *L, bool more_integers)
{
    struct mk_range r = range_argument(L, more_integers);
    struct mk_err err;
    if (mk_bus_check_room(r.bus, &err) < 0)
        mk_lua_error(L, "%s", err.text);
    return r;
}

/* Raises when somebody serves part of the range, naming both. */
static void check_free(lua_State *L, const struct mk_range *r, const char *owner)
{
    char other[sizeof(((struct mk_hook *)0)->owner)], wanted[64], taken[64], text[400];
    uint64_t where;
    if (!mk_bus_owned(r->bus, r->first, r->last, &where, other))
        return;
    describe_range(r->bus, r->first, r->last, wanted, sizeof(wanted));
    describe_range(r->bus, where, where, taken, sizeof(taken));
    snprintf(text, sizeof(text),
             "%s belongs to %s: use override() to go on top of it (wanted: %s "
             "for %s)",
             taken, other, wanted, owner);
    mk_lua_error(L, "%s", text);
}

/* --- handles --- */

static uint64_t hook_hits(struct mk_lua_vm *v, struct mk_handle *handle)
{
    (void)v;
    const struct mk_lua_hook *h = handle->target;
    return atomic_load(&h->hook->hits);
}

static void hook_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *handle, int vm_index)
{
    struct mk_lua_hook *h = handle->target;
    struct mk_bus *bus = h->bus;
    struct mk_err err;
    h->removed = true;
    mk_lua_unref(L, vm_index, h->read_ref);
    if (h->write_ref != h->read_ref)
        mk_lua_unref(L, vm_index, h->write_ref);
    mk_bus_unhook(bus, h->hook); /* h may be gone after this */
    if (bus->space == MK_SPACE_MSRS)
        mk_vm_filter_msrs(&v->vm, &err);
}

struct mk_lua_hook *mk_hook_new(lua_State *L, const struct mk_range *r)
{
    struct mk_lua_hook *h = calloc(1, sizeof(*h));
    if (!h)
        mk_lua_error(L, "out of memory for a handler");
    *h = (struct mk_lua_hook){
        .v = r->v, .bus = r->bus, .read_ref = LUA_NOREF, .write_ref = LUA_NOREF
    };
    return h;
}

int mk_hook_place(lua_State *L, const struct mk_range *r, struct mk_lua_hook *h,
                  const struct mk_io_ops *ops, void *self, const char *owner)
{
    struct mk_err err;
    lua_getiuservalue(L, 1, 1);
    struct mk_handle *handle = mk_new_handle(L, lua_gettop(L));
    *handle = (struct mk_handle){ .removed = true };
    h->hook = mk_bus_hook(r->bus, r->first, r->last, ops, self, owner);
    if (!h->hook) {
        ops->retire(self);
        return mk_lua_error(L, "out of memory for a handler");
    }
    if (r->bus->space == MK_SPACE_MSRS && mk_vm_filter_msrs(&r->v->vm, &err) < 0) {
        mk_bus_unhook(r->bus, h->hook);
        return mk_lua_error(L, "%s", err.text);
    }
    *handle = (struct mk_handle){
        .remove = hook_remove, .count = hook_hits, .target = h, .prim = h->prim
    };
    return 1;
}

/* --- the script's side --- */

/* A function or nothing under `name` of the table at `index`. */
static int function_ref(lua_State *L, int vm_index, int index, const char *name)
{
    int ref = LUA_NOREF;
    if (lua_getfield(L, index, name) == LUA_TFUNCTION)
        ref = mk_lua_ref(L, vm_index, -1);
    lua_pop(L, 1);
    return ref;
}

/* The table has read and write, one at least, and perhaps a name. */
static void check_handlers(lua_State *L, int index, char *owner, size_t size)
{
    bool any = false;
    luaL_checktype(L, index, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        bool name = strcmp(key, "name") == 0;
        if (!name && strcmp(key, "read") != 0 && strcmp(key, "write") != 0)
            mk_lua_error(L, "unknown handler '%s': there are 'read' and 'write'", key);
        if (name && lua_type(L, -1) != LUA_TSTRING)
            mk_lua_error(L, "'name' is a %s, not a string", luaL_typename(L, -1));
        if (!name && !lua_isfunction(L, -1))
            mk_lua_error(L, "handler '%s' is a %s, not a function", key, luaL_typename(L, -1));
        if (!name && !any)
            mk_describe_function(L, -1, owner, size);
        any |= !name;
    }
    luaL_argcheck(L, any, index, "neither read nor write");
    if (lua_getfield(L, index, "name") == LUA_TSTRING)
        snprintf(owner, size, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
}

static int add_hook(lua_State *L, bool override)
{
    char owner[64] = "";
    struct mk_range r = mk_check_range(L, false);
    check_handlers(L, r.next, owner, sizeof(owner));
    if (!override)
        check_free(L, &r, owner);
    lua_settop(L, r.next);
    lua_getiuservalue(L, 1, 1);
    int vm_index = lua_gettop(L);
    int read_ref = function_ref(L, vm_index, r.next, "read");
    int write_ref = function_ref(L, vm_index, r.next, "write");
    struct mk_lua_hook *h = mk_hook_new(L, &r);
    h->read_ref = read_ref;
    h->write_ref = write_ref;
    h->with_next = override;
    return mk_hook_place(L, &r, h, ops_for(h), h, owner);
}

static int hooks_on(lua_State *L)
{
    return add_hook(L, false);
}

static int hooks_override(lua_State *L)
{
    return add_hook(L, true);
}

/* tap(range, fn(what, address, value, size)): `what` is "read" or "write", `value` what the guest
 * reads or has written. */
static int hooks_tap(lua_State *L)
{
    char owner[64];
    struct mk_range r = mk_check_range(L, false);
    luaL_checktype(L, r.next, LUA_TFUNCTION);
    mk_describe_function(L, r.next, owner, sizeof(owner));
    lua_settop(L, r.next);
    lua_getiuservalue(L, 1, 1);
    int ref = mk_lua_ref(L, lua_gettop(L), r.next);
    struct mk_lua_hook *h = mk_hook_new(L, &r);
    h->read_ref = h->write_ref = ref;
    h->tap = true;
    return mk_hook_place(L, &r, h, &tap_ops, h, owner);
}

void mk_open_hooks(lua_State *L)
{
    static const char *const types[] = { MK_PORTS, MK_MMIO, MK_MSRS };
    static const luaL_Reg methods[] = {
        { "on", hooks_on }, { "override", hooks_override }, { "tap", hooks_tap }, { NULL, NULL }
    };
    for (size_t i = 0; i < MK_COUNT(types); i++)
        mk_new_type(L, types[i], NULL, methods);
}
