/* load.c - what lua/minikvm/image loads images with: files that are open for a VM, their bytes
 * in RAM, the mode, the first instruction. Runs on the thread that runs Lua.
 *
 * A file stays open until its VM is closed, because a reset reads it again; it is known by a
 * number. Every range is checked here once more, whatever Lua has computed. */
#include "files/fill.h"
#include "io/rw.h"
#include "lua/core.h"

#include "base/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_MAX (64u << 20) /* of one image_read() */
/* RAM of a VM that is not told: in real mode, and in the others. */
#define RAM_REAL UINT64_C(0x100000)
#define RAM_USUAL UINT64_C(0x400000)

void mk_lua_free_files(struct mk_lua_vm *v)
{
    for (unsigned i = 0; i < v->file_count; i++)
        if (v->files[i] >= 0)
            close(v->files[i]);
    free(v->files);
    v->files = NULL;
    v->file_count = 0;
}

/* --- files --- */

/* A closed place, or a new one; NULL when there is no memory. */
static int *free_place(struct mk_lua_vm *v)
{
    for (unsigned i = 0; i < v->file_count; i++)
        if (v->files[i] < 0)
            return &v->files[i];
    int *more = realloc(v->files, (v->file_count + 1) * sizeof(*more));
    if (!more)
        return NULL;
    v->files = more;
    more[v->file_count] = -1;
    return &more[v->file_count++];
}

/* image_open(vm, path) -> number, size | nil, text, name */
static int image_open(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    const char *path = mk_check_cstring(L, 2);
    struct mk_err err;
    struct stat st;
    int *file = free_place(v);
    if (!file)
        mk_fail_errno(&err, ENOMEM, "%s", path);
    if (!file || (*file = mk_open_regular(path, O_RDONLY, &st, &err)) < 0)
        return mk_push_err(L, &err);
    lua_pushinteger(L, file - v->files);
    lua_pushinteger(L, st.st_size);
    return 2;
}

/* file_size(path) -> bytes | nil, text, name: of a regular file that can be read. */
static int file_size(lua_State *L)
{
    struct stat st;
    struct mk_err err;
    int fd = mk_open_regular(luaL_checkstring(L, 1), O_RDONLY, &st, &err);
    if (fd < 0)
        return mk_push_err(L, &err);
    close(fd);
    lua_pushinteger(L, st.st_size);
    return 1;
}

static int *check_file(lua_State *L, struct mk_lua_vm *v, int index)
{
    lua_Integer i = luaL_checkinteger(L, index);
    luaL_argcheck(L, i >= 0 && i < v->file_count && v->files[i] >= 0, index, "no open image");
    return &v->files[i];
}

int mk_lua_image_fd(lua_State *L, struct mk_lua_vm *v, int index)
{
    return *check_file(L, v, index);
}

/* image_close(vm, number) */
static int image_close(lua_State *L)
{
    int *fd = check_file(L, mk_check_vm(L, 1), 2);
    close(*fd);
    *fd = -1;
    return 0;
}

/* image_identity(vm, number) -> text that differs for another file and for other contents, path:
 * the whole one, nil when it has none any more */
static int image_identity(lua_State *L)
{
    int fd = *check_file(L, mk_check_vm(L, 1), 2);
    struct stat st;
    char link[64], path[4096];
    if (fstat(fd, &st) < 0)
        return mk_lua_error(L, "fstat: %s", strerror(errno));
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path));
    lua_pushfstring(L, "%I.%I.%I.%I.%I", (lua_Integer)st.st_dev, (lua_Integer)st.st_ino,
                    (lua_Integer)st.st_size, (lua_Integer)st.st_mtim.tv_sec,
                    (lua_Integer)st.st_mtim.tv_nsec);
    if (n > 0 && (size_t)n < sizeof(path) && path[0] == '/')
        lua_pushlstring(L, path, (size_t)n);
    else
        lua_pushnil(L);
    return 2;
}

/* image_read(vm, number, offset, bytes) -> string | nil, text, name. At most 64 MiB. */
static int image_read(lua_State *L)
{
    int fd = *check_file(L, mk_check_vm(L, 1), 2);
    lua_Integer offset = luaL_checkinteger(L, 3), bytes = luaL_checkinteger(L, 4);
    struct mk_err err;
    luaL_Buffer b;
    luaL_argcheck(L, bytes >= 0 && bytes <= READ_MAX, 4, "too many bytes");
    char *to = luaL_buffinitsize(L, &b, (size_t)bytes);
    ssize_t got = mk_read_at(fd, to, (size_t)bytes, offset);
    if (got != bytes) { /* it became shorter */
        mk_fail_errno(&err, got < 0 ? errno : EIO, "reading at %lld", (long long)offset);
        return mk_push_err(L, &err);
    }
    luaL_pushresultsize(&b, (size_t)bytes);
    return 1;
}

