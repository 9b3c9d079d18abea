/* virtio.c - the core's part of virtio devices for kvm.virtio (lua/minikvm/device/virtio.lua): the
 * ISR, and the queues that a device in C serves. Used by the thread that runs Lua.
 *
 * The core's part is closed with its VM, when vCPUs may still be inside, and freed when they and
 * Lua have let go of it. */
#include "lua/virtio.h"

#include <stdlib.h>

/* --- the object --- */

static void close_box(struct mk_lua_member *member)
{
    struct mk_virtio_box *box = (struct mk_virtio_box *)member;
    if (!mk_lua_leave(member))
        return;
    if (box->close)
        box->close(box->virtio);
    mk_virtio_close(box->virtio);
}

static int virtio_gc(lua_State *L)
{
    struct mk_virtio_box *box = luaL_checkudata(L, 1, MK_VIRTIO);
    close_box(&box->member);
    if (box->virtio)
        mk_virtio_unref(box->virtio);
    box->virtio = NULL;
    return 0;
}

/* virtio_close(virtio): its PCI function goes */
static int virtio_close(lua_State *L)
{
    struct mk_virtio_box *box = luaL_checkudata(L, 1, MK_VIRTIO);
    close_box(&box->member);
    return 0;
}

/* Lua has the lock, so that a detached device's function is not looked for any more. */
static void broken(void *ctx, struct mk_cpu *cpu, const char *why)
{
    const struct mk_lua_virtio *lua = ctx;
    mk_lua_notify(lua->v, cpu->index, NULL, &lua->broken_ref, "s", why, strlen(why));
}

struct mk_virtio *mk_virtio_push(lua_State *L, size_t size, const struct mk_virtio_ops *ops,
                                 void (*close)(struct mk_virtio *virtio))
{
    struct mk_pci_fn *fn = mk_check_pci_fn(L);
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_PCI_FN);
    unsigned queues = (unsigned)luaL_checkinteger(L, 2);
    struct mk_err err;
    luaL_checktype(L, 3, LUA_TFUNCTION);
    lua_getiuservalue(L, 1, 1);
    int vm_index = lua_gettop(L);
    struct mk_virtio_box *box = mk_new_child(L, vm_index, sizeof(*box), MK_VIRTIO);
    struct mk_virtio *virtio = calloc(1, size);
    struct mk_lua_virtio *lua = calloc(1, sizeof(*lua));
    if (!virtio || !lua) {
        free(virtio);
        free(lua);
        mk_lua_error(L, "out of memory for a virtio device");
    }
    *lua = (struct mk_lua_virtio){ .v = v, .broken_ref = LUA_NOREF, .frame_ref = LUA_NOREF };
    virtio->ops = ops;
    virtio->broken = broken;
    virtio->ctx = lua;
    int rc = mk_virtio_open(virtio, fn, queues, &err);
    *box = (struct mk_virtio_box){ .virtio = virtio, .close = close };
    if (rc < 0)
        mk_lua_error(L, "%s", err.text);
    mk_lua_join(v, &box->member, close_box);
    lua->broken_ref = mk_lua_ref(L, vm_index, 3);
    return virtio;
}

struct mk_virtio *mk_check_virtio(lua_State *L, const struct mk_virtio_ops *ops)
{
    mk_check_child(L, 1, MK_VIRTIO);
    struct mk_virtio_box *box = lua_touserdata(L, 1);
    luaL_argcheck(L, box->virtio && (!ops || box->virtio->ops == ops), 1, "of another kind");
    return box->virtio;
}

/* --- a device in Lua --- */

static void free_plain(struct mk_virtio *virtio)
{
    free(virtio);
}

static const struct mk_virtio_ops plain_ops = { .free = free_plain };

/* virtio_new(function, queues, broken) */
static int virtio_new(lua_State *L)
{
    mk_virtio_push(L, sizeof(struct mk_virtio), &plain_ops, NULL);
    return 1;
}

/* --- the ISR --- */

/* virtio_interrupt(virtio, bits): added to the ISR */
static int virtio_interrupt(lua_State *L)
{
    struct mk_virtio *v = mk_check_virtio(L, NULL);
    uint8_t bits = (uint8_t)luaL_checkinteger(L, 2);
    mk_lua_flush_output();
    pthread_mutex_lock(&v->lock);
    mk_virtio_interrupt(v, bits);
    pthread_mutex_unlock(&v->lock);
    return 0;
}

