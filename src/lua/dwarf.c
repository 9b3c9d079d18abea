/* dwarf.c - opens the debugging information of an ELF file, finds its units. See dwarf.h. */
#include "lua/dwarf.h"

#include "io/rw.h"

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
#define UNPACKED_MAX (UINT64_C(1) << 30) /* bytes of all sections that are packed */

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

static bool add_ranges(struct mk_dwarf *d, Dwarf_Die *die, uint32_t unit)
{
    Dwarf_Addr base, low, high;
    ptrdiff_t at = 0;
    while ((at = dw.dwarf_ranges(die, at, &base, &low, &high)) > 0) {
        if (low >= high || !mk_dwarf_loaded(d, low))
            continue;
        struct mk_unit_range *more =
            d->range_count == RANGES_MAX
                ? NULL
                : mk_grow(d->ranges, &d->range_room, (d->range_count + 1) * sizeof(*more));
        if (!more)
            return false;
        d->ranges = more;
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

/* Calls fn for each section until it returns false; then that is the result. */
static bool each_section(Elf *elf, bool (*fn)(Elf_Scn *, const GElf_Shdr *, const char *, void *),
                         void *ctx)
{
    size_t names;
    GElf_Shdr header;
    Elf_Scn *section = NULL;
    if (dw.elf_getshdrstrndx(elf, &names) != 0)
        return false;
    while ((section = dw.elf_nextscn(elf, section))) {
        const char *name =
            dw.gelf_getshdr(section, &header) ? dw.elf_strptr(elf, names, header.sh_name) : NULL;
        if (name && !fn(section, &header, name, ctx))
            return false;
    }
    return true;
}

/* libdw 0.188 relies on the null byte at the end of strings in tables of lines: it would read on
 * behind them. Asked once they are unpacked. */
static bool is_whole(Elf_Scn *section, const GElf_Shdr *header, const char *name, void *ctx)
{
    (void)header, (void)ctx;
    if ((!strstr(name, "debug_str") && !strstr(name, "debug_line_str")) ||
        strstr(name, "debug_str_offsets"))
        return true;
    const Elf_Data *data = dw.elf_getdata(section, NULL);
    const char *bytes = data ? data->d_buf : NULL;
    return !bytes || !data->d_size || !bytes[data->d_size - 1];
}

static bool has_whole_strings(Elf *elf)
{
    return each_section(elf, is_whole, NULL);
}

/* Counts what a packed section says it unpacks to; gABI, "Compression Header", and GNU's
 * .zdebug_*: "ZLIB" and a big-endian number. */
static bool add_unpacked(Elf_Scn *section, const GElf_Shdr *header, const char *name, void *ctx)
{
    uint64_t *sum = ctx, size = 0;
    GElf_Chdr packed;
    const Elf_Data *data;
    if (header->sh_flags & SHF_COMPRESSED) {
        size = dw.gelf_getchdr(section, &packed) ? packed.ch_size : 0;
    } else if (strncmp(name, ".zdebug_", 8) == 0 && (data = dw.elf_getdata(section, NULL)) &&
               data->d_buf && data->d_size >= 12) {
        for (unsigned i = 4; i < 12; i++)
            size = size << 8 | ((const uint8_t *)data->d_buf)[i];
    }
    if (size > UNPACKED_MAX - *sum)
        return false;
    *sum += size;
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
        struct mk_unit *more =
            d->unit_count == UNITS_MAX
                ? NULL
                : mk_grow(d->units, &d->unit_room, (d->unit_count + 1) * sizeof(*more));
        if (!more)
            break;
        d->units = more;
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

/* Lets libdw read the sections, which it unpacks; why it cannot be used, or NULL. */
static const char *begin(struct mk_dwarf *d)
{
    uint64_t sum = 0;
    if (!each_section(d->elf, add_unpacked, &sum))
        return "its packed sections are larger than 1 GiB";
    d->info = dw.dwarf_begin_elf(d->elf, DWARF_C_READ, NULL);
    if (!d->info)
        return dw.dwarf_errmsg(-1);
    if (has_whole_strings(d->elf))
        return NULL;
    dw.dwarf_end(d->info);
    d->info = NULL;
    return "a section of strings does not end with a null byte";
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
    mk_set_type(L, MK_DWARF);
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
    const char *why = begin(d);
    if (why) { /* .eh_frame may be there all the same */
        lua_pushstring(L, why);
        return 2;
    }
    read_units(d);
    return 1;
}

static const luaL_Reg meta[] = { { "__gc", dwarf_close }, { "__close", dwarf_close }, MK_END };
static const luaL_Reg core[] = { { "open", dwarf_open }, MK_END };

MK_EXPORTS = { { .type = MK_DWARF, .meta = meta, .core = core, .table = "dwarf" } };