/* --- into RAM --- */

/* image_put(vm, address, number | string, offset, bytes) -> true | nil, text, name: a part of an
 * open file, or of a string, into RAM */
static int image_put(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    uint64_t at = (uint64_t)luaL_checkinteger(L, 2), offset = (uint64_t)luaL_checkinteger(L, 4);
    uint64_t bytes = (uint64_t)luaL_checkinteger(L, 5);
    struct mk_err err;
    int rc = 0;
    if (lua_type(L, 3) == LUA_TSTRING) {
        size_t size;
        const char *from = lua_tolstring(L, 3, &size);
        luaL_argcheck(L, mk_inside(offset, bytes, size), 5, "beyond the end of the string");
        if (!mk_mem_write(&v->vm.mem, at, from + offset, bytes))
            rc = mk_fail(&err, EFBIG, "%llu bytes at 0x%llx are not all in RAM",
                         (unsigned long long)bytes, (unsigned long long)at);
    } else {
        rc = mk_fill_from_file(&v->vm.mem, at, *check_file(L, v, 3), offset, bytes, &err);
    }
    return mk_push_self(L, rc, &err);
}

/* image_zero(vm, address, bytes) -> true | nil, text, name */
static int image_zero(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    return mk_push_self(L,
                        mk_fill_zero(&v->vm.mem, (uint64_t)luaL_checkinteger(L, 2),
                                     (uint64_t)luaL_checkinteger(L, 3), &err),
                        &err);
}

/* --- the VM --- */

/* Pushes a list of { at, size } of the RAM beyond what begins at 0: above the hole, and mapped. */
static void push_ranges(lua_State *L, const struct mk_mem *mem)
{
    lua_Integer count = 0;
    lua_newtable(L);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        if (r->gpa == 0 || r->kind != MK_RAM)
            continue;
        lua_createtable(L, 2, 0);
        lua_pushinteger(L, (lua_Integer)r->gpa);
        lua_rawseti(L, -2, 1);
        lua_pushinteger(L, (lua_Integer)r->size);
        lua_rawseti(L, -2, 2);
        lua_rawseti(L, -2, ++count);
    }
}

/* layout(vm, cpu) -> a table of what an image must know of its VM. Raises while it runs, and when
 * a register was set that loading an image for this vCPU would set, too. */
static int layout(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    const struct mk_vm *vm = &v->vm;
    lua_Integer cpu = luaL_checkinteger(L, 2);
    mk_check_stopped(L, v, "load");
    if (cpu >= 0 && cpu < vm->cpus && v->cpu[cpu]->set)
        return mk_lua_error(L,
                            "vm:load: cpu %d's %s was set before, and loading sets all registers: "
                            "set it after vm:load",
                            (int)cpu, v->cpu[cpu]->set);
    lua_createtable(L, 0, 14);
    mk_set_string(L, "mode", mk_lua_modes[vm->mode]);
    mk_set_string(L, "name", vm->name);
    mk_set_string(L, "cmdline", vm->command_line);
    mk_set_integer(L, "cpus", vm->cpus);
    mk_set_integer(L, "window", mk_real_window(vm->cpus));
    mk_set_integer(L, "stacks", (uint64_t)(vm->cpus - 1) * MK_CPU_STACK);
    mk_set_integer(L, "memory", vm->mem.size < MK_HOLE ? vm->mem.size : MK_HOLE);
    push_ranges(L, &vm->mem);
    lua_setfield(L, -2, "ranges");
    mk_set_integer(L, "map_size", vm->mapping.size);
    mk_set_integer(L, "map_base", vm->mapping.base);
    mk_set_integer(L, "low", vm->places.low);
    mk_set_integer(L, "tables", vm->places.tables);
    mk_set_integer(L, "tables_end", vm->places.end);
    mk_set_boolean(L, "mode_open", vm->mode_open);
    mk_set_boolean(L, "memory_open", vm->memory_open);
    return 1;
}

/* set_mode(vm, mode[, memory]) -> vm | nil, text, name: for a VM whose mode nobody chose; with so
 * much RAM, or the mode's usual size, unless somebody chose that. */
