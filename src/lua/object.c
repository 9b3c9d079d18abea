/* object.c - what the kinds of objects share: checks, errors, fields of tables, handlers and
 * children of a VM, handles. See core.h. */
#include "lua/core.h"

#include <stdio.h>
#include <string.h>

/* --- checks --- */

void mk_lua_where(lua_State *L, char *text, size_t size)
{
    lua_Debug ar;
    snprintf(text, size, "?");
    for (int level = 0; lua_getstack(L, level, &ar) && lua_getinfo(L, "Sl", &ar); level++)
        if (ar.currentline > 0 && strncmp(ar.source, "@minikvm/", 9) != 0) {
            snprintf(text, size, "%s:%d", ar.short_src, ar.currentline);
            return;
        }
}

void mk_push_where(lua_State *L)
{
    char where[100];
    mk_lua_where(L, where, sizeof(where));
    lua_pushfstring(L, where[0] == '?' ? "" : "%s: ", where);
}

int mk_lua_error(lua_State *L, const char *fmt, ...)
{
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    mk_push_where(L);
    lua_pushstring(L, text);
    lua_concat(L, 2);
    return lua_error(L);
}

const char *mk_check_cstring(lua_State *L, int index)
{
    size_t length;
    const char *text = luaL_checklstring(L, index, &length);
    if (strlen(text) != length)
        mk_lua_error(L, "\"%s\\0...\": a path or name may not contain a NUL byte", text);
    return text;
}

const char *mk_check_rest(lua_State *L, int index, size_t *left)
{
    const char *bytes = luaL_checklstring(L, index, left);
    lua_Integer from = luaL_checkinteger(L, index + 1);
    luaL_argcheck(L, from >= 0 && (size_t)from <= *left, index + 1, "not in it");
    *left -= (size_t)from;
    return bytes + from;
}

static void check_colon(lua_State *L, int index, const char *type)
{
    lua_Debug ar;
    const char *name = "method";
    if (lua_getstack(L, 0, &ar) && lua_getinfo(L, "n", &ar) && ar.name)
        name = ar.name;
    mk_lua_error(L,
                 "'%s' needs a %s as its first argument, got %s: call it with ':' (object:%s(...))",
                 name, type, luaL_typename(L, index), name);
}

struct mk_lua_vm *mk_check_vm(lua_State *L, int index)
{
    struct mk_lua_vm *v = luaL_testudata(L, index, MK_VM);
    if (!v)
        check_colon(L, index, MK_VM);
    if (!v->open)
        mk_lua_error(L, "vm \"%s\" is closed", v->vm.name);
    return v;
}

void mk_check_cpus(lua_State *L, const struct mk_lua_vm *v)
{
    if (v->vm.fd < 0)
        mk_lua_error(L, "vm \"%s\" has no vCPUs, because its reset failed: reset() it", v->vm.name);
}

unsigned mk_check_stream(lua_State *L, const struct mk_lua_vm *v, int index)
{
    lua_Integer cpu = luaL_optinteger(L, index, 0);
    if (cpu < 0 || cpu >= v->vm.cpus)
        mk_lua_error(L, "no such cpu: vm \"%s\" has no cpu %lld", v->vm.name, (long long)cpu);
    if (cpu >= v->vm.console.streams)
        mk_lua_error(L, "vm \"%s\": its vCPUs print to one console: leave out cpu %lld", v->vm.name,
                     (long long)cpu);
    return (unsigned)cpu;
}

struct mk_lua_vm *mk_check_child(lua_State *L, int index, const char *type)
{
    if (!luaL_testudata(L, index, type))
        check_colon(L, index, type);
    lua_getiuservalue(L, index, 1);
    struct mk_lua_vm *v = mk_check_vm(L, -1);
    lua_pop(L, 1);
    return v;
}

uint64_t mk_to_ns(lua_Number seconds)
{
    return seconds > 1e9 ? MK_FOREVER : (uint64_t)(seconds * 1e9);
}

uint64_t mk_check_seconds(lua_State *L, int index)
{
    lua_Number seconds = luaL_checknumber(L, index);
    luaL_argcheck(L, seconds >= 0, index, "seconds are 0 or more");
    return mk_to_ns(seconds);
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

int mk_push_self(lua_State *L, int rc, const struct mk_err *err)
{
    if (rc < 0)
        return mk_push_err(L, err);
    lua_settop(L, 1);
    return 1;
}

int mk_push_optional(lua_State *L, bool is, uint64_t value)
{
    is ? lua_pushinteger(L, (lua_Integer)value) : luaL_pushfail(L);
    return 1;
}

const char *const mk_lua_modes[MK_MODES] = { "real", "protected", "paged", "long" };

void mk_check_stopped(lua_State *L, struct mk_lua_vm *v, const char *what)
{
    if (!mk_vm_wait(&v->vm, 0))
        mk_lua_error(L, "%s: vm \"%s\" is running", what, v->vm.name);
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

void mk_set_boolean(lua_State *L, const char *key, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, key);
}

void mk_set_seconds(lua_State *L, const char *key, uint64_t ns)
{
    lua_pushnumber(L, (lua_Number)ns / 1e9);
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
    mk_set_type(L, type);
    return box;
}

void mk_lua_join(struct mk_lua_vm *v, struct mk_lua_member *member,
                 void (*close)(struct mk_lua_member *member))
{
    *member = (struct mk_lua_member){ v, v->members, close };
    v->members = member;
}

struct mk_lua_vm *mk_lua_leave(struct mk_lua_member *member)
{
    struct mk_lua_vm *v = member->v;
    struct mk_lua_member **at = v ? &v->members : NULL;
    if (!v)
        return NULL;
    while (*at != member)
        at = &(*at)->next;
    *at = member->next;
    member->v = NULL;
    return v;
}

void **mk_push_owner(lua_State *L, const char *type)
{
    void **owner = lua_newuserdatauv(L, sizeof(*owner), 1);
    *owner = NULL;
    mk_set_type(L, type);
    return owner;
}

/* --- handles --- */

/* The VM of a handle, or NULL when it is closed; pushes the VM. */
static struct mk_lua_vm *handle_vm(lua_State *L, struct mk_handle **h)
{
    *h = luaL_testudata(L, 1, MK_HANDLE);
    if (!*h)
        check_colon(L, 1, MK_HANDLE);
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
        return mk_lua_error(L, "handle of a closed vm");
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
    lua_getfield(L, 1, "hits");
    lua_Integer hits = lua_tointeger(L, -1);
    lua_pushfstring(L, MK_HANDLE " (%I %s%s)", hits, hits == 1 ? "hit" : "hits",
                    h->removed ? ", removed" : "");
    return 1;
}

struct mk_handle *mk_new_handle(lua_State *L, int vm_index)
{
    struct mk_handle *h = mk_new_child(L, vm_index, sizeof(*h), MK_HANDLE);
    h->removed = true;
    return h;
}

static const luaL_Reg handle_meta[] = { { "__index", handle_index },
                                        { "__close", handle_close },
                                        { "__tostring", handle_tostring },
                                        MK_END };
static const luaL_Reg handle_methods[] = { { "remove", handle_remove }, MK_END };

MK_EXPORTS = { { .type = MK_HANDLE, .meta = handle_meta, .methods = handle_methods } };
