/* nbd.c - see nbd.h. libnbd(3), libnbd-aio: its C interface is stable, so the few functions that
 * are used are declared here, and building takes no package. */
#include "files/nbd.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libnbd.so.0"
#define POLL_MS 500
#define RETRY_NS 1000000000u /* between two attempts to connect */
#define NO_HOLE 2u           /* LIBNBD_CMD_FLAG_NO_HOLE */

struct nbd_handle;

/* nbd_completion_callback, all NULL: none. */
struct completion {
    int (*callback)(void *ctx, int *error);
    void *ctx;
    void (*free)(void *ctx);
};

#define FUNCTIONS(X)                                                                               \
    X(struct nbd_handle *, create, (void))                                                         \
    X(void, close, (struct nbd_handle *))                                                          \
    X(const char *, get_error, (void))                                                             \
    X(int, get_errno, (void))                                                                      \
    X(int, aio_connect_uri, (struct nbd_handle *, const char *uri))                                \
    X(int, aio_is_ready, (struct nbd_handle *))                                                    \
    X(int, aio_is_connecting, (struct nbd_handle *))                                               \
    X(int, poll, (struct nbd_handle *, int milliseconds))                                          \
    X(int64_t, get_size, (struct nbd_handle *))                                                    \
    X(int, is_read_only, (struct nbd_handle *))                                                    \
    X(int, can_flush, (struct nbd_handle *))                                                       \
    X(int, can_trim, (struct nbd_handle *))                                                        \
    X(int, can_zero, (struct nbd_handle *))                                                        \
    X(int64_t, aio_pread,                                                                          \
      (struct nbd_handle *, void *, size_t, uint64_t, struct completion, uint32_t))                \
    X(int64_t, aio_pwrite,                                                                         \
      (struct nbd_handle *, const void *, size_t, uint64_t, struct completion, uint32_t))          \
    X(int64_t, aio_flush, (struct nbd_handle *, struct completion, uint32_t))                      \
    X(int64_t, aio_trim, (struct nbd_handle *, uint64_t, uint64_t, struct completion, uint32_t))   \
    X(int64_t, aio_zero, (struct nbd_handle *, uint64_t, uint64_t, struct completion, uint32_t))   \
    X(int, aio_command_completed, (struct nbd_handle *, uint64_t))

#define POINTER(type, name, arguments) type(*name) arguments;
#define ENTRY(type, name, arguments) { "nbd_" #name, &lib.name },

static struct {
    FUNCTIONS(POINTER)
} lib;

static const struct {
    const char *name;
    void *at;
} functions[] = { FUNCTIONS(ENTRY) };

struct mk_nbd {
    pthread_mutex_t lock; /* all below */
    char *uri;
    bool write;
    uint64_t size;
    struct nbd_handle *handle; /* NULL: not connected */
    uint64_t tried;            /* when that was tried last */
};

static const struct completion none;

/* --- the library --- */

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static int load_functions(struct mk_err *err)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_NODELETE);
    if (!library)
        return mk_fail(err, ENOENT,
                       "%s cannot be loaded, which speaks with NBD servers: it is in Debian's "
                       "package libnbd0 (apt-get install libnbd0)",
                       LIBRARY);
    for (size_t i = 0; i < MK_COUNT(functions); i++) {
        *(void **)functions[i].at = dlsym(library, functions[i].name);
        if (!*(void **)functions[i].at)
            return mk_fail(err, ENOENT, "%s has no %s", LIBRARY, functions[i].name);
    }
    dlclose(library);
    return 0;
}

static int load(struct mk_err *err)
{
    pthread_mutex_lock(&loading);
    int rc = lib.aio_command_completed ? 0 : load_functions(err);
    pthread_mutex_unlock(&loading);
    return rc;
}

/* --- the connection; callers hold the lock --- */

static void drop(struct mk_nbd *nbd)
{
    if (nbd->handle)
        lib.close(nbd->handle); /* which also forgets requests and their memory */
    nbd->handle = NULL;
}

static int fail_nbd(const struct mk_nbd *nbd, struct mk_err *err)
{
    int code = lib.get_errno();
    return mk_fail(err, code ? code : EIO, "%s: %.250s", nbd->uri, lib.get_error());
}

static int fail_time(const struct mk_nbd *nbd, struct mk_err *err)
{
    return mk_fail(err, ETIMEDOUT, "%s: the server has not answered for %d seconds", nbd->uri,
                   MK_NBD_SECONDS);
}

static uint64_t limit(void)
{
    return mk_now() + MK_NBD_SECONDS * UINT64_C(1000000000);
}

static int connect(struct mk_nbd *nbd, struct mk_err *err)
{
    uint64_t until = limit();
    nbd->tried = mk_now();
    nbd->handle = lib.create();
    if (!nbd->handle || lib.aio_connect_uri(nbd->handle, nbd->uri) < 0)
        return fail_nbd(nbd, err);
    while (lib.aio_is_connecting(nbd->handle) > 0) {
        if (mk_now() >= until)
            return fail_time(nbd, err);
        if (lib.poll(nbd->handle, POLL_MS) < 0)
            return fail_nbd(nbd, err);
    }
    if (lib.aio_is_ready(nbd->handle) <= 0)
        return fail_nbd(nbd, err);
    return 0;
}

