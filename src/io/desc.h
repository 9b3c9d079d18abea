/* desc.h - a descriptor of the program's own, such as standard output, used without ever blocking.
 *
 * O_NONBLOCK belongs to the open file, which other processes and the script's own prints share, so
 * it is not set there: pipes and terminals are opened once more by /proc/self/fd (proc(5)), sockets
 * are asked by each call. What cannot be opened again is polled before each use; then it can block
 * if somebody else uses it at the same moment. Files, and devices that are no terminals, do not
 * block. */
#ifndef MK_DESC_H
#define MK_DESC_H

#include "base/util.h"

#include <sys/types.h>

enum mk_desc_kind { MK_DESC_NONE, MK_DESC_FILE, MK_DESC_SOCKET, MK_DESC_REOPENED, MK_DESC_POLLED };

struct mk_desc {
    enum mk_desc_kind kind;
    int fd;  /* as given */
    int own; /* what it is used by; not that of a file */
    dev_t device;
    ino_t inode;
};

/* Makes it ready for `fd` with O_RDONLY or O_WRONLY, and keeps what it has if that is still the
 * same. False with errno when fd is none. */
bool mk_desc_use(struct mk_desc *d, int fd, int flags);
void mk_desc_close(struct mk_desc *d);
/* As read(2) and write(2); -1 with EAGAIN when it would block. write() makes no SIGPIPE. */
ssize_t mk_desc_read(const struct mk_desc *d, void *bytes, size_t length);
ssize_t mk_desc_write(const struct mk_desc *d, const void *bytes, size_t length);

#endif
