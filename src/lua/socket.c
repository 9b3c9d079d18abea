/* socket.c - sockets that a VM is debugged over, for lua/minikvm/gdb: who listens, who came.
 *
 * When a socket that is watched is ready the I/O thread asks its VM for attention (vm.h), once;
 * what is called then does what there is to do, and watches it again. So a client that floods is
 * slowed down, and one that does not read its answers is not asked for more. No call waits. Closed
 * with the VM. Used by the thread that runs Lua. */
#include "lua/core.h"

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

#define CHUNK (16u << 10)
#define BACKLOG 128

struct mk_lua_socket {
    struct mk_lua_member member;
    int fd; /* -1: closed */
    char
        path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* where it listens; "": TCP, a client */
    struct mk_io_source source;
    struct mk_io_timer rest;
};

/* --- on the I/O thread --- */

static void wants_attention(void *ctx)
{
    mk_vm_attend(&((struct mk_lua_socket *)ctx)->member.v->vm);
}

static void rested(void *ctx)
{
    mk_io_watch(&((struct mk_lua_socket *)ctx)->source);
}

/* --- life --- */

static void close_socket(struct mk_lua_member *member)
{
    struct mk_lua_socket *s = (struct mk_lua_socket *)member;
    if (s->fd < 0)
        return;
    mk_io_disarm(&s->rest);
    mk_io_unwatch(&s->source);
    mk_lua_leave(member);
    close(s->fd);
    s->fd = -1;
    if (s->path[0])
        unlink(s->path);
}

static struct mk_lua_socket *push_socket(lua_State *L)
{
    struct mk_lua_socket *s = lua_newuserdatauv(L, sizeof(*s), 0);
    *s = (struct mk_lua_socket){ .fd = -1 };
    mk_set_type(L, MK_SOCKET);
    return s;
}

static void begin(struct mk_lua_socket *s, struct mk_lua_vm *v, int fd)
{
    s->fd = fd;
    s->source = (struct mk_io_source){ .ready = wants_attention, .ctx = s, .fd = fd };
    s->rest = (struct mk_io_timer){ .fire = rested, .ctx = s };
    mk_lua_join(v, &s->member, close_socket);
}

/* --- listening --- */

static bool set_path(struct sockaddr_un *at, const char *path)
{
    *at = (struct sockaddr_un){ .sun_family = AF_UNIX };
    bool fits = strlen(path) < sizeof(at->sun_path);
    if (fits)
        strcpy(at->sun_path, path);
    return fits;
}

/* Takes a socket away that a process has left which is no more: nobody listens. */
static void clear_left_over(const struct sockaddr_un *at)
{
    struct stat st;
    if (lstat(at->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)at, sizeof(*at)) < 0 && errno == ECONNREFUSED)
        unlink(at->sun_path);
    close(fd);
}

/* clear_socket(path): takes a socket away that was left over: who is in a jail cannot find out. */
static int clear_socket(lua_State *L)
{
    struct sockaddr_un at;
    if (set_path(&at, mk_check_cstring(L, 1)))
        clear_left_over(&at);
    return 0;
}

/* A descriptor; -1 with errno. A socket's mode is that of its file: nobody but this user gets to it
 * (Linux, unix(7)). */
static int listen_at(const struct sockaddr *at, socklen_t length)
{
    const int one = 1;
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    bool ready = at->sa_family == AF_UNIX
                     ? fchmod(fd, 0600) == 0
                     : setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0;
    if (ready && bind(fd, at, length) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int code = errno;
    close(fd);
    errno = code;
    return -1;
}

static int listen_unix(const char *path, struct mk_err *err)
{
    struct sockaddr_un at;
    if (!set_path(&at, path))
        return mk_fail(err, ENAMETOOLONG, "unix:%s: a socket's path has at most %zu bytes", path,
                       sizeof(at.sun_path) - 1);
    clear_left_over(&at);
    int fd = listen_at((struct sockaddr *)&at, sizeof(at));
    if (fd >= 0)
        return fd;
    if (errno == EADDRINUSE)
        return mk_fail(err, errno, "unix:%s: it is there already: remove it, or name another",
                       path);
    return mk_fail_errno(err, errno, "unix:%s", path);
}

int mk_listen_tcp(const char *host, const char *port, struct mk_err *err)
{
    struct addrinfo want = { .ai_flags = AI_PASSIVE,
                             .ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &want, &found), fd = -1;
    if (rc != 0)
        return mk_fail(err, ENOENT, "%s:%s: %s", host, port, gai_strerror(rc));
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next)
        fd = listen_at(a->ai_addr, a->ai_addrlen);
    int code = errno;
    freeaddrinfo(found);
    if (fd >= 0)
        return fd;
    if (code == EADDRINUSE)
        return mk_fail(err, code, "%s:%s: another program listens there: name another port", host,
                       port);
    return mk_fail_errno(err, code, "%s:%s", host, port);
}

