/* view.c - a guest's screen for browsers: a port of the loopback interface, and who is connected to
 * it, for lua/minikvm/view.
 *
 * All is done on the I/O thread (io.h), whether the guest runs or not. What is answered says
 * view/server.lua, in a Lua state of the view's own, which that thread alone uses from view_start()
 * on until it is closed. While nobody watches nothing happens at all; while somebody does, the VM
 * is asked for attention every TICK_NS, and what is published goes to every viewer. Nothing is read
 * while something is on its way out, so a client that sends and does not read is slowed down, and
 * what waits for it is one picture at the most: a newer one takes the place of those that it was
 * not ready for.
 *
 * `lock` is for what is published and for `closing`. */
#include "lua/core.h"

#include "codec/bytes.h"

#include <errno.h>
#include <lualib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define VIEWERS 8                /* connections at a time */
#define TICK_NS 16000000u        /* between two looks */
#define RETRY_NS 1000000000u     /* when no descriptors are left */
#define PATIENCE_NS 10000000000u /* for a request, and for the last bytes of an answer */
#define CHUNK 4096               /* read at once */

#define CONNECT "connect" /* in the registry of the server's state: makes a connection */

struct viewer {
    struct mk_lua_view *view;
    int fd;               /* -1: none */
    int answer;           /* what view/server.lua gave for it */
    bool watches, leaves; /* it gets what is in `out`, then it is over */
    struct mk_io_source line;
    struct mk_io_timer patience;
    uint64_t shown;      /* number of the picture that it got last */
    struct mk_bytes out; /* on its way: answers, or one picture */
    size_t sent;
};

struct mk_lua_view {
    struct mk_lua_member member; /* once it is started */
    int listener;                /* -1: closed */
    lua_State *server;
    _Atomic unsigned watching; /* changed on the I/O thread */
    struct mk_io_source door;
    struct mk_io_timer tick, pump, retry;
    pthread_mutex_t lock;
    bool closing;
    struct mk_bytes picture; /* as a message */
    uint64_t pictures;       /* published so far */
    struct viewer viewer[VIEWERS];
};

/* --- on the I/O thread --- */

/* Nothing of a view that is being closed is set or watched any more. */
static void arm(struct mk_lua_view *w, struct mk_io_timer *timer, uint64_t ns)
{
    pthread_mutex_lock(&w->lock);
    if (!w->closing)
        mk_io_arm(timer, mk_time_in(ns));
    pthread_mutex_unlock(&w->lock);
}

static void watch(struct mk_lua_view *w, struct mk_io_source *source)
{
    pthread_mutex_lock(&w->lock);
    if (!w->closing)
        mk_io_watch(source);
    pthread_mutex_unlock(&w->lock);
}

static void tick(void *ctx)
{
    struct mk_lua_view *w = ctx;
    if (!w->watching)
        return;
    mk_vm_attend(&w->member.v->vm);
    arm(w, &w->tick, TICK_NS);
}

static void set_watches(struct viewer *v, bool watches)
{
    struct mk_lua_view *w = v->view;
    if (watches && !v->watches && w->watching++ == 0)
        arm(w, &w->tick, 0);
    if (!watches && v->watches)
        w->watching--;
    v->watches = watches;
}

static void drop(void *ctx)
{
    struct viewer *v = ctx;
    set_watches(v, false);
    mk_io_arm(&v->patience, UINT64_MAX);
    mk_io_unwatch(&v->line);
    close(v->fd);
    v->fd = -1;
    mk_bytes_free(&v->out);
    luaL_unref(v->view->server, LUA_REGISTRYINDEX, v->answer);
}

/* The newest picture, if it has not got that yet. */
static void add_picture(struct viewer *v)
{
    struct mk_lua_view *w = v->view;
    pthread_mutex_lock(&w->lock);
    if (v->shown != w->pictures)
        mk_bytes_add(&v->out, w->picture.data, w->picture.length);
    v->shown = w->pictures;
    pthread_mutex_unlock(&w->lock);
}

