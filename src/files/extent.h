/* extent.h - which parts of a file hold data: a hole (man 2 lseek, SEEK_HOLE) takes no room on the
 * disk, and shall take none in memory. */
#ifndef MK_EXTENT_H
#define MK_EXTENT_H

#include <stdbool.h>
#include <sys/types.h>

/* The next data of a file of `size` bytes from *at on: false when only a hole follows, else *at is
 * where they begin and *end where they end. Where the file system does not tell, all is data. Moves
 * the descriptor's position. */
bool mk_extent_next(int fd, off_t size, off_t *at, off_t *end);

#endif
