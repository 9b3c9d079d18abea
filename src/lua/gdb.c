/* gdb.c - the socket of a VM's debugger for lua/minikvm/gdb: listening, one client, its packets
 * (codec/rsp.h).
 *
 * When somebody connects or bytes are there the I/O thread asks the VM for attention (vm.h); what
 * is called then reads what there is, and until it has found nothing more nothing is watched. So a
 * client that floods is slowed down, and one that does not read its answers is not asked for more.
 * Closed with the VM. Used by the thread that runs Lua. */
#include "lua/core.h"

#include "codec/rsp.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CHUNK (64u << 10)
#define BACKLOG 4
#define REST_NS 1000000u /* between two looks at a client while the guest runs */

struct mk_lua_gdb {
    struct mk_lua_vm *v;
    struct mk_lua_gdb *next;
    int listener, client;           /* -1: closed, none */
    char path[108];                 /* of a Unix socket; "": TCP */
    struct mk_io_source door, line; /* of these descriptors */
    struct mk_io_timer rest;
    bool rests;          /* it is set, or was: it watches the line */
    struct mk_bytes out; /* on its way; as it was sent last */
    size_t sent;         /* so much of it has gone */
    bool acks;           /* the protocol's '+' and '-' */
    size_t at, have;     /* in chunk */
    struct mk_rsp in;
    uint8_t chunk[CHUNK];
};

/* --- on the I/O thread --- */

static void wants_attention(void *ctx)
{
    mk_vm_attend(&((struct mk_lua_gdb *)ctx)->v->vm);
}

static void rested(void *ctx)
{
    mk_io_watch(&((struct mk_lua_gdb *)ctx)->line);
}

/* --- life --- */

static void drop_client(struct mk_lua_gdb *g)
{
    if (g->client < 0)
        return;
    mk_io_disarm(&g->rest);
    mk_io_unwatch(&g->line);
    close(g->client);
    g->client = -1;
    g->out.length = g->sent = g->at = g->have = 0;
    g->in.state = MK_RSP_OUTSIDE;
}

static void close_gdb(struct mk_lua_gdb *g)
{
    if (g->listener < 0)
        return;
    struct mk_lua_gdb **at = &g->v->gdbs;
    while (*at && *at != g)
        at = &(*at)->next;
    if (*at)
        *at = g->next;
    drop_client(g);
    mk_io_unwatch(&g->door);
    close(g->listener);
    g->listener = -1;
    if (g->path[0])
        unlink(g->path);
    mk_bytes_free(&g->out);
}

void mk_lua_close_gdbs(struct mk_lua_vm *v)
{
    while (v->gdbs)
        close_gdb(v->gdbs);
}

/* A socket that a process has left which is no more: nobody listens. */
static bool is_left_over(const struct sockaddr_un *at)
{
    struct stat st;
    if (lstat(at->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool left = connect(fd, (const struct sockaddr *)at, sizeof(*at)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return left;
}

/* clear_socket(path): takes a socket away that was left over: who is in a jail cannot find out. */
static int clear_socket(lua_State *L)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    const char *path = mk_check_cstring(L, 1);
    if (strlen(path) < sizeof(at.sun_path)) {
        strcpy(at.sun_path, path);
        if (is_left_over(&at))
            unlink(path);
    }
    return 0;
}

/* Nobody but this user gets to it: the file's mode is the socket's (Linux, unix(7)). */
static int bind_unix(int fd, const struct sockaddr_un *at)
{
    if (fchmod(fd, 0600) < 0)
        return -1;
    int rc = bind(fd, (const struct sockaddr *)at, sizeof(*at));
    if (rc < 0 && errno == EADDRINUSE && is_left_over(at)) {
        unlink(at->sun_path);
        rc = bind(fd, (const struct sockaddr *)at, sizeof(*at));
    }
    return rc < 0 ? -1 : listen(fd, BACKLOG);
}

static int listen_unix(struct mk_lua_gdb *g, const char *path, struct mk_err *err)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(at.sun_path))
        return mk_fail(err, ENAMETOOLONG, "unix:%s: a socket's path has at most %zu bytes", path,
                       sizeof(at.sun_path) - 1);
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind_unix(fd, &at) == 0) {
        strcpy(g->path, path);
        return fd;
    }
    int code = errno;
    if (fd >= 0)
        close(fd);
    return code == EADDRINUSE
               ? mk_fail(err, code, "unix:%s: it is there already: remove it, or name another",
                         path)
               : mk_fail_errno(err, code, "unix:%s", path);
}

static int listen_one(const struct addrinfo *a)
{
    const int one = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

/* host "*": every address of this machine. */
static int listen_tcp(const char *host, const char *port, struct mk_err *err)
{
    struct addrinfo want = { .ai_flags = AI_PASSIVE,
                             .ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &want, &found), fd = -1;
    if (rc != 0)
        return mk_fail(err, ENOENT, "%s:%s: %s", host, port, gai_strerror(rc));
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next)
        fd = listen_one(a);
    int code = errno;
    freeaddrinfo(found);
    if (fd >= 0)
        return fd;
    if (code == EADDRINUSE)
        return mk_fail(err, code, "%s:%s: another program listens there: name another port", host,
                       port);
    return mk_fail_errno(err, code, "%s:%s", host, port);
}