static int set_mode(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    enum mk_mode mode = (enum mk_mode)luaL_checkoption(L, 2, NULL, mk_lua_modes);
    struct mk_err err;
    luaL_argcheck(L, v->vm.mode_open, 1, "the mode was chosen");
    uint64_t usual = mode == MK_MODE_REAL ? RAM_REAL : RAM_USUAL, memory = v->vm.mem.size;
    if (v->vm.memory_open)
        memory = (uint64_t)luaL_optinteger(L, 3, (lua_Integer)usual);
    int rc = mode == v->vm.mode ? 0 : mk_vm_set_mode(&v->vm, mode, memory, &err);
    return mk_push_self(L, rc, &err);
}

/* The field `handoff` of set_entry()'s table: { cr0=, cr3=, cr4=, efer=, pat=, rsp=, gdt=,
 * gdt_limit=, cs=, ds=, code=, data= }. */
static void read_handoff(lua_State *L, int index, struct mk_entry *entry)
{
    entry->has_handoff = lua_getfield(L, index, "handoff") == LUA_TTABLE;
    if (entry->has_handoff) {
        int at = lua_gettop(L);
        entry->handoff =
            (struct mk_handoff){ .cr0 = (uint64_t)mk_integer_field(L, at, "cr0", 0),
                                 .cr3 = (uint64_t)mk_integer_field(L, at, "cr3", 0),
                                 .cr4 = (uint64_t)mk_integer_field(L, at, "cr4", 0),
                                 .efer = (uint64_t)mk_integer_field(L, at, "efer", 0),
                                 .rsp = (uint64_t)mk_integer_field(L, at, "rsp", 0),
                                 .pat = (uint64_t)mk_integer_field(L, at, "pat", 0),
                                 .gdt = (uint64_t)mk_integer_field(L, at, "gdt", 0),
                                 .gdt_limit = (uint16_t)mk_integer_field(L, at, "gdt_limit", 0),
                                 .cs = (uint16_t)mk_integer_field(L, at, "cs", 0),
                                 .ds = (uint16_t)mk_integer_field(L, at, "ds", 0),
                                 .code = (uint64_t)mk_integer_field(L, at, "code", 0),
                                 .data = (uint64_t)mk_integer_field(L, at, "data", 0) };
    }
    lua_pop(L, 1);
}

/* set_entry(vm, { cpu=, ip=, segment=, regs=, eax=, ebx=, edx=, esi=, low=, tables=, tables_end=,
 * handoff= }) -> vm | nil, text, name: points a vCPU at its first instruction. */
static int set_entry(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    struct mk_entry entry = { .cpu = (unsigned)mk_integer_field(L, 2, "cpu", 0),
                              .segment = (uint16_t)mk_integer_field(L, 2, "segment", 0),
                              .ip = (uint64_t)mk_integer_field(L, 2, "ip", 0),
                              .has_regs = mk_true_field(L, 2, "regs"),
                              .eax = (uint32_t)mk_integer_field(L, 2, "eax", 0),
                              .ebx = (uint32_t)mk_integer_field(L, 2, "ebx", 0),
                              .edx = (uint32_t)mk_integer_field(L, 2, "edx", 0),
                              .esi = (uint32_t)mk_integer_field(L, 2, "esi", 0),
                              .places = { .low = (uint64_t)mk_integer_field(L, 2, "low", 0),
                                          .tables = (uint64_t)mk_integer_field(L, 2, "tables", 0),
                                          .end =
                                              (uint64_t)mk_integer_field(L, 2, "tables_end", 0) } };
    luaL_argcheck(L, entry.cpu < v->vm.cpus, 2, "no such cpu");
    read_handoff(L, 2, &entry);
    return mk_push_self(L, mk_vm_set_entry(&v->vm, &entry, &err), &err);
}

/* load_failed(vm, text, half): a run with nothing loaded will say why; `half`: RAM has part of an
 * image, and nothing can run until another one is loaded. */
static int load_failed(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_fail(&v->vm.load_error, EINVAL, "%s", luaL_checkstring(L, 2));
    for (unsigned i = 0; lua_toboolean(L, 3) && i < v->vm.cpus; i++)
        v->vm.cpu[i]->ready = v->vm.cpu[i]->has_entry = false;
    return 0;
}

/* check_open(vm): raises when it is closed. */
static int check_open(lua_State *L)
{
    mk_check_vm(L, 1);
    return 0;
}

static const luaL_Reg core[] = { MK_FN(image_open),
                                 MK_FN(image_close),
                                 MK_FN(image_identity),
                                 MK_FN(image_read),
                                 MK_FN(image_put),
                                 MK_FN(image_zero),
                                 MK_FN(layout),
                                 MK_FN(set_mode),
                                 MK_FN(set_entry),
                                 MK_FN(load_failed),
                                 MK_FN(check_open),
                                 MK_FN(file_size),
                                 MK_END };

MK_EXPORTS = { { .type = MK_SYMBOLS, .core = core } };
