/* tap.c - a tap of the host's (Linux, Documentation/networking/tuntap.rst) for network cards
 * (lua/minikvm/devices/net.lua, which checks its name). A VM's frames go out and come in through a
 * descriptor that never blocks.
 *
 * When a frame is there the I/O thread rings a doorbell, whose function reads what there is; until
 * that has found nothing more, nothing is watched, so frames for a guest without buffers stay with
 * the host, whose queue is bounded. Closed with the VM. Used by the thread that runs Lua. */
#include "lua/core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FRAME_MAX 65536

struct mk_lua_tap {
    int fd, bell; /* -1: closed; an eventfd of the doorbell's */
    struct mk_io_source source;
    struct mk_lua_vm *v;
    struct mk_lua_tap *next;
    char frame[FRAME_MAX];
};

/* On the I/O thread. */
static void frame_came(void *ctx)
{
    const struct mk_lua_tap *tap = ctx;
    const uint64_t one = 1;
    if (write(tap->bell, &one, sizeof(one)) < 0)
        return; /* it has rung more often than can be counted */
}

static void close_tap(struct mk_lua_tap *tap)
{
    if (tap->fd < 0)
        return;
    struct mk_lua_tap **at = &tap->v->taps;
    while (*at && *at != tap)
        at = &(*at)->next;
    if (*at)
        *at = tap->next;
    mk_io_unwatch(&tap->source);
    close(tap->fd);
    close(tap->bell);
    tap->fd = tap->bell = -1;
}

void mk_lua_close_taps(struct mk_lua_vm *v)
{
    while (v->taps)
        close_tap(v->taps);
}

static int fail_tap(struct mk_err *err, const char *name, int code)
{
    switch (code) {
    case EPERM:
        return mk_fail(err, code,
                       "tap %s: no permission: it takes CAP_NET_ADMIN, or a tap made for this "
                       "user: ip tuntap add %s mode tap user NAME",
                       name, name);
    case EBUSY: return mk_fail(err, code, "tap %s: another card or program uses it", name);
    case EINVAL:
        return mk_fail(err, code, "tap %s: there is an interface of that name that is no tap",
                       name);
    default: return mk_fail_errno(err, code, "tap %s", name);
    }
}

static int open_tap(const char *name, struct mk_err *err)
{
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        mk_fail_errno(err, errno, "tap %s: /dev/net/tun", name);
        return -1;
    }
    strncpy(request.ifr_name, name, sizeof(request.ifr_name) - 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        int code = errno;
        close(fd);
        return fail_tap(err, name, code);
    }
    return fd;
}

/* tap_open(vm, name, doorbell) -> tap | nil, text, name */
static int tap_open(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    const char *name = mk_check_cstring(L, 2);
    int bell = mk_lua_bell_fd(L, 3);
    struct mk_err err;
    struct mk_lua_tap *tap = lua_newuserdatauv(L, sizeof(*tap), 0);
    tap->fd = tap->bell = -1;
    luaL_setmetatable(L, MK_TAP);
    int fd = open_tap(name, &err);
    if (fd < 0)
        return mk_push_err(L, &err);
    tap->bell = fcntl(bell, F_DUPFD_CLOEXEC, 0);
    if (tap->bell < 0) {
        mk_fail_errno(&err, errno, "tap %s: eventfd", name);
        close(fd);
        return mk_push_err(L, &err);
    }
    tap->fd = fd;
    tap->source =
        (struct mk_io_source){ .ready = frame_came, .ctx = tap, .fd = fd, .events = EPOLLIN };
    tap->v = v;
    tap->next = v->taps;
    v->taps = tap;
    return 1;
}

static struct mk_lua_tap *check_tap(lua_State *L)
{
    return luaL_checkudata(L, 1, MK_TAP);
}

/* tap_read(tap) -> frame | nil: there is none, and the doorbell rings when there is */
static int tap_read(lua_State *L)
{
    struct mk_lua_tap *tap = check_tap(L);
    ssize_t n = tap->fd < 0 ? -1 : read(tap->fd, tap->frame, sizeof(tap->frame));
    if (n < 0) {
        if (tap->fd >= 0)
            mk_io_watch(&tap->source);
        return 0;
    }
    lua_pushlstring(L, tap->frame, (size_t)n);
    return 1;
}

/* tap_wait(tap): the doorbell rings when there is a frame, at once if there is one. */
static int tap_wait(lua_State *L)
{
    struct mk_lua_tap *tap = check_tap(L);
    if (tap->fd >= 0)
        mk_io_watch(&tap->source);
    return 0;
}

/* tap_write(tap, frame) -> whether the host took it; it does not when the interface is down */
static int tap_write(lua_State *L)
{
    const struct mk_lua_tap *tap = check_tap(L);
    size_t length;
    const char *frame = luaL_checklstring(L, 2, &length);
    lua_pushboolean(L, tap->fd >= 0 && write(tap->fd, frame, length) == (ssize_t)length);
    return 1;
}

static int tap_close(lua_State *L)
{
    close_tap(check_tap(L));
    return 0;
}

void mk_open_tap(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__gc", tap_close }, { NULL, NULL } };
    static const luaL_Reg none[] = { { NULL, NULL } };
    static const luaL_Reg core[] = { { "tap_open", tap_open },   { "tap_read", tap_read },
                                     { "tap_wait", tap_wait },   { "tap_write", tap_write },
                                     { "tap_close", tap_close }, { NULL, NULL } };
    mk_new_type(L, MK_TAP, meta, none);
    luaL_setfuncs(L, core, 0); /* into the core table on top */
}
