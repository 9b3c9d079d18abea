/* image.c - reading images, and the modules that belong to one; see image.h. */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Large ones get huge pages: half the time of reading is taken by page faults otherwise. */
static uint8_t *buffer_new(size_t size)
{
    if (size < 2 * MK_HUGE_PAGE)
        return malloc(size);
    void *bytes = NULL;
    if (posix_memalign(&bytes, MK_HUGE_PAGE, size) != 0)
        return NULL;
    madvise(bytes, size, MADV_HUGEPAGE); /* advice: that it may fail is all right */
    return bytes;
}

static struct mk_image *image_new(const char *name, size_t size, struct mk_err *err)
{
    struct mk_image *image = calloc(1, sizeof(*image) + strlen(name) + 1);
    if (image)
        image->bytes = buffer_new(size);
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
    while (image->modules) {
        struct mk_image *module = image->modules;
        image->modules = module->next;
        mk_image_free(module);
    }
    free(image->plan.info);
    free(image->text);
    free(image->bytes);
    free(image);
}

static int add_module(struct mk_image *image, struct mk_image *module, const char *text,
                      struct mk_err *err)
{
    unsigned count = 1;
    struct mk_image **at = &image->modules;
    for (; *at; at = &(*at)->next)
        count++;
    if (count > MK_MODULES_MAX)
        return mk_fail(err, E2BIG, "%s: more than %d modules", image->name, MK_MODULES_MAX);
    if (strlen(text) > MK_MODULE_TEXT_MAX)
        return mk_fail(err, E2BIG, "%s: the string of module %s is longer than %d bytes",
                       image->name, module->name, MK_MODULE_TEXT_MAX);
    module->text = strdup(text);
    if (!module->text)
        return mk_fail_errno(err, ENOMEM, "%s", module->name);
    *at = module;
    return 0;
}

int mk_image_add_module(struct mk_image *image, struct mk_image *module, const char *text,
                        struct mk_err *err)
{
    if (add_module(image, module, text ? text : module->name, err) == 0)
        return 0;
    mk_image_free(module);
    return -1;
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
