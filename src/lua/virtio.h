/* virtio.h - the core's part of virtio devices as objects of Lua: what the files share that make
 * the kinds of them. */
#ifndef MK_LUA_VIRTIO_H
#define MK_LUA_VIRTIO_H

#include "dev/virtio.h"
#include "lua/core.h"

#define MK_VIRTIO "minikvm.virtio"

/* What the core's part knows of the script; goes with it. */
struct mk_lua_virtio {
    struct mk_lua_vm *v;
    int broken_ref, frame_ref; /* LUA_NOREF: none */
};

struct mk_virtio_box {
    struct mk_lua_member member;
    struct mk_virtio *virtio;                /* NULL: none yet */
    void (*close)(struct mk_virtio *virtio); /* what else ends with it; may be NULL */
};

/* For NAME_new(function, queues, broken): pushes an object for a new device of `size` bytes that
 * begins with a struct mk_virtio. */
struct mk_virtio *mk_virtio_push(lua_State *L, size_t size, const struct mk_virtio_ops *ops,
                                 void (*close)(struct mk_virtio *virtio));
/* The one at index 1, of a kind if `ops` is not NULL. */
struct mk_virtio *mk_check_virtio(lua_State *L, const struct mk_virtio_ops *ops);

#endif