/* Sends what is on its way. False when the connection is over. */
static bool flush(struct viewer *v)
{
    while (v->sent < v->out.length) {
        ssize_t n = send(v->fd, v->out.data + v->sent, v->out.length - v->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return errno == EAGAIN;
        v->sent += n < 0 ? 0 : (size_t)n;
    }
    bool over = v->out.failed || v->leaves;
    mk_bytes_free(&v->out); /* a picture may be large */
    v->sent = 0;
    return !over;
}

/* What has come. */
struct arrival {
    struct viewer *v;
    const char *bytes;
    size_t length;
};

static int answer(lua_State *S)
{
    const struct arrival *a = lua_touserdata(S, 1);
    struct viewer *v = a->v;
    size_t length;
    lua_rawgeti(S, LUA_REGISTRYINDEX, v->answer);
    lua_pushlstring(S, a->bytes, a->length);
    lua_call(S, 1, 2);
    const char *out = luaL_checklstring(S, -2, &length), *what = luaL_optstring(S, -1, "");
    mk_bytes_add(&v->out, out, length);
    v->leaves = strcmp(what, "leave") == 0;
    if (v->leaves || strcmp(what, "watch") == 0) {
        set_watches(v, !v->leaves);
        arm(v->view, &v->patience, v->leaves ? PATIENCE_NS : MK_FOREVER);
    }
    return 0;
}

/* Calls it in the server's state; false when memory ran out. */
static bool call(struct mk_lua_view *w, lua_CFunction fn, void *ctx)
{
    lua_pushcfunction(w->server, fn);
    lua_pushlightuserdata(w->server, ctx);
    bool well = lua_pcall(w->server, 1, 0, 0) == LUA_OK;
    lua_settop(w->server, 0);
    return well;
}

/* Reads and answers what has come. False when the other end is gone. */
static bool receive(struct viewer *v)
{
    char bytes[CHUNK];
    ssize_t n = recv(v->fd, bytes, sizeof(bytes), 0);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    return call(v->view, answer, &(struct arrival){ v, bytes, (size_t)n });
}

/* Reads, answers, sends what there is. */
static void serve(void *ctx)
{
    struct viewer *v = ctx;
    bool there = flush(v) && (v->out.length || (receive(v) && flush(v)));
    if (there && v->out.length == 0 && v->watches) {
        add_picture(v);
        there = flush(v);
    }
    v->line.events = v->out.length ? EPOLLOUT : EPOLLIN;
    if (there)
        watch(v->view, &v->line);
    else
        drop(v);
}

/* Something was published. */
static void pump(void *ctx)
{
    struct mk_lua_view *w = ctx;
    for (unsigned i = 0; i < VIEWERS; i++)
        if (w->viewer[i].watches)
            serve(&w->viewer[i]);
}

static int make_connection(lua_State *S)
{
    struct viewer *v = lua_touserdata(S, 1);
    lua_getfield(S, LUA_REGISTRYINDEX, CONNECT);
    lua_call(S, 0, 1);
    v->answer = luaL_ref(S, LUA_REGISTRYINDEX);
    return 0;
}

/* Who finds no place is sent away. */
static void adopt(struct mk_lua_view *w, int fd)
{
    const int one = 1;
    struct viewer *v = w->viewer;
    while (v < w->viewer + VIEWERS && v->fd >= 0)
        v++;
    if (v == w->viewer + VIEWERS || !call(w, make_connection, v)) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    v->fd = fd;
    v->leaves = false;
    v->shown = 0;
    v->line = (struct mk_io_source){ .ready = serve, .ctx = v, .fd = fd, .events = EPOLLIN };
    arm(w, &v->patience, PATIENCE_NS);
    watch(w, &v->line);
}

/* Somebody is there, or it is time to try once more. */
static void came(void *ctx)
{
    struct mk_lua_view *w = ctx;
    int fd;
    while ((fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        adopt(w, fd);
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
        watch(w, &w->door);
    else
        arm(w, &w->retry, RETRY_NS); /* no descriptors are left */
}

/* A scancode of set 1 or several; what finds no room is lost, as at a keyboard. */
static int keys(lua_State *S)
{
    size_t count;
    const uint8_t *codes = (const uint8_t *)luaL_checklstring(S, 1, &count);
    struct mk_vm *vm =
        &((struct mk_lua_view *)lua_touserdata(S, lua_upvalueindex(1)))->member.v->vm;
    if (vm->has_pic)
        mk_i8042_key(&vm->keyboard, codes, count);
    return 0;
}

/* --- the owner --- */

static void end_service(struct mk_lua_view *w)
{
    /* a message: close, 1001 "going away" (RFC 6455, 5.5.1, 7.4.1) */
    static const char going[] = "\x88\x02\x03\xe9";
    mk_io_unwatch(&w->door);
    mk_io_disarm(&w->tick);
    mk_io_disarm(&w->pump);
    mk_io_disarm(&w->retry);
    for (unsigned i = 0; i < VIEWERS; i++) {
        mk_io_disarm(&w->viewer[i].patience);
        mk_io_unwatch(&w->viewer[i].line);
    }
    for (struct viewer *v = w->viewer; v < w->viewer + VIEWERS; v++) {
        if (v->watches && v->out.length == 0) {
            mk_bytes_add(&v->out, going, sizeof(going) - 1);
            flush(v);
        }
        if (v->fd >= 0)
            drop(v);
    }
}

static void close_view(struct mk_lua_member *member)
{
    struct mk_lua_view *w = (struct mk_lua_view *)member;
    if (w->listener < 0)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_mutex_unlock(&w->lock);
    if (member->v) /* then there is an I/O thread */
        end_service(w);
    mk_lua_leave(member);
    close(w->listener);
    w->listener = -1;
    mk_bytes_free(&w->picture);
    pthread_mutex_destroy(&w->lock);
    if (w->server)
        lua_close(w->server);
}

static struct mk_lua_view *check_view(lua_State *L)
{
    return luaL_checkudata(L, 1, MK_VIEW);
}

static int view_close(lua_State *L)
{
    close_view(&check_view(L)->member);
    return 0;
}

/* view_open(port) -> view, port | nil, text, name: on 127.0.0.1; nobody is answered yet. */
static int view_open(lua_State *L)
{
    struct mk_err err;
    const char *port = mk_check_cstring(L, 1);
    struct mk_lua_view *w = lua_newuserdatauv(L, sizeof(*w), 0);
    *w = (struct mk_lua_view){ .listener = -1 };
    mk_set_type(L, MK_VIEW);
    int fd = mk_listen_tcp("127.0.0.1", port, &err);
    if (fd < 0)
        return mk_push_err(L, &err);
    w->listener = fd;
    pthread_mutex_init(&w->lock, NULL);
    w->tick = (struct mk_io_timer){ .fire = tick, .ctx = w };
    w->pump = (struct mk_io_timer){ .fire = pump, .ctx = w };
    w->retry = (struct mk_io_timer){ .fire = came, .ctx = w };
    w->door = (struct mk_io_source){ .ready = came, .ctx = w, .fd = fd, .events = EPOLLIN };
    for (struct viewer *v = w->viewer; v < w->viewer + VIEWERS; v++)
        *v = (struct viewer){ .view = w, .fd = -1, .patience = { .fire = drop, .ctx = v } };
    lua_pushinteger(L, mk_port_of(fd));
    return 2;
}

struct service {
    struct mk_lua_view *w;
    lua_Integer port;
    const char *token, *page;
    size_t length; /* of the page */
};

static int open_server(lua_State *S)
{
    const struct service *s = lua_touserdata(S, 1);
    luaL_openlibs(S);
    luaL_getsubtable(S, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    mk_lua_part(S, "base64"); /* without minikvm: nothing is looked for in files */
    lua_call(S, 0, 1);
    lua_setfield(S, -2, "minikvm.base64");
    mk_lua_part(S, "view.server");
    lua_call(S, 0, 1);
    lua_getfield(S, -1, "service");
    lua_pushinteger(S, s->port);
    lua_pushstring(S, s->token);
    lua_pushlstring(S, s->page, s->length);
    lua_pushlightuserdata(S, s->w);
    lua_pushcclosure(S, keys, 1);
    lua_call(S, 4, 1);
    lua_setfield(S, LUA_REGISTRYINDEX, CONNECT);
    return 0;
}

/* view_start(view, vm, port, token, page): serves it until the VM is closed. */
static int view_start(lua_State *L)
{
    struct mk_lua_view *w = check_view(L);
    struct mk_lua_vm *v = mk_check_vm(L, 2);
    struct service s = { .w = w, .port = luaL_checkinteger(L, 3) };
    s.token = luaL_checkstring(L, 4);
    s.page = luaL_checklstring(L, 5, &s.length);
    luaL_argcheck(L, w->listener >= 0 && !w->server, 1, "it is closed, or has a VM");
    w->server = luaL_newstate();
    if (!w->server)
        return luaL_error(L, "not enough memory");
    if (!call(w, open_server, &s))
        return luaL_error(L, "not enough memory");
    mk_lua_join(v, &w->member, close_view);
    mk_io_watch(&w->door);
    return 0;
}

/* view_publish(view, header, picture): what viewers show from now on, as a message. When memory
 * runs out they show what they did. */
static int view_publish(lua_State *L)
{
    struct mk_lua_view *w = check_view(L);
    struct mk_bytes bytes = { 0 };
    size_t head, length;
    const char *header = luaL_checklstring(L, 2, &head);
    const char *picture = luaL_checklstring(L, 3, &length);
    mk_bytes_add(&bytes, header, head);
    mk_bytes_add(&bytes, picture, length);
    if (w->listener >= 0 && !bytes.failed) {
        pthread_mutex_lock(&w->lock);
        struct mk_bytes before = w->picture;
        w->picture = bytes;
        w->pictures++;
        if (w->watching)
            mk_io_arm(&w->pump, mk_now());
        pthread_mutex_unlock(&w->lock);
        bytes = before;
    }
    bool failed = bytes.failed;
    mk_bytes_free(&bytes);
    return failed ? luaL_error(L, "not enough memory") : 0;
}

/* view_viewers(view) -> how many watch; nil: it is closed */
static int view_viewers(lua_State *L)
{
    struct mk_lua_view *w = check_view(L);
    if (w->listener < 0)
        return 0;
    lua_pushinteger(L, w->watching);
    return 1;
}

static const luaL_Reg meta[] = { { "__gc", view_close }, MK_END };
static const luaL_Reg core[] = { MK_FN(view_open),    MK_FN(view_start),   MK_FN(view_close),
                                 MK_FN(view_publish), MK_FN(view_viewers), MK_END };

MK_EXPORTS = { { .type = MK_VIEW, .meta = meta, .core = core } };
