/* jail.c - kvm.jail: the options as lua/minikvm/jail.lua has checked them (jail/jail.h). */
#include "lua/core.h"

#include "files/fsbox.h"
#include "io/tap.h"
#include "jail/jail.h"
#include "jail/landlock.h"

#include <limits.h>
#include <stdlib.h>

static const struct {
    const char *name;
    unsigned bit;
} walls[] = { { "privileges", MK_WALL_PRIVILEGES },
              { "files", MK_WALL_FILES },
              { "truncation", MK_WALL_TRUNCATION },
              { "system calls", MK_WALL_SYSTEM_CALLS } };

static void push_report(lua_State *L, const struct mk_jail_report *report)
{
    lua_createtable(L, 0, 2);
    lua_createtable(L, MK_COUNT(walls), 0);
    for (size_t i = 0; i < MK_COUNT(walls); i++)
        if (report->walls & walls[i].bit) {
            lua_pushstring(L, walls[i].name);
            lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
        }
    lua_setfield(L, -2, "walls");
    if (report->missing[0])
        mk_set_string(L, "missing", report->missing);
}

/* The list at `index`: path, access, path, access ...; in memory of the stack's. */
static struct mk_jail_path *read_paths(lua_State *L, int index, size_t *count)
{
    *count = lua_rawlen(L, index) / 2;
    struct mk_jail_path *paths = lua_newuserdatauv(L, (*count + 1) * sizeof(*paths), 0);
    for (size_t i = 0; i < *count; i++) {
        lua_rawgeti(L, index, (lua_Integer)(2 * i + 1));
        lua_rawgeti(L, index, (lua_Integer)(2 * i + 2));
        paths[i].path = luaL_checkstring(L, -2);
        paths[i].access = (unsigned)luaL_checkinteger(L, -1);
        lua_pop(L, 2);
    }
    return paths;
}

/* jail(level, allow, paths) -> { walls = names, missing = nil | text } | nil, text, name */
static int enter(lua_State *L)
{
    static const char *const levels[] = { "best", "strict", "log", NULL };
    struct mk_jail_report report;
    struct mk_err err;
    struct mk_jail jail = { .level = (enum mk_jail_level)luaL_checkoption(L, 1, NULL, levels),
                            .allow = (unsigned)luaL_checkinteger(L, 2) };
    luaL_checktype(L, 3, LUA_TTABLE);
    jail.paths = read_paths(L, 3, &jail.count);
    if (mk_jail_enter(&jail, &report, &err) < 0)
        return mk_push_err(L, &err);
    push_report(L, &report);
    return 1;
}

/* private_folder() -> where temporary directories of VMs are made from now on, its parent | nil,
 * text, name */
static int private_folder(lua_State *L)
{
    const char *path = NULL, *below = NULL;
    struct mk_err err;
    if (mk_fsbox_make_folder(&path, &below, &err) < 0)
        return mk_push_err(L, &err);
    lua_pushstring(L, path);
    lua_pushstring(L, below);
    return 2;
}

/* limit_files(bytes): what guests may write into files, all in all */
static int limit_files(lua_State *L)
{
    mk_fsbox_grant((uint64_t)luaL_checkinteger(L, 1));
    return 0;
}

/* check_path(path) -> path | nil, text, name: it is there, and no link, nothing above, not all */
static int check_path(lua_State *L)
{
    struct mk_err err;
    const struct mk_jail_path path = { mk_check_cstring(L, 1), MK_JAIL_READ };
    const struct mk_jail jail = { .paths = &path, .count = 1 };
    return mk_push_self(L, mk_landlock_check(&jail, &err), &err);
}

/* real_path(path) -> it without links | nil: it is not there */
static int real_path(lua_State *L)
{
    char real[PATH_MAX];
    lua_pushstring(L, realpath(mk_check_cstring(L, 1), real));
    return 1;
}

/* keep_tap(name) -> name | nil, text, name: a tap is opened, for a card that wants it later */
static int keep_tap(lua_State *L)
{
    struct mk_err err;
    return mk_push_self(L, mk_tap_keep(mk_check_cstring(L, 1), &err), &err);
}

static const luaL_Reg core[] = { { "jail", enter },
                                 MK_FN(private_folder),
                                 MK_FN(limit_files),
                                 MK_FN(check_path),
                                 MK_FN(real_path),
                                 MK_FN(keep_tap),
                                 MK_END };

MK_EXPORTS = { { .core = core } };
