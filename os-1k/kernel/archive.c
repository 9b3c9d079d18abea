/* archive.c - finds a program by name in a tar archive (POSIX.1-1988 "ustar" format).
 *
 * A tar archive is a row of 512-byte blocks: a header, the file's bytes filled up to whole blocks,
 * the next header, and so on until a header whose name is empty. Sizes are octal text. */
#include "kernel.h"
#include "str.h"

#define BLOCK 512u

struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
    char link[100], magic[6], rest[249];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is one block");

extern const char archive_start[], archive_end[];

static uint32_t octal(const char *digits, uint32_t count)
{
    uint32_t value = 0;

    for (; count && *digits >= '0' && *digits <= '7'; count--)
        value = value * 8 + (uint32_t)(*digits++ - '0');
    return value;
}

/* The header behind this one (or the first, given NULL); NULL at the end of the archive. */
static const struct header *next(const struct header *header)
{
    const char *p = archive_start;

    if (header)
        p = (const char *)(header + 1) +
            (octal(header->size, sizeof header->size) + BLOCK - 1) / BLOCK * BLOCK;
    if (p < archive_start || (uint32_t)(archive_end - p) < BLOCK || p > archive_end || !*p)
        return NULL;
    return (const struct header *)p;
}

const void *archive_find(const char *name, uint32_t *size)
{
    for (const struct header *h = next(NULL); h; h = next(h)) {
        *size = octal(h->size, sizeof h->size);
        if (str_equal(h->name, name) && *size <= (uint32_t)(archive_end - (const char *)(h + 1)))
            return h + 1;
    }
    return NULL;
}

uint32_t archive_count(void)
{
    uint32_t count = 0;

    for (const struct header *h = next(NULL); h; h = next(h))
        count++;
    return count;
}
