/* load.c - loading images, and their symbols: vm.symbols. */
#include "lua/core.h"

#include <string.h>

static enum mk_format format_field(lua_State *L, int index)
{
    const char *name = mk_string_field(L, index, "format", NULL);
    for (int i = 0; name && i < MK_FORMATS; i++)
        if (strcmp(mk_format_name((enum mk_format)i), name) == 0)
            return (enum mk_format)i;
    return MK_FORMAT_AUTO;
}

/* The image that `path` or `bytes` of a table says. */
static struct mk_image *image_field(lua_State *L, int index, struct mk_err *err)
{
    size_t size = 0;
    const char *path = mk_string_field(L, index, "path", NULL);
    const char *bytes = mk_string_field(L, index, "bytes", &size);
    const char *name = mk_string_field(L, index, "name", NULL);
    return path ? mk_image_read(path, err)
                : mk_image_copy(name ? name : "image", bytes, size, err);
}

/* modules = { { path= | bytes=, name=, text= }, … }: for Multiboot kernels. Nothing here raises:
 * the tables were checked. */
static int add_modules(lua_State *L, int index, struct mk_image *image, struct mk_err *err)
{
    int rc = 0;
    if (lua_getfield(L, index, "modules") == LUA_TTABLE) {
        int list = lua_gettop(L);
        for (lua_Integer i = 1; rc == 0 && lua_rawgeti(L, list, i) == LUA_TTABLE; i++) {
            struct mk_image *module = image_field(L, list + 1, err);
            const char *text = mk_string_field(L, list + 1, "text", NULL);
            rc = module ? mk_image_add_module(image, module, text, err) : -1;
            lua_settop(L, list);
        }
        lua_settop(L, list);
    }
    lua_pop(L, 1);
    return rc;
}

/* load(vm, { path= | bytes=, name=, format=, cpu=, at=, segment=, entry= | symbol=, cmdline=,
 * modules= }) -> vm | nil, text, name */
static int load(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_need_stopped(L, v, "load");
    luaL_checkstack(L, 10, NULL);
    struct mk_load how = { .cpu = (unsigned)mk_integer_field(L, 2, "cpu", 0),
                           .format = format_field(L, 2),
                           .at = mk_integer_field(L, 2, "at", MK_DEFAULT),
                           .segment = mk_integer_field(L, 2, "segment", MK_DEFAULT),
                           .entry = mk_integer_field(L, 2, "entry", MK_DEFAULT),
                           .entry_symbol = mk_string_field(L, 2, "symbol", NULL),
                           .command_line = mk_string_field(L, 2, "cmdline", NULL) };
    if (how.cpu < v->vm.cpus && v->cpu[how.cpu].set)
        return mk_misuse(L, "vm:load: cpu %d's %s was set before, and loading sets all registers: set "
                            "it after vm:load", (int)how.cpu, v->cpu[how.cpu].set);
    struct mk_err err = { 0 };
    struct mk_image *image = image_field(L, 2, &err);
    if (image && add_modules(L, 2, image, &err) < 0) {
        mk_image_free(image);
        image = NULL;
    }
    if (!image || mk_vm_load(&v->vm, image, &how, &err) < 0) {
        v->vm.load_error = err;
        return mk_push_err(L, &err);
    }
    lua_settop(L, 1);
    return 1;
}

/* --- vm.symbols --- */

/* vm.symbols["main"] -> its address, or nil; of several images the one loaded last counts. */
static int symbols_index(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_SYMBOLS);
    const char *name = luaL_checkstring(L, 2);
    struct mk_symbol s = { 0 }, found = { 0 };
    for (const struct mk_image *i = v->vm.images; i; i = i->next)
        if (mk_symbol_find(i, name, &s))
            found = s;
    if (found.name)
        lua_pushinteger(L, (lua_Integer)found.value);
    else
        luaL_pushfail(L);
    return 1;
}

static void add_symbols(lua_State *L, const struct mk_image *image)
{
    struct mk_symbol s;
    for (uint64_t i = 0; i < image->plan.symbols.count; i++)
        if (mk_image_symbol(image, i, &s)) {
            lua_pushinteger(L, (lua_Integer)s.value);
            lua_setfield(L, -2, s.name);
        }
}

static int next_symbol(lua_State *L)
{
    lua_settop(L, 2);
    if (lua_next(L, 1))
        return 2;
    lua_pushnil(L);
    return 1;
}

/* for name, address in pairs(vm.symbols) */
static int symbols_pairs(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_SYMBOLS);
    lua_pushcfunction(L, next_symbol);
    lua_newtable(L);
    for (const struct mk_image *i = v->vm.images; i; i = i->next)
        add_symbols(L, i);
    return 2;
}

/* symbol_at(vm, address) -> name, offset: the function or label an address lies in; or nil. The
 * image loaded last counts here too. */
static int symbol_at(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    uint64_t address = (uint64_t)luaL_checkinteger(L, 2);
    struct mk_symbol s = { 0 }, found = { 0 };
    for (const struct mk_image *i = v->vm.images; i; i = i->next)
        if (mk_symbol_at(i, address, &s))
            found = s;
    if (!found.name) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushstring(L, found.name);
    lua_pushinteger(L, (lua_Integer)(address - found.value));
    return 2;
}

void mk_open_load(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__index", symbols_index }, { "__pairs", symbols_pairs },
                                     { NULL, NULL } };
    static const luaL_Reg core[] = { { "load", load }, { "symbol_at", symbol_at }, { NULL, NULL } };
    mk_new_type(L, MK_SYMBOLS, meta, NULL);
    luaL_setfuncs(L, core, 0); /* into the core table on top */
}
