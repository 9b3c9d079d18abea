/* tap.h - a tap of the host's: the other end of a cable (Linux,
 * Documentation/networking/tuntap.rst).
 *
 * Frames go with the 12 bytes that virtio puts before them (struct virtio_net_hdr_mrg_rxbuf), so
 * checksums and the cutting of large TCP segments are the host's, in both directions. The
 * descriptor never blocks. Its owner has a lock for it. */
#ifndef MK_TAP_H
#define MK_TAP_H

#include "base/err.h"
#include "io/io.h"

#include <sys/types.h>

#define MK_TAP_HEADER 12u
#define MK_TAP_MOST (65535u + 18u)

struct mk_tap {
    int fd;
    struct mk_io_source source;
    uint8_t buffer[MK_TAP_HEADER + MK_TAP_MOST];
};

/* `ready` is called on the I/O thread, once after each mk_tap_watch(), when there is a frame. NULL
 * with *err. */
struct mk_tap *mk_tap_open(const char *name, void (*ready)(void *ctx), void *ctx,
                           struct mk_err *err);
/* Opens a tap now, for the next mk_tap_open() of that name: a process in a jail cannot. */
int mk_tap_keep(const char *name, struct mk_err *err);
void mk_tap_close(struct mk_tap *tap);
void mk_tap_watch(struct mk_tap *tap);
/* The next frame's header and bytes, until the next call, and how many they are; NULL: there is
 * none. */
const uint8_t *mk_tap_read(struct mk_tap *tap, uint32_t *length);
/* False when the host does not take it, for example because the interface is down. */
bool mk_tap_write(const struct mk_tap *tap, const uint8_t *header, const uint8_t *bytes,
                  uint32_t length);

#endif
