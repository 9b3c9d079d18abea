/* stream.c - files, pipes and terminals that are written to without waiting (io/desc.h), for
 * lua/minikvm/spool.lua. Used by the thread that runs Lua, handlers of a vCPU included. */
#include "lua/core.h"

#include "io/desc.h"
#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM "minikvm.stream"

struct stream {
    int fd; /* -1: it is closed */
    struct mk_desc desc;
};

static struct stream *push_stream(lua_State *L)
{
    struct stream *s = lua_newuserdatauv(L, sizeof(*s), 0);
    *s = (struct stream){ .fd = -1 };
    mk_set_type(L, STREAM);
    return s;
}

static int fail(lua_State *L, int code)
{
    struct mk_err err;
    mk_fail(&err, code, "%s", strerror(code));
    return mk_push_err(L, &err);
}

/* open_stream(path) -> stream, whether it is a regular file | nil, why, code: it is made or
 * emptied. A FIFO has to have a reader. */
static int open_stream(lua_State *L)
{
    const char *path = mk_check_cstring(L, 1);
    struct stream *s = push_stream(L);
    struct mk_err err;
    struct stat st;
    s->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (s->fd < 0) {
        if (errno == ENXIO)
            mk_fail(&err, ENXIO, "%s: nobody reads from it", path);
        else
            mk_fail_errno(&err, errno, "%s", path);
        return mk_push_err(L, &err);
    }
    mk_desc_use(&s->desc, s->fd, O_WRONLY);
    lua_pushboolean(L, fstat(s->fd, &st) == 0 && S_ISREG(st.st_mode));
    return 2;
}

/* stdout_stream() -> stream | nil, why, code: standard output, which stays open */
static int stdout_stream(lua_State *L)
{
    struct stream *s = push_stream(L);
    s->fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    return s->fd >= 0 && mk_desc_use(&s->desc, s->fd, O_WRONLY) ? 1 : fail(L, errno);
}

/* One that is open. */
static struct stream *check(lua_State *L)
{
    struct stream *s = luaL_checkudata(L, 1, STREAM);
    luaL_argcheck(L, s->fd >= 0, 1, "it is closed");
    return s;
}

/* stream:write(bytes, from) -> how many are taken now, of those behind the first `from` | nil, why,
 * code */
static int stream_write(lua_State *L)
{
    size_t length;
    const struct stream *s = check(L);
    const char *bytes = mk_check_rest(L, 2, &length);
    ssize_t n = mk_desc_write(&s->desc, bytes, length);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return fail(L, errno);
    lua_pushinteger(L, n < 0 ? 0 : n);
    return 1;
}

/* stream:replace(at, bytes, before) -> stream | nil, why, code: of a regular file, from `at` on,
 * where `before` ends it; that is there again after a failure. In one write, so that the file is
 * whole whenever the process ends. */
static int stream_replace(lua_State *L)
{
    size_t length, kept;
    const struct stream *s = check(L);
    off_t at = (off_t)luaL_checkinteger(L, 2);
    const char *bytes = luaL_checklstring(L, 3, &length), *before = luaL_checklstring(L, 4, &kept);
    if (mk_write_at(s->fd, bytes, length, at) == 0)
        return lua_settop(L, 1), 1;
    int code = errno;
    if (ftruncate(s->fd, at + (off_t)kept) == 0)
        mk_write_at(s->fd, before, kept, at);
    return fail(L, code);
}

/* stream:wait(seconds): for a reader */
static int stream_wait(lua_State *L)
{
    const struct stream *s = check(L);
    struct pollfd pfd = { .fd = s->desc.own >= 0 ? s->desc.own : s->fd, .events = POLLOUT };
    poll(&pfd, 1, (int)(luaL_checknumber(L, 2) * 1000) + 1);
    return 0;
}

/* stream:close() -> stream | nil, why, code */
static int stream_close(lua_State *L)
{
    struct stream *s = luaL_checkudata(L, 1, STREAM);
    int fd = s->fd;
    s->fd = -1;
    if (fd < 0)
        return 0;
    mk_desc_close(&s->desc);
    return close(fd) < 0 ? fail(L, errno) : (lua_settop(L, 1), 1);
}

static const luaL_Reg meta[] = { { "__gc", stream_close }, MK_END };
static const luaL_Reg methods[] = { { "write", stream_write },
                                    { "replace", stream_replace },
                                    { "wait", stream_wait },
                                    { "close", stream_close },
                                    MK_END };
static const luaL_Reg core[] = { MK_FN(open_stream), MK_FN(stdout_stream), MK_END };

MK_EXPORTS = { { .type = STREAM, .meta = meta, .methods = methods, .core = core } };
