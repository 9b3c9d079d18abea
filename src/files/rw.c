/* rw.c - see rw.h. */
#include "files/rw.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

ssize_t mk_read_at(int fd, void *to, size_t length, off_t at)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = pread(fd, (uint8_t *)to + done, length - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int mk_write_at(int fd, const void *from, size_t length, off_t at)
{
    const uint8_t *bytes = from;
    while (length) {
        ssize_t n = pwrite(fd, bytes, length, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return -1;
        bytes += n;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}
