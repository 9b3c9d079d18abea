/* archive.c - guest images in a tar archive (POSIX.1-1988 "ustar" format).
 *
 * A row of 512-byte blocks: a header, the file's bytes filled up to whole blocks, the next header,
 * and so on until a header whose name is empty. Sizes are octal text. It comes from outside:
 * whatever it holds, nothing beyond its end is read. */
#include "hyper.h"

#define BLOCK 512ul

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[5], rest[250];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is one block");

const void *archive_next(uint64_t *at, uint64_t end, const char **name, uint64_t *size)
{
    struct header *header = (struct header *)*at;

    if (end - *at < BLOCK || !header->name[0])
        return NULL;
    if (!begins_with(header->magic, "ustar")) {
        say("the archive is none of tar's: no header at 0x%lx", *at);
        return NULL;
    }
    header->name[sizeof header->name - 1] = '\0';
    *name = header->name;
    *size = digits_of(header->size, 8);
    if (*size > end - *at - BLOCK) {
        say("the archive ends within %s", *name);
        return NULL;
    }
    *at += BLOCK + (*size + BLOCK - 1) / BLOCK * BLOCK;
    if (*at > end)
        *at = end;
    return header + 1;
}
