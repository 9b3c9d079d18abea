/* image.h - guest images: reading them whole, and checking where they go. */
#ifndef MK_IMAGE_H
#define MK_IMAGE_H

#include "err.h"

#define MK_IMAGE_MAX (UINT64_C(1) << 32)

struct mk_image {
    uint8_t *bytes;
    size_t size;
    uint64_t at; /* guest-physical address it was loaded to */
    struct mk_image *next;
    char name[]; /* for messages */
};

/* Reads a regular file; an empty one is refused. NULL with *err filled in. */
struct mk_image *mk_image_read(const char *path, struct mk_err *err);
/* Copies bytes that are in memory already. */
struct mk_image *mk_image_copy(const char *name, const void *bytes, size_t size,
                               struct mk_err *err);
void mk_image_free(struct mk_image *image);

#endif