static unsigned port_of(int fd)
{
    struct sockaddr_storage at = { 0 };
    char port[8] = "0";
    socklen_t length = sizeof(at);
    getsockname(fd, (struct sockaddr *)&at, &length);
    getnameinfo((struct sockaddr *)&at, length, NULL, 0, port, sizeof(port), NI_NUMERICSERV);
    return (unsigned)atoi(port);
}

/* gdb_open(vm, host | nil, port or path) -> socket, port | nil, text, name */
static int gdb_open(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    const char *host = lua_isnil(L, 2) ? NULL : mk_check_cstring(L, 2);
    const char *where = mk_check_cstring(L, 3);
    struct mk_err err;
    struct mk_lua_gdb *g = lua_newuserdatauv(L, sizeof(*g), 0);
    memset(g, 0, sizeof(*g));
    g->listener = g->client = -1;
    luaL_setmetatable(L, MK_GDB);
    int fd = host ? listen_tcp(host, where, &err) : listen_unix(g, where, &err);
    if (fd < 0)
        return mk_push_err(L, &err);
    g->v = v;
    g->listener = fd;
    g->door =
        (struct mk_io_source){ .ready = wants_attention, .ctx = g, .fd = fd, .events = EPOLLIN };
    g->rest = (struct mk_io_timer){ .fire = rested, .ctx = g };
    g->next = v->gdbs;
    v->gdbs = g;
    mk_io_watch(&g->door);
    lua_pushinteger(L, host ? port_of(fd) : 0);
    return 2;
}

static struct mk_lua_gdb *check_gdb(lua_State *L)
{
    return luaL_checkudata(L, 1, MK_GDB);
}

/* gdb_close(socket) */
static int gdb_close(lua_State *L)
{
    close_gdb(check_gdb(L));
    return 0;
}

/* --- the client --- */

static void adopt(struct mk_lua_gdb *g, int fd)
{
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* not a Unix socket's */
    g->client = fd;
    g->acks = true;
    g->line =
        (struct mk_io_source){ .ready = wants_attention, .ctx = g, .fd = fd, .events = EPOLLIN };
}

/* Its end has closed the connection, and what it sent before may be there yet. */
static bool has_left(const struct mk_lua_gdb *g)
{
    struct pollfd line = { .fd = g->client, .events = POLLRDHUP };
    return g->client >= 0 && poll(&line, 1, 0) > 0 && line.revents;
}

/* gdb_accept(socket) -> true: there is a client now; "refused": there was one already, and who
 * came was sent away; nil: nobody came, or who is there is about to go */
static int gdb_accept(lua_State *L)
{
    struct mk_lua_gdb *g = check_gdb(L);
    if (has_left(g))
        return 0;
    int fd = g->listener < 0 ? -1 : accept4(g->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (g->listener >= 0)
            mk_io_watch(&g->door);
        return 0;
    }
    if (g->client >= 0) {
        close(fd);
        lua_pushstring(L, "refused");
    } else {
        adopt(g, fd);
        lua_pushboolean(L, 1);
    }
    return 1;
}

/* False when some of it is left, or nobody is there to take it. */
static bool flush(struct mk_lua_gdb *g)
{
    while (g->client >= 0 && g->sent < g->out.length) {
        ssize_t n = send(g->client, g->out.data + g->sent, g->out.length - g->sent, MSG_NOSIGNAL);
        if (n < 0)
            return false;
        g->sent += (size_t)n;
    }
    return g->client >= 0;
}

static void acknowledge(const struct mk_lua_gdb *g, bool well)
{
    if (g->acks)
        send(g->client, well ? "+" : "-", 1, MSG_NOSIGNAL); /* a buffer that is empty has room */
}

/* gdb_send(socket, data): as a packet. What does not go at once goes when gdb_receive() is called.
 */
static int gdb_send(lua_State *L)
{
    struct mk_lua_gdb *g = check_gdb(L);
    size_t length;
    const char *data = luaL_checklstring(L, 2, &length);
    if (g->client < 0)
        return 0;
    if (flush(g)) /* notices may be on their way */
        g->out.length = g->sent = 0;
    mk_rsp_encode(&g->out, (const uint8_t *)data, length);
    if (g->out.failed) {
        mk_bytes_free(&g->out);
        return luaL_error(L, "not enough memory");
    }
    flush(g);
    return 0;
}

/* gdb_acks(socket, on) */
static int gdb_acks(lua_State *L)
{
    check_gdb(L)->acks = lua_toboolean(L, 2);
    return 0;
}

/* gdb_drop(socket): the client goes. */
static int gdb_drop(lua_State *L)
{
    struct mk_lua_gdb *g = check_gdb(L);
    flush(g);
    drop_client(g);
    return 0;
}