/* What was opened is still what is there. */
static int check(const struct mk_nbd *nbd, struct mk_err *err)
{
    int64_t size = lib.get_size(nbd->handle);
    if (size < 0)
        return fail_nbd(nbd, err);
    if (nbd->size && (uint64_t)size != nbd->size)
        return mk_fail(err, EIO, "%s: the disk has %lld bytes, it had %llu", nbd->uri,
                       (long long)size, (unsigned long long)nbd->size);
    if (nbd->write && lib.is_read_only(nbd->handle) > 0)
        return mk_fail(err, EROFS, "%s: the server lets nobody write to it", nbd->uri);
    return 0;
}

static int ensure(struct mk_nbd *nbd, struct mk_err *err)
{
    if (nbd->handle)
        return 0;
    if (nbd->tried && mk_now() - nbd->tried < RETRY_NS)
        return mk_fail(err, ENOTCONN, "%s: the connection is lost", nbd->uri);
    if (connect(nbd, err) == 0 && check(nbd, err) == 0)
        return 0;
    drop(nbd);
    return -1;
}

/* Waits for a command, which has failed to begin when it is below 0. A connection that has failed,
 * or is silent, is closed: what it still has of us is forgotten so. */
static int finish(struct mk_nbd *nbd, int64_t command, struct mk_err *err)
{
    uint64_t until = limit();
    int rc = command < 0 ? -1 : 0;
    while (rc == 0 && (rc = lib.aio_command_completed(nbd->handle, (uint64_t)command)) == 0) {
        if (mk_now() >= until) {
            drop(nbd);
            return fail_time(nbd, err);
        }
        if (lib.poll(nbd->handle, POLL_MS) < 0)
            rc = -1;
    }
    if (rc > 0)
        return 0;
    int code = lib.get_errno();
    fail_nbd(nbd, err);
    if (lib.aio_is_ready(nbd->handle) <= 0 || code == ESHUTDOWN || code == ENOTCONN)
        drop(nbd);
    return -1;
}

/* --- what can be asked for --- */

static bool can(struct nbd_handle *h, enum mk_nbd_command command)
{
    switch (command) {
    case MK_NBD_FLUSH: return lib.can_flush(h) > 0;
    case MK_NBD_ZERO:
    case MK_NBD_HOLE: return lib.can_zero(h) > 0;
    case MK_NBD_DISCARD: return lib.can_trim(h) > 0;
    default: return true;
    }
}

static int64_t begin(struct nbd_handle *h, enum mk_nbd_command command, uint64_t at, void *bytes,
                     size_t length)
{
    switch (command) {
    case MK_NBD_READ: return lib.aio_pread(h, bytes, length, at, none, 0);
    case MK_NBD_WRITE: return lib.aio_pwrite(h, bytes, length, at, none, 0);
    case MK_NBD_FLUSH: return lib.aio_flush(h, none, 0);
    case MK_NBD_ZERO: return lib.aio_zero(h, length, at, none, NO_HOLE);
    case MK_NBD_HOLE: return lib.aio_zero(h, length, at, none, 0);
    default: return lib.aio_trim(h, length, at, none, 0);
    }
}

int mk_nbd_do(struct mk_nbd *nbd, enum mk_nbd_command command, uint64_t at, void *bytes,
              size_t length, struct mk_err *err)
{
    pthread_mutex_lock(&nbd->lock);
    int rc = ensure(nbd, err);
    if (rc == 0)
        rc = can(nbd->handle, command)
                 ? finish(nbd, begin(nbd->handle, command, at, bytes, length), err)
                 : 1;
    pthread_mutex_unlock(&nbd->lock);
    return rc;
}

/* --- its life --- */

bool mk_nbd_is_uri(const char *path)
{
    const char *rest = strstr(path, "://");
    return rest && strncmp(path, "nbd", 3) == 0 && !memchr(path, '/', (size_t)(rest - path));
}

uint64_t mk_nbd_size(const struct mk_nbd *nbd)
{
    return nbd->size;
}

struct mk_nbd *mk_nbd_open(const char *uri, bool write, struct mk_err *err)
{
    if (load(err) < 0)
        return NULL;
    struct mk_nbd *nbd = calloc(1, sizeof(*nbd));
    if (nbd)
        nbd->uri = strdup(uri);
    if (!nbd || !nbd->uri) {
        free(nbd);
        mk_fail_errno(err, ENOMEM, "%s", uri);
        return NULL;
    }
    nbd->write = write;
    pthread_mutex_init(&nbd->lock, NULL);
    if (ensure(nbd, err) < 0) {
        mk_nbd_close(nbd);
        return NULL;
    }
    nbd->size = (uint64_t)lib.get_size(nbd->handle);
    return nbd;
}

void mk_nbd_close(struct mk_nbd *nbd)
{
    if (!nbd)
        return;
    drop(nbd);
    pthread_mutex_destroy(&nbd->lock);
    free(nbd->uri);
    free(nbd);
}
