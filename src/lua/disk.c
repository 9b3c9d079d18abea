/* disk.c - disks of guests as objects: what devices made in Lua read and write (device:disk(), in
 * lua/minikvm/device/disk.lua, which checks the options). Belongs to the Lua state, not to a VM.
 *
 * A layer (files/layer.h) is an object of its own, opaque, so that snapshots can hold one. Used by
 * the thread that runs Lua, handlers of a vCPU included; virtio's disks (dev/blk.h) read and write
 * on threads of theirs. */
#include "lua/core.h"

#include "files/disk.h"

#include <errno.h>

/* --- layers --- */

struct mk_layer *mk_check_layer(lua_State *L, int index)
{
    return *(struct mk_layer **)luaL_checkudata(L, index, MK_LAYER);
}

void mk_push_layer(lua_State *L, struct mk_layer *layer)
{
    void **owner = mk_push_owner(L, MK_LAYER);
    *owner = mk_layer_ref(layer);
}

MK_RELEASE(layer_gc, MK_LAYER, mk_layer_unref)

/* --- disks --- */

struct mk_lua_disk {
    struct mk_lua_member member; /* in the VM whose device has it */
    struct mk_disk disk;
};

struct mk_disk *mk_check_disk(lua_State *L, int index)
{
    struct mk_lua_disk *d = luaL_testudata(L, index, MK_DISK);
    if (!d)
        mk_lua_error(L, "expected a disk, got %s: call its methods with ':'",
                     luaL_typename(L, index));
    if (!d->disk.name)
        mk_lua_error(L, "the disk is closed");
    return &d->disk;
}

static struct mk_disk *check_disk(lua_State *L)
{
    return mk_check_disk(L, 1);
}

static void close_disk(struct mk_lua_member *member)
{
    struct mk_lua_disk *d = (struct mk_lua_disk *)member;
    struct mk_lua_vm *v = mk_lua_leave(member);
    if (v)
        mk_blks_drop_disk(&v->vm.blks, &d->disk);
    mk_disk_close(&d->disk);
}

/* disk_join(disk, vm): is closed with the VM from now on; raises when it is another's, or closed */
static int disk_join(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 2);
    check_disk(L);
    struct mk_lua_disk *d = lua_touserdata(L, 1);
    if (d->member.v)
        return mk_lua_error(L, "the disk is another device's already: open one for each");
    mk_lua_join(v, &d->member, close_disk);
    return 0;
}

/* open_disk({ path=, write= } | { size=, bytes= }, limit=) -> disk | nil, text, name */
static int open_disk(lua_State *L)
{
    size_t length = 0;
    struct mk_disk_config config = {
        .path = mk_string_field(L, 1, "path", NULL),
        .write = mk_true_field(L, 1, "write"),
        .size = (uint64_t)mk_integer_field(L, 1, "size", 0),
        .bytes = mk_string_field(L, 1, "bytes", &length),
        .limit = (uint64_t)mk_integer_field(L, 1, "limit", 0),
    };
    struct mk_err err;
    config.bytes_length = length;
    struct mk_lua_disk *d = lua_newuserdatauv(L, sizeof(*d), 0);
    *d = (struct mk_lua_disk){ .disk.fd = -1 };
    mk_set_type(L, MK_DISK);
    return mk_disk_open(&d->disk, &config, &err) < 0 ? mk_push_err(L, &err) : 1;
}

/* A range of the disk at index 2, whose length is at 3 or `length`. */
static uint64_t check_range(lua_State *L, const struct mk_disk *disk, size_t length)
{
    uint64_t at = (uint64_t)luaL_checkinteger(L, 2);
    if (length > MK_DISK_PIECE)
        mk_lua_error(L, "disk: at most %u bytes at once, got %zu", MK_DISK_PIECE, length);
    if (!mk_inside(at, length, disk->size))
        mk_lua_error(L, "disk: %zu bytes at %lld lie outside of its %llu bytes", length,
                     (long long)at, (unsigned long long)disk->size);
    return at;
}

