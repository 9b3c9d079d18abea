/* image.c - see image.h. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct mk_image *image_new(const char *name, size_t size, struct mk_err *err)
{
    struct mk_image *image = calloc(1, sizeof(*image) + strlen(name) + 1);
    if (image)
        image->bytes = malloc(size);
    if (!image || !image->bytes) {
        mk_fail_errno(err, ENOMEM, "%s: image of %zu bytes", name, size);
        free(image);
        return NULL;
    }
    strcpy(image->name, name);
    image->size = size;
    return image;
}

struct mk_image *mk_image_copy(const char *name, const void *bytes, size_t size,
                               struct mk_err *err)
{
    if (size == 0) {
        mk_fail(err, EINVAL, "%s: the image is empty", name);
        return NULL;
    }
    struct mk_image *image = image_new(name, size, err);
    if (image)
        memcpy(image->bytes, bytes, size);
    return image;
}

void mk_image_free(struct mk_image *image)
{
    if (!image)
        return;
    free(image->bytes);
    free(image);
}

/* The size of a file that can be an image; -1 with *err. */
static int64_t usable_size(int fd, const char *path, struct mk_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return mk_fail_errno(err, errno, "%s", path);
    if (S_ISDIR(st.st_mode))
        return mk_fail(err, EISDIR, "%s: it is a directory, not a guest image", path);
    if (!S_ISREG(st.st_mode))
        return mk_fail(err, EINVAL, "%s: not a regular file", path);
    if (st.st_size == 0)
        return mk_fail(err, EINVAL, "%s: the image is empty", path);
    if ((uint64_t)st.st_size > MK_IMAGE_MAX)
        return mk_fail(err, EFBIG, "%s: an image of %lld bytes is too large", path,
                       (long long)st.st_size);
    return st.st_size;
}

static bool read_all(int fd, uint8_t *to, size_t size)
{
    while (size > 0) {
        ssize_t got = read(fd, to, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got ? errno : EIO; /* it shrank under us */
            return false;
        }
        to += got;
        size -= (size_t)got;
    }
    return true;
}

struct mk_image *mk_image_read(const char *path, struct mk_err *err)
{
    struct mk_image *image = NULL;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        mk_fail_errno(err, errno, "%s", path);
        return NULL;
    }
    int64_t size = usable_size(fd, path, err);
    if (size > 0)
        image = image_new(path, (size_t)size, err);
    if (image && !read_all(fd, image->bytes, image->size)) {
        mk_fail_errno(err, errno, "%s", path);
        mk_image_free(image);
        image = NULL;
    }
    close(fd);
    return image;
}
