/* dwarf.c - opens the debugging information of an ELF file; source lines. See dwarf.h. */
#include "lua/dwarf.h"

#include "files/rw.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIBRARY "libdw.so.1"
#define UNITS_MAX (1u << 18)
#define RANGES_MAX (1u << 21)
#define FOUND_MAX 4096 /* addresses of one line */

struct mk_libdw mk_libdw;

#define dw mk_libdw

static bool loaded;

/* It stays in the process. */
static void load_library(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_NODELETE);
    if (!library)
        return;
    loaded = true;
#define LOOK_UP(name)                                                                              \
    *(void **)&dw.name = dlsym(library, #name);                                                    \
    loaded = loaded && dw.name;
    MK_LIBDW(LOOK_UP)
#undef LOOK_UP
    dlclose(library);
    loaded = loaded && dw.elf_version(EV_CURRENT) != EV_NONE;
}

/* Any state may be the first one. */
static bool has_library(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_library);
    return loaded;
}

struct mk_dwarf *mk_check_dwarf(lua_State *L)
{
    struct mk_dwarf *d = luaL_checkudata(L, 1, MK_DWARF);
    if (!d->elf)
        mk_lua_error(L, "the file of this debugging information is closed");
    return d;
}

void mk_add_dwarf(lua_State *L, const luaL_Reg *functions)
{
    if (lua_getfield(L, -1, "dwarf") == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, "dwarf");
    }
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}

/* --- units, and where they lie --- */

bool mk_dwarf_loaded(const struct mk_dwarf *d, uint64_t address)
{
    size_t count;
    GElf_Phdr p;
    bool any = false;
    if (dw.elf_getphdrnum(d->elf, &count) < 0)
        return true;
    for (size_t i = 0; i < count && i < 1024; i++) {
        if (!dw.gelf_getphdr(d->elf, (int)i, &p) || p.p_type != PT_LOAD)
            continue;
        any = true;
        if (address - p.p_vaddr < p.p_memsz)
            return true;
    }
    return !any;
}

/* Room for one more element; false: no memory, or too many. */
static bool grow(void **list, size_t count, size_t size, size_t most)
{
    if (count & (count - 1))
        return true; /* the room doubles at powers of two */
    if (count >= most)
        return false;
    void *more = realloc(*list, (count ? 2 * count : 1) * size);
    if (more)
        *list = more;
    return more != NULL;
}

static bool add_ranges(struct mk_dwarf *d, Dwarf_Die *die, uint32_t unit)
{
    Dwarf_Addr base, low, high;
    ptrdiff_t at = 0;
    while ((at = dw.dwarf_ranges(die, at, &base, &low, &high)) > 0) {
        if (low >= high || !mk_dwarf_loaded(d, low))
            continue;
        if (!grow((void **)&d->ranges, d->range_count, sizeof(*d->ranges), RANGES_MAX))
            return false;
        d->ranges[d->range_count++] = (struct mk_unit_range){ low, high, unit };
    }
    return true;
}

static bool is_regular(const char *directory, const char *name)
{
    char path[4096];
    struct stat st;
    int n = directory && name[0] != '/' ? snprintf(path, sizeof(path), "%s/%s", directory, name)
                                        : snprintf(path, sizeof(path), "%s", name);
    return n > 0 && (size_t)n < sizeof(path) && (stat(path, &st) < 0 || S_ISREG(st.st_mode));
}

/* Whether libdw may look for the .dwo file that a skeleton unit names: it opens whatever is there.
 */