/* virtio_isr(virtio [, bits]) -> the ISR, as it was before it became `bits` */
static int virtio_isr(lua_State *L)
{
    struct mk_virtio *v = mk_check_virtio(L, NULL);
    bool set = !lua_isnoneornil(L, 2);
    uint8_t bits = (uint8_t)luaL_optinteger(L, 2, 0);
    pthread_mutex_lock(&v->lock);
    lua_Integer before = v->isr;
    if (set)
        mk_virtio_set_isr(v, bits);
    pthread_mutex_unlock(&v->lock);
    lua_pushinteger(L, before);
    return 1;
}

/* --- the queues of a device in C --- */

static unsigned check_number(lua_State *L)
{
    lua_Integer i = luaL_checkinteger(L, 2);
    luaL_argcheck(L, i >= 0 && i < MK_VIRTIO_QUEUES, 2, "no such queue");
    return (unsigned)i;
}

/* Field `open` of the table at index 3; a snapshot may have anything there. */
static void read_heads(lua_State *L, struct mk_virtio_queue *queue)
{
    lua_getfield(L, 3, "open");
    lua_Unsigned count = lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
    for (; queue->open_count < count && queue->open_count < MK_VIRTIO_OPEN; lua_pop(L, 1)) {
        lua_rawgeti(L, -1, (lua_Integer)queue->open_count + 1);
        queue->open[queue->open_count++] = (uint16_t)lua_tointeger(L, -1);
    }
    lua_pop(L, 1);
}

/* virtio_start(virtio, number, queue, features): a queue as for virtq_check(), with `taken`, `used`
 * and `open`. Nothing when it is on already. */
static int virtio_start(lua_State *L)
{
    struct mk_virtio *v = mk_check_virtio(L, NULL);
    unsigned i = check_number(L);
    struct mk_virtio_queue queue = { .q = mk_virtq_field(L, 3),
                                     .taken = (uint16_t)mk_integer_field(L, 3, "taken", 0),
                                     .used = (uint16_t)mk_integer_field(L, 3, "used", 0) };
    read_heads(L, &queue);
    v->features = (uint64_t)luaL_checkinteger(L, 4);
    mk_virtio_start(v, i, &queue);
    return 0;
}

/* virtio_stop(virtio): all of them */
static int virtio_stop(lua_State *L)
{
    mk_virtio_stop(mk_check_virtio(L, NULL));
    return 0;
}

/* virtio_kick(virtio, number): the device looks at that queue */
static int virtio_kick(lua_State *L)
{
    struct mk_virtio *v = mk_check_virtio(L, NULL);
    mk_virtio_kick(v, UINT64_C(1) << check_number(L));
    return 0;
}

/* virtio_busy(virtio): whether buffers of before its queues were stopped are in use */
static int virtio_busy(lua_State *L)
{
    struct mk_virtio *v = mk_check_virtio(L, NULL);
    pthread_mutex_lock(&v->lock);
    lua_pushboolean(L, v->ops->busy && v->ops->busy(v));
    pthread_mutex_unlock(&v->lock);
    return 1;
}

/* virtio_counts(virtio, number) -> buffers taken, and given back, modulo 65536; the heads of those
 * that are to be begun */
static int virtio_counts(lua_State *L)
{
    struct mk_virtio *v = mk_check_virtio(L, NULL);
    unsigned i = check_number(L);
    pthread_mutex_lock(&v->lock);
    const struct mk_virtio_queue queue = v->queue[i];
    pthread_mutex_unlock(&v->lock);
    lua_pushinteger(L, queue.taken);
    lua_pushinteger(L, queue.used);
    lua_createtable(L, (int)queue.open_count, 0);
    for (unsigned k = 0; k < queue.open_count; k++) {
        lua_pushinteger(L, queue.open[k]);
        lua_rawseti(L, -2, (lua_Integer)k + 1);
    }
    return 3;
}

static const luaL_Reg meta[] = { { "__gc", virtio_gc }, MK_END };
static const luaL_Reg core[] = { MK_FN(virtio_new),       MK_FN(virtio_close),
                                 MK_FN(virtio_interrupt), MK_FN(virtio_isr),
                                 MK_FN(virtio_start),     MK_FN(virtio_stop),
                                 MK_FN(virtio_kick),      MK_FN(virtio_busy),
                                 MK_FN(virtio_counts),    MK_END };

MK_EXPORTS = { { .type = MK_VIRTIO, .meta = meta, .core = core } };
