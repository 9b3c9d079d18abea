/* map.c - memory that a script adds to a VM: the core behind vm.memory:map()
 * (lua/minikvm/vm/memory.lua checks its options), and the list of regions. Runs on the thread that
 * runs Lua. */
#include "lua/core.h"

#include "files/ram.h"
#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE (64u << 10)

/* Where a region's bytes come from: a string, a file, or nothing. */
struct contents {
    const char *bytes, *path;
    size_t length; /* of bytes */
    int fd;        /* of path */
};

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + MK_PAGE - 1) & ~(uint64_t)(MK_PAGE - 1);
}

static int open_path(struct contents *from, bool write, struct mk_err *err)
{
    struct stat st;
    from->fd = mk_open_regular(from->path, write ? O_RDWR : O_RDONLY, &st, err);
    if (from->fd < 0)
        return -1;
    if (st.st_size == 0)
        return mk_fail(err, EINVAL, "%s: the file is empty", from->path);
    from->length = (size_t)st.st_size;
    return 0;
}

/* The size that was asked for, or that of the contents; they must fit. */
static int check_size(const struct contents *from, struct mk_region *r, struct mk_err *err)
{
    bool shared = r->kind == MK_SHARED;
    if (r->size == 0)
        r->size = page_up(from->length);
    if (shared && r->size > page_up(from->length))
        return mk_fail(err, EINVAL,
                       "%s: the file has %zu bytes, the region 0x%llx: make the file "
                       "longer first, or leave size out",
                       from->path, from->length, (unsigned long long)r->size);
    if (!shared && from->length > r->size)
        return mk_fail(err, EFBIG, "%s: %zu bytes do not fit into a region of 0x%llx",
                       from->path ? from->path : r->name, from->length,
                       (unsigned long long)r->size);
    r->filled = shared ? 0 : from->length;
    return 0;
}

static int copy_file(struct mk_ram *to, const struct contents *from, struct mk_err *err)
{
    char *piece = malloc(PIECE);
    ssize_t got = piece ? 1 : -1;
    for (uint64_t at = 0; at < from->length && got > 0; at += got > 0 ? (uint64_t)got : 0) {
        uint64_t left = from->length - at;
        got = mk_read_at(from->fd, piece, left < PIECE ? left : PIECE, (off_t)at);
        if (got > 0 && mk_ram_fill(to, at, piece, (uint64_t)got) < 0)
            got = -1;
    }
    int rc = got > 0 ? 0 : mk_fail_errno(err, got ? errno : EIO, "%s", from->path);
    free(piece);
    return rc;
}

/* What the region begins with, as a copy that nobody changes. */
static struct mk_ram *copy_contents(const struct contents *from, uint64_t size, struct mk_err *err)
{
    struct mk_ram *ram = mk_ram_new(size, err);
    int rc = 0;
    if (ram && from->path)
        rc = copy_file(ram, from, err);
    else if (ram && mk_ram_fill(ram, 0, from->bytes, from->length) < 0)
        rc = mk_fail_errno(err, errno, "the contents of a region");
    if (rc == 0)
        return ram;
    mk_ram_unref(ram);
    return NULL;
}

static struct mk_region *map(struct mk_vm *vm, struct contents *from, struct mk_region *want,
                             struct mk_err *err)
{
    if ((from->path && open_path(from, want->kind == MK_SHARED && !want->read_only, err) < 0) ||
        check_size(from, want, err) < 0)
        return NULL;
    if (want->kind == MK_SHARED || from->length == 0)
        return mk_vm_map(vm, want, from->fd, err);
    if (mk_vm_check_map(vm, want, err) < 0)
        return NULL;
    struct mk_ram *copy = copy_contents(from, want->size, err);
    struct mk_region *added = copy ? mk_vm_map(vm, want, copy->fd, err) : NULL;
    mk_ram_unref(copy);
    return added;
}

/* --- handles --- */

static struct mk_region *region_of(struct mk_lua_vm *v, const struct mk_handle *handle)
{
    return mk_mem_by_slot(&v->vm.mem, (uint32_t)handle->number);
}

static uint64_t ignored_writes(struct mk_lua_vm *v, struct mk_handle *handle)
{
    return atomic_load(&region_of(v, handle)->ignored);
}

static void unmap(lua_State *L, struct mk_lua_vm *v, struct mk_handle *handle, int vm_index)
{
    struct mk_err err;
    (void)vm_index;
    handle->removed = false; /* until it is */
    mk_check_stopped(L, v, "memory:map: remove");
    handle->removed = true;
    if (mk_vm_unmap(&v->vm, region_of(v, handle), &err) < 0)
        luaL_error(L, "%s", err.text);
}

/* --- the core's functions --- */

/* memory_map(memory, { at=, size=, name=, rom=, shared=, bytes= | path= })
 * -> handle | nil, text, name */
static int memory_map(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    bool rom = mk_true_field(L, 2, "rom"), shared = mk_true_field(L, 2, "shared");
    struct contents from = { .fd = -1, .path = mk_string_field(L, 2, "path", NULL) };
    struct mk_region want = { .gpa = (uint64_t)mk_integer_field(L, 2, "at", 0),
                              .size = (uint64_t)mk_integer_field(L, 2, "size", 0),
                              .kind = shared ? MK_SHARED
                                      : rom  ? MK_ROM
                                             : MK_RAM,
                              .read_only = rom };
    struct mk_err err;
    from.bytes = mk_string_field(L, 2, "bytes", &from.length);
    snprintf(want.name, sizeof(want.name), "%s", mk_string_field(L, 2, "name", NULL));
    mk_check_stopped(L, v, "memory:map");
    mk_check_cpus(L, v);
    lua_getiuservalue(L, 1, 1);
    struct mk_handle *handle = mk_new_handle(L, lua_gettop(L));
    struct mk_region *added = map(&v->vm, &from, &want, &err);
    if (from.fd >= 0)
        close(from.fd);
    if (!added)
        return mk_push_err(L, &err);
    *handle =
        (struct mk_handle){ .remove = unmap, .count = ignored_writes, .number = (int)added->slot };
    return 1;
}

/* memory:regions() -> { { at=, size=, kind=, writable=, name= }, ... }, by address */
static int memory_regions(lua_State *L)
{
    static const char *const kinds[MK_REGION_KINDS] = { "ram", "rom", "shared" };
    const struct mk_mem *mem = &mk_check_child(L, 1, MK_MEMORY)->vm.mem;
    lua_createtable(L, (int)mem->count, 0);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        lua_createtable(L, 0, 5);
        mk_set_integer(L, "at", r->gpa);
        mk_set_integer(L, "size", r->size);
        mk_set_string(L, "kind", kinds[r->kind]);
        mk_set_string(L, "name", r->name);
        mk_set_boolean(L, "writable", !r->read_only);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* memory:has(address, length[, write]) -> whether the range is memory, to write to */
static int memory_has(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_MEMORY);
    lua_Integer address = luaL_checkinteger(L, 2), length = luaL_checkinteger(L, 3);
    lua_pushboolean(L, length >= 0 && mk_mem_has(&v->vm.mem, (uint64_t)address, (uint64_t)length,
                                                 lua_toboolean(L, 4)));
    return 1;
}

static const luaL_Reg region_methods[] = { { "regions", memory_regions },
                                           { "has", memory_has },
                                           { NULL, NULL } };

static const luaL_Reg core[] = { MK_FN(memory_map), MK_END };

MK_EXPORTS = { { .extends = MK_MEMORY, .methods = region_methods, .core = core } };
