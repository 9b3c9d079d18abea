/* tap.c - see tap.h. */
#include "io/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

static int refuse(struct mk_err *err, const char *name, int code)
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

static int open_fd(const char *name, struct mk_err *err)
{
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), size = MK_TAP_HEADER;
    if (fd < 0)
        return mk_fail_errno(err, errno, "tap %s: /dev/net/tun", name);
    strncpy(request.ifr_name, name, sizeof(request.ifr_name) - 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 ||
        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0) {
        int code = errno;
        close(fd);
        return refuse(err, name, code);
    }
    return fd;
}

/* --- taps that were opened before they are wanted --- */

static struct kept {
    char name[IFNAMSIZ];
    int fd;
    struct kept *next;
} * kept;

int mk_tap_keep(const char *name, struct mk_err *err)
{
    struct kept *k = calloc(1, sizeof(*k));
    if (!k)
        return mk_fail_errno(err, ENOMEM, "tap %s", name);
    strncpy(k->name, name, sizeof(k->name) - 1);
    k->fd = open_fd(name, err);
    if (k->fd < 0) {
        free(k);
        return -1;
    }
    k->next = kept;
    kept = k;
    return 0;
}

/* -1: there is none of that name. */
static int find_kept(const char *name)
{
    struct kept **at = &kept;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    if (!*at)
        return -1;
    struct kept *k = *at;
    int fd = k->fd;
    *at = k->next;
    free(k);
    return fd;
}

struct mk_tap *mk_tap_open(const char *name, void (*ready)(void *ctx), void *ctx,
                           struct mk_err *err)
{
    struct mk_tap *tap = malloc(sizeof(*tap));
    int fd = tap ? find_kept(name) : mk_fail_errno(err, ENOMEM, "tap %s", name);
    if (tap && fd < 0)
        fd = open_fd(name, err);
    if (fd < 0) {
        free(tap);
        return NULL;
    }
    tap->fd = fd;
    tap->source = (struct mk_io_source){ .ready = ready, .ctx = ctx, .fd = fd, .events = EPOLLIN };
    return tap;
}

void mk_tap_close(struct mk_tap *tap)
{
    if (!tap)
        return;
    mk_io_unwatch(&tap->source);
    close(tap->fd);
    free(tap);
}

void mk_tap_watch(struct mk_tap *tap)
{
    mk_io_watch(&tap->source);
}

const uint8_t *mk_tap_read(struct mk_tap *tap, uint32_t *length)
{
    ssize_t n = read(tap->fd, tap->buffer, sizeof(tap->buffer));
    if (n < (ssize_t)MK_TAP_HEADER)
        return NULL;
    *length = (uint32_t)n - MK_TAP_HEADER;
    return tap->buffer;
}

bool mk_tap_write(const struct mk_tap *tap, const uint8_t *header, const uint8_t *bytes,
                  uint32_t length)
{
    const struct iovec parts[] = { { (void *)(uintptr_t)header, MK_TAP_HEADER },
                                   { (void *)(uintptr_t)bytes, length } };
    return writev(tap->fd, parts, MK_COUNT(parts)) == (ssize_t)(MK_TAP_HEADER + length);
}
