/* extent.c - see extent.h. */
#include "files/extent.h"

#include <errno.h>
#include <unistd.h>

bool mk_extent_next(int fd, off_t size, off_t *at, off_t *end)
{
    if (*at >= size)
        return false;
    off_t data = lseek(fd, *at, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return false;
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    if (hole >= 0)
        *at = data;
    *end = hole < 0 || hole > size ? size : hole;
    return *at < size;
}
