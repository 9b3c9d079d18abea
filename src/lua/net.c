/* net.c - network cards, and the hubs between them, for devices.net (lua/minikvm/devices/net.lua,
 * which checks what a script gives). Used by the thread that runs Lua; frames of a guest come to a
 * script through the gate. */
#include "dev/net.h"

#include "lua/virtio.h"

#include <stdlib.h>

/* --- hubs --- */

static int hub_new(lua_State *L)
{
    void **hub = mk_push_owner(L, MK_HUB);
    *hub = mk_hub_new();
    return *hub ? 1 : mk_lua_error(L, "out of memory for a hub");
}

MK_RELEASE(hub_gc, MK_HUB, mk_hub_unref)

static struct mk_hub *check_hub(lua_State *L, int index)
{
    return *(struct mk_hub **)luaL_checkudata(L, index, MK_HUB);
}

/* --- cards --- */

static struct mk_net *check_net(lua_State *L)
{
    return (struct mk_net *)mk_check_virtio(L, &mk_net_ops);
}

static void to_script(void *ctx, struct mk_cpu *cpu, const uint8_t *bytes, uint32_t length)
{
    const struct mk_lua_virtio *lua = ctx;
    mk_lua_notify(lua->v, cpu->index, NULL, &lua->frame_ref, "s", (const char *)bytes,
                  (size_t)length);
}

static void close_net(struct mk_virtio *virtio)
{
    mk_net_close((struct mk_net *)virtio);
}

/* net_new(function, queues, broken) */
static int net_new(lua_State *L)
{
    struct mk_net *net = (struct mk_net *)mk_virtio_push(L, sizeof(*net), &mk_net_ops, close_net);
    net->clock = &((struct mk_lua_virtio *)net->virtio.ctx)->v->vm.clock;
    net->script = to_script;
    mk_net_init(net);
    return 1;
}

/* net_connect(card, hub | function(frame) | nil): where the guest's frames go; it leaves the hub
 * and the tap that it was on */
static int net_connect(lua_State *L)
{
    struct mk_net *net = check_net(L);
    struct mk_lua_virtio *lua = net->virtio.ctx;
    bool scripted = lua_isfunction(L, 2);
    struct mk_hub *hub = scripted || lua_isnoneornil(L, 2) ? NULL : check_hub(L, 2);
    lua_getiuservalue(L, 1, 1);
    mk_net_unplug(net);
    mk_lua_unref(L, lua_gettop(L), lua->frame_ref);
    lua->frame_ref = scripted ? mk_lua_ref(L, lua_gettop(L), 2) : LUA_NOREF;
    pthread_mutex_lock(&net->virtio.lock);
    net->scripted = scripted;
    pthread_mutex_unlock(&net->virtio.lock);
    if (hub)
        mk_net_plug(net, hub);
    return 0;
}

/* hub_plug(hub, card): has what is sent there, too; after net_connect() */
static int hub_plug(lua_State *L)
{
    struct mk_hub *hub = check_hub(L, 1);
    lua_remove(L, 1);
    mk_net_plug(check_net(L), hub);
    return 0;
}

/* net_tap(card, name) -> true | nil, text, name of the error; after net_connect(card, nil) */
static int net_tap(lua_State *L)
{
    struct mk_err err;
    return mk_push_self(L, mk_net_open_tap(check_net(L), mk_check_cstring(L, 2), &err), &err);
}

/* net_counts(card) -> frames sent, received, dropped, that wait; whether the driver is owed an
 * interrupt */
static int net_counts(lua_State *L)
{
    struct mk_net *net = check_net(L);
    pthread_mutex_lock(&net->virtio.lock);
    const uint64_t counts[] = { net->sent, net->received, net->dropped, net->waiting };
    bool owed = net->owed;
    pthread_mutex_unlock(&net->virtio.lock);
    for (unsigned i = 0; i < MK_COUNT(counts); i++)
        lua_pushinteger(L, (lua_Integer)counts[i]);
    lua_pushboolean(L, owed);
    return MK_COUNT(counts) + 1;
}

/* net_set_counts(card, sent, received, dropped, owed): none waits */
static int net_set_counts(lua_State *L)
{
    struct mk_net *net = check_net(L);
    lua_Integer sent = luaL_checkinteger(L, 2), received = luaL_checkinteger(L, 3);
    lua_Integer dropped = luaL_checkinteger(L, 4);
    mk_virtio_stop(&net->virtio);
    pthread_mutex_lock(&net->virtio.lock);
    net->sent = (uint64_t)sent;
    net->received = (uint64_t)received;
    net->dropped = (uint64_t)dropped;
    net->owed = lua_toboolean(L, 5);
    pthread_mutex_unlock(&net->virtio.lock);
    return 0;
}

/* --- frames --- */

/* Of the string at `index`, and the header at index + 1 or none; NULL: it is no frame. */
static struct mk_packet *frame_of(lua_State *L, int index)
{
    static const uint8_t none[MK_PACKET_HEADER];
    size_t length, header_length = 0;
    const char *bytes = luaL_checklstring(L, index, &length);
    const char *header = luaL_optlstring(L, index + 1, NULL, &header_length);
    struct mk_packet *frame = length <= MK_PACKET_LARGE ? mk_packet_new((uint32_t)length) : NULL;
    if (!frame)
        return NULL;
    memcpy(frame->bytes, bytes, length);
    if (mk_packet_set_header(frame,
                             header_length == MK_PACKET_HEADER ? (const uint8_t *)header : none))
        return frame;
    mk_packet_unref(frame);
    return NULL;
}

