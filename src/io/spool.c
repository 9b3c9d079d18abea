/* spool.c - see spool.h. */
#include "io/spool.h"

#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FULL 65536u       /* bytes that are worth a write */
#define OLD 200000000u    /* ns after which fewer are */
#define LAST_WAIT_MS 1000 /* for a reader, at the end */

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
}

/* In one write, so that the file is whole whenever the process ends. */
static bool append_whole(struct mk_spool *s)
{
    size_t length = s->pending.length;
    errno = ENOMEM;
    if (mk_buffer_append(&s->pending, s->tail, s->tail_length) &&
        mk_write_at(s->fd, mk_buffer_bytes(&s->pending), s->pending.length, (off_t)s->at) == 0) {
        s->at += length;
        return true;
    }
    s->error = errno ? errno : EIO;
    if (ftruncate(s->fd, (off_t)(s->at + s->tail_length)) == 0) /* that much was there before */
        mk_write_at(s->fd, s->tail, s->tail_length, (off_t)s->at);
    return false;
}

/* All that is taken at once. */
static bool append_some(struct mk_spool *s)
{
    while (s->pending.length) {
        ssize_t put =
            mk_desc_write(&s->desc, s->pending.data + s->pending.start, s->pending.length);
        if (put > 0)
            mk_buffer_consume(&s->pending, (size_t)put);
        else if (put < 0 && errno == EAGAIN)
            return true;
        else if (put == 0 || errno != EINTR)
            s->error = put < 0 ? errno : EIO;
        if (s->error)
            return false;
    }
    return true;
}

static void flush(struct mk_spool *s, bool always)
{
    s->last = mk_now();
    if (s->error || s->fd < 0 || !(s->pending.length || always))
        return;
    bool done = s->whole ? append_whole(s) : append_some(s);
    if (s->whole || !done)
        mk_buffer_consume(&s->pending, s->pending.length);
    if (!done)
        s->lost += s->waiting;
    else if (!s->pending.length)
        s->written += s->waiting;
    if (!s->pending.length)
        s->waiting = 0;
}

void mk_spool_flush(struct mk_spool *s)
{
    flush(s, false);
}

bool mk_spool_put(struct mk_spool *s, const char *bytes, size_t length)
{
    if (s->pending.length + length > MK_SPOOL_ROOM)
        mk_spool_flush(s);
    if (s->error || s->fd < 0 || s->pending.length + length > MK_SPOOL_ROOM ||
        !mk_buffer_append(&s->pending, bytes, length)) {
        s->lost++;
        return false;
    }
    s->waiting++;
    if (s->pending.length >= FULL || mk_now() - s->last > OLD)
        mk_spool_flush(s);
    return true;
}

/* What the reader takes within a second. */
static void drain(struct mk_spool *s)
{
    uint64_t until = mk_now() + LAST_WAIT_MS * UINT64_C(1000000), now;
    mk_spool_flush(s);
    while (s->pending.length && !s->error && (now = mk_now()) < until) {
        struct pollfd pfd = { .fd = s->desc.own >= 0 ? s->desc.own : s->fd, .events = POLLOUT };
        poll(&pfd, 1, (int)((until - now) / 1000000u) + 1);
        mk_spool_flush(s);
    }
    if (s->pending.length)
        s->lost += s->waiting;
}

void mk_spool_close(struct mk_spool *s)
{
    if (s->fd < 0)
        return;
    if (!s->whole && mk_buffer_append(&s->pending, s->tail, s->tail_length))
        drain(s);
    else
        mk_spool_flush(s);
    mk_desc_close(&s->desc);
    if (close(s->fd) < 0 && !s->error)
        s->error = errno;
    s->fd = -1;
    mk_buffer_free(&s->pending);
}

void mk_spool_discard(struct mk_spool *s)
{
    s->tail_length = 0;
    mk_buffer_consume(&s->pending, s->pending.length);
    mk_spool_close(s);
}

int mk_spool_use(struct mk_spool *s, int fd, struct mk_err *err)
{
    *s = (struct mk_spool){ .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3), .last = mk_now() };
    if (s->fd >= 0 && mk_desc_use(&s->desc, s->fd, O_WRONLY))
        return 0;
    int code = errno;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    return mk_fail_errno(err, code, "descriptor %d", fd);
}

int mk_spool_open(struct mk_spool *s, const char *path, const char *head, const char *tail,
                  struct mk_err *err)
{
    struct stat st;
    *s = (struct mk_spool){ .fd = open_file(path), .last = mk_now() };
    if (s->fd < 0 && errno == ENXIO)
        return mk_fail(err, ENXIO, "%s: nobody reads from it", path);
    if (s->fd < 0)
        return mk_fail_errno(err, errno, "%s", path);
    s->whole = fstat(s->fd, &st) == 0 && S_ISREG(st.st_mode);
    mk_desc_use(&s->desc, s->fd, O_WRONLY);
    s->tail_length = strnlen(tail, sizeof(s->tail));
    memcpy(s->tail, tail, s->tail_length);
    mk_buffer_append(&s->pending, head, strlen(head));
    flush(s, true);
    if (!s->error)
        return 0;
    mk_fail_errno(err, s->error, "%s", path);
    mk_spool_close(s);
    return -1;
}
