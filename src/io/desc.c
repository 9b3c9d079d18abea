/* desc.c - see desc.h. */
#include "io/desc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A pipe that poll() calls writable takes 4096 bytes, a terminal fewer. */
#define POLLED_CHUNK 512

static int open_again(int fd, int flags)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static void choose(struct mk_desc *d, const struct stat *st, int flags)
{
    d->own = -1;
    if (!S_ISFIFO(st->st_mode) && !S_ISSOCK(st->st_mode) &&
        !(S_ISCHR(st->st_mode) && isatty(d->fd))) {
        d->kind = MK_DESC_FILE;
        return;
    }
    d->kind = S_ISSOCK(st->st_mode) ? MK_DESC_SOCKET : MK_DESC_REOPENED;
    if (d->kind == MK_DESC_REOPENED)
        d->own = open_again(d->fd, flags);
    if (d->own < 0) {
        d->own = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
        if (d->kind == MK_DESC_REOPENED)
            d->kind = MK_DESC_POLLED;
    }
}

bool mk_desc_use(struct mk_desc *d, int fd, int flags)
{
    struct stat st;
    bool known = fstat(fd, &st) == 0;
    if (known && d->kind && d->fd == fd && d->device == st.st_dev && d->inode == st.st_ino)
        return true;
    int code = errno;
    mk_desc_close(d);
    errno = code;
    if (!known)
        return false;
    *d = (struct mk_desc){ .fd = fd, .device = st.st_dev, .inode = st.st_ino };
    choose(d, &st, flags);
    return true;
}

void mk_desc_close(struct mk_desc *d)
{
    if (d->kind > MK_DESC_FILE && d->own >= 0)
        close(d->own);
    *d = (struct mk_desc){ .kind = MK_DESC_NONE };
}

static bool would_block(const struct mk_desc *d, short events)
{
    struct pollfd pfd = { .fd = d->own, .events = events };
    if (d->kind != MK_DESC_POLLED || poll(&pfd, 1, 0) > 0)
        return false;
    errno = EAGAIN;
    return true;
}

ssize_t mk_desc_read(const struct mk_desc *d, void *bytes, size_t length)
{
    if (would_block(d, POLLIN))
        return -1;
    if (d->kind == MK_DESC_SOCKET)
        return recv(d->own, bytes, length, MSG_DONTWAIT);
    return read(d->kind == MK_DESC_FILE ? d->fd : d->own, bytes, length);
}

/* The signal is for this thread: it is blocked, and taken back when the write made it. */
static ssize_t write_pipe(int fd, const void *bytes, size_t length)
{
    sigset_t pipe, before;
    const struct timespec now = { 0 };
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    ssize_t put = write(fd, bytes, length);
    int code = errno;
    if (put < 0 && code == EPIPE && !sigismember(&before, SIGPIPE))
        sigtimedwait(&pipe, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = code;
    return put;
}

ssize_t mk_desc_write(const struct mk_desc *d, const void *bytes, size_t length)
{
    if (would_block(d, POLLOUT))
        return -1;
    switch (d->kind) {
    case MK_DESC_FILE: return write(d->fd, bytes, length);
    case MK_DESC_SOCKET: return send(d->own, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    case MK_DESC_POLLED:
        return write_pipe(d->own, bytes, length < POLLED_CHUNK ? length : POLLED_CHUNK);
    default: return write_pipe(d->own, bytes, length);
    }
}