static uint64_t to_ns(lua_State *L, int index)
{
    lua_Number seconds = luaL_optnumber(L, index, 0);
    return seconds > 0 ? (uint64_t)((seconds < 1e9 ? seconds : 1e9) * 1e9) : 0;
}

static void count_dropped(struct mk_net *net)
{
    pthread_mutex_lock(&net->virtio.lock);
    net->dropped++;
    pthread_mutex_unlock(&net->virtio.lock);
}

/* net_send(card, frame [, seconds from now]) -> whether it was taken */
static int net_send(lua_State *L)
{
    struct mk_net *net = check_net(L);
    uint64_t after = to_ns(L, 3);
    lua_settop(L, 2);
    struct mk_packet *frame = frame_of(L, 2);
    if (!frame)
        count_dropped(net);
    lua_pushboolean(L, frame && mk_net_receive(net, frame, mk_clock_now(net->clock) + after));
    mk_packet_unref(frame);
    return 1;
}

/* net_put(card, frame, header, seconds by the VM's clock): one that waited when a snapshot was
 * taken
 */
static int net_put(lua_State *L)
{
    struct mk_net *net = check_net(L);
    uint64_t due = to_ns(L, 4);
    struct mk_packet *frame = frame_of(L, 2);
    if (frame)
        mk_net_put_waiting(net, frame, due);
    mk_packet_unref(frame);
    return 0;
}

/* The frames that wait, as an array that has a reference to each. */
static unsigned collect(struct mk_net *net, struct mk_net_waiting *list)
{
    unsigned count = 0;
    pthread_mutex_lock(&net->virtio.lock);
    for (const struct mk_net_waiting *w = net->first; w && count < MK_NET_WAITING; w = w->next)
        list[count++] = (struct mk_net_waiting){ .frame = mk_packet_ref(w->frame), .due = w->due };
    pthread_mutex_unlock(&net->virtio.lock);
    return count;
}

static int push_waiting(lua_State *L)
{
    const struct mk_net_waiting *w = lua_touserdata(L, 1);
    lua_createtable(L, 0, 3);
    lua_pushlstring(L, (const char *)w->frame->bytes, w->frame->length);
    lua_setfield(L, -2, "frame");
    lua_pushlstring(L, (const char *)w->frame->header, MK_PACKET_HEADER);
    lua_setfield(L, -2, "header");
    mk_set_seconds(L, "due", w->due);
    return 1;
}

/* net_waiting(card) -> { { frame=, header=, due= seconds by the VM's clock }, … } */
static int net_waiting(lua_State *L)
{
    struct mk_net *net = check_net(L);
    struct mk_net_waiting list[MK_NET_WAITING];
    lua_createtable(L, MK_NET_WAITING, 0);
    luaL_checkstack(L, 4, NULL);
    unsigned count = collect(net, list);
    int rc = LUA_OK;
    for (unsigned i = 0; i < count; i++) {
        if (rc == LUA_OK) {
            lua_pushcfunction(L, push_waiting);
            lua_pushlightuserdata(L, &list[i]);
            rc = lua_pcall(L, 1, 1, 0);
        }
        if (rc == LUA_OK)
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        mk_packet_unref(list[i].frame);
    }
    return rc == LUA_OK ? 1 : lua_error(L);
}

/* net_due(card) -> seconds until the next frame of those that are for later, nil: none is */
static int net_due(lua_State *L)
{
    struct mk_net *net = check_net(L);
    uint64_t now = mk_clock_now(net->clock), due = 0;
    pthread_mutex_lock(&net->virtio.lock);
    for (const struct mk_net_waiting *w = net->first; w && !due; w = w->next)
        due = w->due > now ? w->due : 0;
    pthread_mutex_unlock(&net->virtio.lock);
    due ? lua_pushnumber(L, (lua_Number)(due - now) / 1e9) : luaL_pushfail(L);
    return 1;
}

/* hub_send(hub, frame, card | nil, seconds | nil) -> how many took it */
static int hub_send(lua_State *L)
{
    struct mk_hub *hub = check_hub(L, 1);
    const struct mk_virtio_box *from = luaL_testudata(L, 3, MK_VIRTIO);
    const struct mk_net *card = from ? (const struct mk_net *)from->virtio : NULL;
    uint64_t after = to_ns(L, 4);
    lua_settop(L, 2);
    struct mk_packet *frame = frame_of(L, 2);
    lua_pushinteger(L, frame ? mk_hub_send(hub, frame, card ? &card->port : NULL, after) : 0);
    mk_packet_unref(frame);
    return 1;
}

static void open_net(lua_State *L)
{
    lua_pushinteger(L, MK_NET_FEATURES);
    lua_setfield(L, -2, "NET_FEATURES");
}

static const luaL_Reg meta[] = { { "__gc", hub_gc }, MK_END };
static const luaL_Reg core[] = { MK_FN(net_new),
                                 MK_FN(net_connect),
                                 MK_FN(net_tap),
                                 MK_FN(net_counts),
                                 MK_FN(net_set_counts),
                                 MK_FN(net_send),
                                 MK_FN(net_put),
                                 MK_FN(net_waiting),
                                 MK_FN(net_due),
                                 MK_FN(hub_new),
                                 MK_FN(hub_plug),
                                 MK_FN(hub_send),
                                 MK_END };

MK_EXPORTS = { { .type = MK_HUB, .meta = meta, .core = core, .open = open_net } };