/* disk:read(at, length) -> bytes | nil, text, name */
static int disk_read(lua_State *L)
{
    struct mk_disk *disk = check_disk(L);
    lua_Integer length = luaL_checkinteger(L, 3);
    luaL_argcheck(L, length >= 0, 3, "a length is 0 or more");
    uint64_t at = check_range(L, disk, (size_t)length);
    struct mk_err err;
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, (size_t)length);
    int rc = mk_disk_read(disk, at, to, (size_t)length, &err);
    luaL_pushresultsize(&b, rc < 0 ? 0 : (size_t)length);
    return rc < 0 ? mk_push_err(L, &err) : 1;
}

/* disk:write(at, bytes) -> disk | nil, text, name */
static int disk_write(lua_State *L)
{
    struct mk_disk *disk = check_disk(L);
    size_t length;
    const char *bytes = luaL_checklstring(L, 3, &length);
    uint64_t at = check_range(L, disk, length);
    struct mk_err err;
    return mk_push_self(L, mk_disk_write(disk, at, bytes, length, &err), &err);
}

/* disk:flush() -> disk | nil, text, name */
static int disk_flush(lua_State *L)
{
    struct mk_err err;
    return mk_push_self(L, mk_disk_flush(check_disk(L), &err), &err);
}

/* disk:size() -> bytes */
static int disk_size(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_disk(L)->size);
    return 1;
}

/* disk:written() -> bytes that the layer holds, blocks of 4096; nil when writes go to the file */
static int disk_written(lua_State *L)
{
    struct mk_layer *layer = mk_disk_layer(check_disk(L));
    mk_push_optional(L, layer, layer ? layer->count * MK_LAYER_BLOCK : 0);
    mk_layer_unref(layer);
    return 1;
}

static int disk_close(lua_State *L)
{
    struct mk_lua_disk *d = luaL_checkudata(L, 1, MK_DISK);
    close_disk(&d->member);
    return 0;
}

static int disk_tostring(lua_State *L)
{
    const struct mk_lua_disk *d = luaL_checkudata(L, 1, MK_DISK);
    lua_pushfstring(L, MK_DISK " %s", d->disk.name ? d->disk.name : "(closed)");
    return 1;
}

/* --- for snapshots --- */

/* disk_layer(disk) -> what was written to it | nil: that goes to its file */
static int disk_layer(lua_State *L)
{
    struct mk_disk *disk = check_disk(L);
    void **owner = mk_push_owner(L, MK_LAYER);
    *owner = mk_disk_layer(disk);
    if (!*owner)
        lua_pushnil(L);
    return 1;
}

/* disk_put(disk, layer | nil): that is what was written to it; nil: nothing since it was opened */
static int disk_put(lua_State *L)
{
    struct mk_disk *disk = check_disk(L);
    if (lua_isnil(L, 2)) {
        mk_disk_reset(disk);
        return 0;
    }
    struct mk_layer *layer = mk_check_layer(L, 2);
    luaL_argcheck(L, disk->first && disk->first->blocks == layer->blocks, 2, "of another disk");
    mk_disk_put(disk, layer);
    return 0;
}

/* disk_sum(disk) -> a checksum of what lies below its layer | nil, text, name */
static int disk_sum(lua_State *L)
{
    uint32_t sum;
    struct mk_err err;
    if (mk_disk_sum(check_disk(L), &sum, &err) < 0)
        return mk_push_err(L, &err);
    lua_pushinteger(L, sum);
    return 1;
}

static const luaL_Reg layer_meta[] = { { "__gc", layer_gc }, MK_END };
static const luaL_Reg meta[] = {
    { "__gc", disk_close }, { "__close", disk_close }, { "__tostring", disk_tostring }, MK_END
};
static const luaL_Reg methods[] = { { "read", disk_read },
                                    { "write", disk_write },
                                    { "flush", disk_flush },
                                    { "size", disk_size },
                                    { "written", disk_written },
                                    { "close", disk_close },
                                    MK_END };
static const luaL_Reg core[] = { MK_FN(open_disk), MK_FN(disk_layer), MK_FN(disk_put),
                                 MK_FN(disk_sum),  MK_FN(disk_join),  MK_END };

MK_EXPORTS = { { .type = MK_LAYER, .meta = layer_meta },
               { .type = MK_DISK, .meta = meta, .methods = methods, .core = core } };
