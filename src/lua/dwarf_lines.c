/* dwarf_lines.c - source lines: of an address, addresses of a line, all of a unit. See dwarf.h.
 * DWARF 5, chapter 6.2. */
#include "lua/dwarf.h"

#include <string.h>

#define dw mk_libdw

#define FOUND_MAX 4096 /* addresses of one line */

void mk_push_source(lua_State *L, Dwarf_Die *cu, const char *path)
{
    Dwarf_Attribute attr;
    const char *directory = dw.dwarf_formstring(dw.dwarf_attr(cu, DW_AT_comp_dir, &attr));
    size_t n = directory ? strlen(directory) : 0;
    if (path && n && strncmp(path, directory, n) == 0 && path[n] == '/')
        path += n + 1;
    while (path && path[0] == '.' && path[1] == '/')
        path += 2;
    lua_pushstring(L, path); /* nil for NULL */
}

/* dwarf.line(d, address) -> file, line, column, path | nothing */
static int dwarf_line(lua_State *L)
{
    const struct mk_dwarf *d = mk_check_dwarf(L);
    uint64_t address = (uint64_t)luaL_checkinteger(L, 2);
    struct mk_unit *unit = mk_dwarf_unit(d, address);
    Dwarf_Line *line = unit ? dw.dwarf_getsrc_die(&unit->top, address) : NULL;
    const char *path = line ? dw.dwarf_linesrc(line, NULL, NULL) : NULL;
    int number = 0, column = 0;
    if (!path || dw.dwarf_lineno(line, &number) != 0 || number <= 0)
        return 0;
    dw.dwarf_linecol(line, &column);
    mk_push_source(L, &unit->top, path);
    lua_pushinteger(L, number);
    lua_pushinteger(L, column);
    lua_pushstring(L, path);
    return 4;
}

/* Whether a path ends with this name, at a slash. */
static bool names_file(const char *path, const char *name)
{
    size_t a = path ? strlen(path) : 0, b = strlen(name);
    return a >= b && memcmp(path + a - b, name, b) == 0 && (a == b || path[a - b - 1] == '/');
}

/* Adds a number to the list on top. */
static void append(lua_State *L, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* One row of a line table that begins a statement. */
struct row {
    Dwarf_Addr address;
    int number;
    const char *path;
};

static bool read_row(const struct mk_dwarf *d, Dwarf_Lines *lines, size_t i, struct row *row)
{
    bool statement = false, end = true;
    Dwarf_Line *line = dw.dwarf_onesrcline(lines, i);
    row->path = dw.dwarf_linesrc(line, NULL, NULL);
    return line && row->path && dw.dwarf_linebeginstatement(line, &statement) == 0 && statement &&
           dw.dwarf_lineendsequence(line, &end) == 0 && !end &&
           dw.dwarf_lineno(line, &row->number) == 0 &&
           dw.dwarf_lineaddr(line, &row->address) == 0 && mk_dwarf_loaded(d, row->address);
}

/* The files of a unit; whether one of them has this name. */
static bool has_file(Dwarf_Die *cu, const char *name)
{
    Dwarf_Files *files;
    size_t count;
    if (dw.dwarf_getsrcfiles(cu, &files, &count) != 0)
        return false;
    for (size_t i = 0; i < count; i++)
        if (names_file(dw.dwarf_filesrc(files, i, NULL, NULL), name))
            return true;
    return false;
}

/* Adds a unit's addresses of line `want`, or of the nearest one after it that has code, to the list
 * on top; *best is that line's number. */
static void find_in_unit(lua_State *L, const struct mk_dwarf *d, Dwarf_Die *cu, const char *name,
                         int want, int *best)
{
    Dwarf_Lines *lines;
    size_t count;
    struct row row;
    const char *last = NULL;
    bool matches = false;
    if (dw.dwarf_getsrclines(cu, &lines, &count) != 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (!read_row(d, lines, i, &row) || row.number < want || row.number > *best)
            continue;
        if (row.path != last)
            matches = names_file(row.path, name);
        last = row.path;
        if (!matches)
            continue;
        if (row.number < *best) { /* those before were of a later line */
            lua_newtable(L);
            lua_replace(L, -2);
            *best = row.number;
        }
        if (lua_rawlen(L, -1) < FOUND_MAX)
            append(L, row.address);
    }
}

/* dwarf.find_line(d, file, line) -> list of addresses, the line that they are of: that line, or the
 * next one that has code; nil when no such file is known; an empty list when it has no code from
 * there on. `file` is the end of a path. */
static int find_line(lua_State *L)
{
    const struct mk_dwarf *d = mk_check_dwarf(L);
    const char *name = luaL_checkstring(L, 2);
    lua_Integer want = luaL_checkinteger(L, 3);
    int best = INT32_MAX;
    bool known = false;
    luaL_argcheck(L, want > 0 && want < best, 3, "no line's number");
    lua_newtable(L);
    for (size_t i = 0; i < d->unit_count; i++)
        if (has_file(&d->units[i].top, name)) {
            known = true;
            find_in_unit(L, d, &d->units[i].top, name, (int)want, &best);
        }
    if (!known)
        return 0;
    lua_pushinteger(L, best);
    return 2;
}

/* dwarf.count(d) -> how many units it has */
static int count_units(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)mk_check_dwarf(L)->unit_count);
    return 1;
}

/* dwarf.units(d) -> list of { name=, directory=, ranges = { low, high, … } } as dwarf.rows() takes
 * them; directory: where the compiler was called */
static int units(lua_State *L)
{
    const struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Attribute attr;
    lua_createtable(L, (int)d->unit_count, 0);
    for (size_t i = 0; i < d->unit_count; i++) {
        Dwarf_Die *top = &d->units[i].top;
        lua_createtable(L, 0, 3);
        mk_push_source(L, top, dw.dwarf_diename(top));
        lua_setfield(L, -2, "name");
        mk_set_string(L, "directory",
                      dw.dwarf_formstring(dw.dwarf_attr(top, DW_AT_comp_dir, &attr)));
        lua_newtable(L);
        lua_setfield(L, -2, "ranges");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    for (size_t i = 0; i < d->range_count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)d->ranges[i].unit + 1);
        lua_getfield(L, -1, "ranges");
        append(L, d->ranges[i].low);
        append(L, d->ranges[i].high);
        lua_pop(L, 2);
    }
    return 1;
}

/* dwarf.rows(d, unit) -> { address, line, file, … }: the statements of a unit in the order of its
 * table, for who wants all of them, such as coverage */
static int rows(lua_State *L)
{
    const struct mk_dwarf *d = mk_check_dwarf(L);
    lua_Integer i = luaL_checkinteger(L, 2), n = 0;
    Dwarf_Lines *lines;
    size_t count;
    struct row row;
    luaL_argcheck(L, i > 0 && (size_t)i <= d->unit_count, 2, "no such unit");
    Dwarf_Die *cu = &d->units[i - 1].top;
    lua_newtable(L);
    if (dw.dwarf_getsrclines(cu, &lines, &count) != 0)
        return 1;
    for (size_t at = 0; at < count; at++) {
        if (!read_row(d, lines, at, &row))
            continue;
        lua_pushinteger(L, (lua_Integer)row.address);
        lua_rawseti(L, -2, ++n);
        lua_pushinteger(L, row.number);
        lua_rawseti(L, -2, ++n);
        mk_push_source(L, cu, row.path);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static const luaL_Reg core[] = { { "line", dwarf_line }, MK_FN(find_line), { "count", count_units },
                                 MK_FN(units),           MK_FN(rows),      MK_END };

MK_EXPORTS = { { .core = core, .table = "dwarf" } };