static bool may_follow(const struct mk_dwarf *d, Dwarf_Die *skeleton)
{
    Dwarf_Attribute attr;
    char link[64], own[4096];
    const char *name = dw.dwarf_formstring(dw.dwarf_attr(skeleton, DW_AT_dwo_name, &attr));
    if (!name)
        name = dw.dwarf_formstring(dw.dwarf_attr(skeleton, DW_AT_GNU_dwo_name, &attr));
    const char *directory = dw.dwarf_formstring(dw.dwarf_attr(skeleton, DW_AT_comp_dir, &attr));
    if (!name || !d->split)
        return false;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", d->fd);
    ssize_t n = d->fd < 0 ? -1 : readlink(link, own, sizeof(own) - 1);
    own[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(own, '/');
    if (slash)
        *slash = 0;
    return is_regular(slash ? own : ".", name) && (!directory || is_regular(directory, name));
}

/* Whether the sections of strings end with a null byte, which libdw 0.188 relies on in tables of
 * lines: it would read on behind them. Once they are unpacked, if they were packed. */
static bool has_whole_strings(Elf *elf)
{
    size_t names;
    GElf_Shdr header;
    Elf_Scn *section = NULL;
    if (dw.elf_getshdrstrndx(elf, &names) != 0)
        return false;
    while ((section = dw.elf_nextscn(elf, section))) {
        const char *name =
            dw.gelf_getshdr(section, &header) ? dw.elf_strptr(elf, names, header.sh_name) : NULL;
        if (!name || (!strstr(name, "debug_str") && !strstr(name, "debug_line_str")) ||
            strstr(name, "debug_str_offsets"))
            continue;
        const Elf_Data *data = dw.elf_getdata(section, NULL);
        const char *bytes = data ? data->d_buf : NULL;
        if (bytes && data->d_size && bytes[data->d_size - 1])
            return false;
    }
    return true;
}

static int compare_ranges(const void *a, const void *b)
{
    const struct mk_unit_range *x = a, *y = b;
    return x->low != y->low ? (x->low < y->low ? -1 : 1)
                            : (x->high > y->high) - (x->high < y->high);
}

/* Reads the list of units. A damaged one ends it: the ones before count. */
static void read_units(struct mk_dwarf *d)
{
    Dwarf_CU *cu = NULL;
    struct mk_unit unit;
    uint8_t type;
    while (dw.dwarf_get_units(d->info, cu, &cu, NULL, &type, &unit.top, NULL) == 0) {
        if (type != DW_UT_compile && type != DW_UT_skeleton)
            continue;
        if (!grow((void **)&d->units, d->unit_count, sizeof(*d->units), UNITS_MAX))
            break;
        unit.dies = unit.top;
        Dwarf_Die split;
        if (type == DW_UT_skeleton && may_follow(d, &unit.top) &&
            dw.dwarf_cu_info(cu, NULL, NULL, NULL, &split, NULL, NULL, NULL) == 0 && split.cu &&
            has_whole_strings(dw.dwarf_getelf(dw.dwarf_cu_getdwarf(split.cu))))
            unit.dies = split;
        d->units[d->unit_count++] = unit;
        if (!add_ranges(d, &unit.top, (uint32_t)(d->unit_count - 1)))
            break;
    }
    if (d->range_count)
        qsort(d->ranges, d->range_count, sizeof(*d->ranges), compare_ranges);
}

struct mk_unit *mk_dwarf_unit(const struct mk_dwarf *d, uint64_t address)
{
    size_t low = 0, high = d->range_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (d->ranges[middle].low <= address)
            low = middle + 1;
        else
            high = middle;
    }
    /* Ranges hardly overlap. */
    for (size_t i = low, n = 0; i > 0 && n < 64; i--, n++)
        if (address < d->ranges[i - 1].high)
            return &d->units[d->ranges[i - 1].unit];
    return NULL;
}

/* --- opening --- */

static int dwarf_close(lua_State *L)
{
    struct mk_dwarf *d = luaL_checkudata(L, 1, MK_DWARF);
    free(d->frame);
    if (d->cfi[1])
        dw.dwarf_cfi_end(d->cfi[1]);
    if (d->info)
        dw.dwarf_end(d->info);
    if (d->elf)
        dw.elf_end(d->elf);
    if (d->fd >= 0)
        close(d->fd);
    free(d->copy);
    free(d->units);
    free(d->ranges);
    free(d->dies);
    *d = (struct mk_dwarf){ .fd = -1 };
    return 0;
}