unsigned mk_port_of(int fd)
{
    struct sockaddr_storage at = { 0 };
    char port[8] = "0";
    socklen_t length = sizeof(at);
    getsockname(fd, (struct sockaddr *)&at, &length);
    getnameinfo((struct sockaddr *)&at, length, NULL, 0, port, sizeof(port), NI_NUMERICSERV);
    return (unsigned)atoi(port);
}

/* open_socket(vm, host | nil, port or path) -> socket, port | nil, text, name */
static int open_socket(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    const char *host = lua_isnil(L, 2) ? NULL : mk_check_cstring(L, 2);
    const char *where = mk_check_cstring(L, 3);
    struct mk_err err;
    struct mk_lua_socket *s = push_socket(L);
    int fd = host ? mk_listen_tcp(host, where, &err) : listen_unix(where, &err);
    if (fd < 0)
        return mk_push_err(L, &err);
    begin(s, v, fd);
    if (!host)
        strcpy(s->path, where);
    lua_pushinteger(L, host ? mk_port_of(fd) : 0);
    return 2;
}

/* --- methods --- */

static struct mk_lua_socket *check_socket(lua_State *L)
{
    return luaL_checkudata(L, 1, MK_SOCKET);
}

/* socket:close() */
static int socket_close(lua_State *L)
{
    close_socket(&check_socket(L)->member);
    return 0;
}

/* socket:accept() -> the socket of who came | nil: nobody */
static int socket_accept(lua_State *L)
{
    const int one = 1;
    const struct mk_lua_socket *s = check_socket(L);
    struct mk_lua_socket *client = push_socket(L);
    int fd = s->fd < 0 ? -1 : accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* not a Unix socket's */
    begin(client, s->member.v, fd);
    return 1;
}

/* socket:watch(writes, seconds): after that time, the VM is asked for attention when there is
 * something to read or to accept, or room to write */
static int socket_watch(lua_State *L)
{
    struct mk_lua_socket *s = check_socket(L);
    uint64_t ns = mk_check_seconds(L, 3);
    if (s->fd < 0)
        return 0;
    mk_io_disarm(&s->rest);
    s->source.events = lua_toboolean(L, 2) ? EPOLLOUT : EPOLLIN;
    if (ns)
        mk_io_arm(&s->rest, mk_time_in(ns));
    else
        mk_io_watch(&s->source);
    return 0;
}

/* socket:left() -> whether its other end has closed the connection; what that sent before may be
 * there yet */
static int socket_left(lua_State *L)
{
    struct pollfd line = { .fd = check_socket(L)->fd, .events = POLLRDHUP };
    lua_pushboolean(L, poll(&line, 1, 0) > 0 && line.revents);
    return 1;
}

static bool is_gone(ssize_t n)
{
    return n < 0 && errno != EAGAIN && errno != EINTR;
}

/* socket:send(bytes, from) -> how many have gone, of those behind the first `from` | nil: there is
 * nobody any more */
static int socket_send(lua_State *L)
{
    size_t length;
    const struct mk_lua_socket *s = check_socket(L);
    const char *bytes = mk_check_rest(L, 2, &length);
    ssize_t n = send(s->fd, bytes, length, MSG_NOSIGNAL);
    if (is_gone(n))
        return 0;
    lua_pushinteger(L, n < 0 ? 0 : n);
    return 1;
}

/* socket:receive() -> bytes | nil: none yet | false: there is nobody any more */
static int socket_receive(lua_State *L)
{
    char bytes[CHUNK];
    ssize_t n = recv(check_socket(L)->fd, bytes, sizeof(bytes), 0);
    if (n > 0)
        lua_pushlstring(L, bytes, (size_t)n);
    else if (n == 0 || is_gone(n))
        lua_pushboolean(L, 0);
    else
        lua_pushnil(L);
    return 1;
}

static const luaL_Reg meta[] = { { "__gc", socket_close }, MK_END };
static const luaL_Reg methods[] = { { "accept", socket_accept },
                                    { "watch", socket_watch },
                                    { "left", socket_left },
                                    { "send", socket_send },
                                    { "receive", socket_receive },
                                    { "close", socket_close },
                                    MK_END };
static const luaL_Reg core[] = { MK_FN(clear_socket), MK_FN(open_socket), MK_END };

MK_EXPORTS = { { .type = MK_SOCKET, .meta = meta, .methods = methods, .core = core } };