/* Bytes for the parser; false: none now, or the client has gone. */
static bool fill(struct mk_lua_gdb *g, bool *gone)
{
    ssize_t n = recv(g->client, g->chunk, sizeof(g->chunk), 0);
    *gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    g->at = 0;
    g->have = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static enum mk_rsp_event parse(struct mk_lua_gdb *g)
{
    enum mk_rsp_event event = MK_RSP_MORE;
    while (event == MK_RSP_MORE && g->at < g->have)
        event = mk_rsp_take(&g->in, g->chunk[g->at++]);
    return event;
}

/* What the script hears of: true. */
static bool serve_event(struct mk_lua_gdb *g, enum mk_rsp_event event)
{
    switch (event) {
    case MK_RSP_PACKET:
    case MK_RSP_TOO_LONG: acknowledge(g, true); return true;
    case MK_RSP_INTERRUPT: return true;
    case MK_RSP_DAMAGED: acknowledge(g, false); return !g->acks;
    case MK_RSP_AGAIN:
        if (g->acks) {
            g->sent = 0;
            flush(g);
        }
        return false;
    default: return false;
    }
}

/* Nothing to do for now: the I/O thread tells when there is, while the guest runs not at once. */
static void watch_again(struct mk_lua_gdb *g, bool unsent, bool runs)
{
    g->line.events = unsent ? EPOLLOUT : EPOLLIN;
    g->rests = runs;
    if (runs)
        mk_io_arm(&g->rest, mk_now() + REST_NS);
    else
        mk_io_watch(&g->line);
}

static int push_event(lua_State *L, const struct mk_lua_gdb *g, enum mk_rsp_event event)
{
    static const char *const names[] = { [MK_RSP_PACKET] = "packet",
                                         [MK_RSP_INTERRUPT] = "interrupt",
                                         [MK_RSP_DAMAGED] = "damaged",
                                         [MK_RSP_TOO_LONG] = "too long" };
    lua_pushstring(L, names[event]);
    if (event != MK_RSP_PACKET)
        return 1;
    lua_pushlstring(L, (const char *)g->in.data, g->in.length);
    return 2;
}

/* The next event; MORE: none now. While the guest runs only an interrupt counts, and a chunk at a
 * time is enough. */
static enum mk_rsp_event next_event(struct mk_lua_gdb *g, bool runs, bool *gone)
{
    bool filled = false;
    while (flush(g) && (g->at < g->have || (!(runs && filled) && fill(g, gone)))) {
        enum mk_rsp_event event = parse(g);
        filled = true;
        if (serve_event(g, event) && (!runs || event == MK_RSP_INTERRUPT))
            return event;
    }
    return MK_RSP_MORE;
}

/* gdb_receive(socket, runs) -> "packet", data | "interrupt" | "damaged" | "too long" | "gone" |
 * nil: nothing yet, and the VM is asked for attention when there is. While the guest runs that is
 * after a while, and what is no interrupt is passed over. */
static int gdb_receive(lua_State *L)
{
    struct mk_lua_gdb *g = check_gdb(L);
    bool gone = false, runs = lua_toboolean(L, 2);
    if (g->client < 0)
        return 0;
    if (g->rests) /* from here on the line is this thread's */
        mk_io_disarm(&g->rest);
    g->rests = false;
    enum mk_rsp_event event = next_event(g, runs, &gone);
    if (event != MK_RSP_MORE)
        return push_event(L, g, event);
    bool unsent = g->sent < g->out.length;
    gone |= unsent && errno != EAGAIN;
    if (gone) {
        drop_client(g);
        lua_pushstring(L, "gone");
        return 1;
    }
    watch_again(g, unsent, runs);
    return 0;
}

/* gdb_again(socket): gdb_receive() has been called often enough for now; others come first. */
static int gdb_again(lua_State *L)
{
    const struct mk_lua_gdb *g = check_gdb(L);
    if (g->client >= 0)
        mk_vm_attend(&g->v->vm);
    return 0;
}

/* hex(bytes) -> digits; unhex(digits) -> bytes | nil */
static int hex(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    luaL_Buffer b;
    mk_rsp_hex(luaL_buffinitsize(L, &b, 2 * length), (const uint8_t *)bytes, length);
    luaL_pushresultsize(&b, 2 * length);
    return 1;
}

static int unhex(lua_State *L)
{
    size_t length;
    const char *digits = luaL_checklstring(L, 1, &length);
    luaL_Buffer b;
    if (mk_rsp_unhex((uint8_t *)luaL_buffinitsize(L, &b, length / 2 + 1), digits, length)) {
        luaL_pushresultsize(&b, length / 2);
        return 1;
    }
    luaL_pushfail(L);
    return 1;
}

static const luaL_Reg meta[] = { { "__gc", gdb_close }, MK_END };
static const luaL_Reg core[] = { MK_FN(clear_socket), MK_FN(gdb_open),    MK_FN(gdb_close),
                                 MK_FN(gdb_accept),   MK_FN(gdb_receive), MK_FN(gdb_send),
                                 MK_FN(gdb_acks),     MK_FN(gdb_drop),    MK_FN(gdb_again),
                                 MK_FN(hex),          MK_FN(unhex),       MK_END };

const struct mk_exports mk_gdb_exports[] = { { .type = MK_GDB, .meta = meta, .core = core },
                                             MK_END };