/* Whether the file at `path` has exactly these bytes: then its descriptor; -1. */
static int open_same(const char *path, const char *bytes, size_t size)
{
    struct stat st;
    char piece[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool same = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (size_t)st.st_size == size;
    for (size_t at = 0; same && at < size; at += sizeof(piece)) {
        size_t n = size - at < sizeof(piece) ? size - at : sizeof(piece);
        same = mk_read_at(fd, piece, n, (off_t)at) == (ssize_t)n && !memcmp(piece, bytes + at, n);
    }
    if (same)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* From the file while it is what was loaded, which also tells where its .dwo files are. */
static bool open_bytes(struct mk_dwarf *d, const char *path, const char *bytes, size_t size)
{
    d->fd = path ? open_same(path, bytes, size) : -1;
    if (d->fd >= 0) {
        d->elf = dw.elf_begin(d->fd, ELF_C_READ, NULL);
        return d->elf != NULL;
    }
    d->copy = malloc(size);
    if (d->copy)
        d->elf = dw.elf_memory(memcpy(d->copy, bytes, size), size);
    return d->elf != NULL;
}

/* dwarf.open(path | nil, string | number, split, vm) -> debugging information[, why it has frames
 * alone] | nil, why, name: of these bytes, which were read from the file at `path`, or of an open
 * image of the VM (load.c); `split`: .dwo files that it names may be read. */
static int dwarf_open(lua_State *L)
{
    const char *path = lua_isnil(L, 1) ? NULL : mk_check_cstring(L, 1);
    size_t size;
    bool in_memory = lua_type(L, 2) == LUA_TSTRING, opened;
    int fd = in_memory ? -1 : mk_lua_image_fd(L, mk_check_vm(L, 4), 2);
    struct mk_dwarf *d = lua_newuserdatauv(L, sizeof(*d), 1);
    *d = (struct mk_dwarf){ .fd = -1, .split = lua_toboolean(L, 3) };
    luaL_setmetatable(L, MK_DWARF);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    if (!has_library()) {
        luaL_pushfail(L);
        lua_pushstring(L, LIBRARY " cannot be loaded (Debian: libdw1)");
        lua_pushstring(L, "ENOENT");
        return 3;
    }
    if (in_memory) {
        const char *bytes = lua_tolstring(L, 2, &size);
        opened = open_bytes(d, path, bytes, size);
    } else {
        d->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        opened = d->fd >= 0 && (d->elf = dw.elf_begin(d->fd, ELF_C_READ, NULL)) != NULL;
    }
    if (!opened) {
        luaL_pushfail(L);
        lua_pushstring(L, "not an ELF file for libelf");
        lua_pushstring(L, "ENOEXEC");
        return 3;
    }
    d->info = dw.dwarf_begin_elf(d->elf, DWARF_C_READ, NULL);
    bool whole = d->info && has_whole_strings(d->elf);
    if (!whole) { /* .eh_frame may be there all the same */
        lua_pushstring(L, d->info ? "a section of strings does not end with a null byte"
                                  : dw.dwarf_errmsg(-1));
        if (d->info)
            dw.dwarf_end(d->info);
        d->info = NULL;
        return 2;
    }
    read_units(d);
    return 1;
}

/* --- source lines --- */

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
        lua_Integer found = (lua_Integer)lua_rawlen(L, -1);
        lua_pushinteger(L, (lua_Integer)row.address);
        if (found < FOUND_MAX)
            lua_rawseti(L, -2, found + 1);
        else
            lua_pop(L, 1);
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
    Dwarf_Addr base, low, high;
    Dwarf_Attribute attr;
    lua_createtable(L, (int)d->unit_count, 0);
    for (size_t i = 0; i < d->unit_count; i++) {
        ptrdiff_t at = 0;
        lua_Integer n = 0;
        lua_createtable(L, 0, 3);
        mk_push_source(L, &d->units[i].top, dw.dwarf_diename(&d->units[i].top));
        lua_setfield(L, -2, "name");
        mk_set_string(L, "directory",
                      dw.dwarf_formstring(dw.dwarf_attr(&d->units[i].top, DW_AT_comp_dir, &attr)));
        lua_newtable(L);
        while ((at = dw.dwarf_ranges(&d->units[i].top, at, &base, &low, &high)) > 0) {
            if (low >= high || !mk_dwarf_loaded(d, low))
                continue;
            lua_pushinteger(L, (lua_Integer)low);
            lua_rawseti(L, -2, ++n);
            lua_pushinteger(L, (lua_Integer)high);
            lua_rawseti(L, -2, ++n);
        }
        lua_setfield(L, -2, "ranges");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
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

void mk_open_dwarf(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__gc", dwarf_close },
                                     { "__close", dwarf_close },
                                     { NULL, NULL } };
    static const luaL_Reg functions[] = {
        { "open", dwarf_open },   { "line", dwarf_line }, { "find_line", find_line },
        { "count", count_units }, { "units", units },     { "rows", rows },
        { NULL, NULL },
    };
    mk_new_type(L, MK_DWARF, meta, NULL);
    mk_add_dwarf(L, functions);
}
