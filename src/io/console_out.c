/* console_out.c - a console's output on its way to a descriptor and to a log.
 *
 * The thread of a vCPU writes when much is pending, before a handler of the script runs (whose own
 * output comes after it), before it sleeps and at the end; the I/O thread what a guest left that
 * goes on. Nobody waits for a reader: when it takes nothing (`stalled`), the I/O thread goes on
 * when there is room (`room`), and only the guest that printed waits, when it has printed much. */
#include "io/console.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* --- chunks, copied so that nobody waits for a lock that is held in a write --- */

static size_t copy_chunk(struct mk_console *con, const struct mk_buffer *b, char *bytes)
{
    pthread_mutex_lock(&con->lock);
    size_t length = b->length < MK_CONSOLE_CHUNK ? b->length : MK_CONSOLE_CHUNK;
    if (length)
        memcpy(bytes, b->data + b->start, length);
    pthread_mutex_unlock(&con->lock);
    return length;
}

static void drop(struct mk_console *con, struct mk_buffer *b, size_t length)
{
    pthread_mutex_lock(&con->lock);
    mk_buffer_consume(b, length);
    if (b != &con->log) {
        con->unwritten -= length;
        con->full = false;
    }
    pthread_mutex_unlock(&con->lock);
}

static void drop_all(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    for (unsigned i = 0; i < con->streams; i++)
        mk_buffer_consume(&con->stream[i].pending, con->stream[i].pending.length);
    con->unwritten = 0;
    con->full = false;
    pthread_mutex_unlock(&con->lock);
}

/* --- writing; callers hold out_lock --- */

static void failed(struct mk_console *con, int code)
{
    if (code == EINTR)
        return;
    if (code == EAGAIN) {
        con->stalled = true;
        con->room.fd = con->out_desc.own;
        mk_io_watch(&con->room);
        return;
    }
    con->out_error = code;
    drop_all(con);
}

static void write_stream(struct mk_console *con, struct mk_buffer *pending)
{
    char bytes[MK_CONSOLE_CHUNK];
    size_t length;
    while (!con->stalled && !con->out_error && (length = copy_chunk(con, pending, bytes)) > 0) {
        ssize_t put = mk_desc_write(&con->out_desc, bytes, length);
        if (put < 0)
            failed(con, errno);
        else
            drop(con, pending, (size_t)put);
    }
}

static void write_streams(struct mk_console *con)
{
    int fd = con->out_fd;
    if (fd < 0 || con->unwritten == 0 || con->stalled)
        return;
    if (!con->out_known && !mk_desc_use(&con->out_desc, fd, O_WRONLY))
        failed(con, errno);
    con->out_known = true;
    for (unsigned i = 0; i < con->streams; i++)
        write_stream(con, &con->stream[i].pending);
}

/* A log that cannot be written ends; the guest does not learn of it. */
static void write_log(struct mk_console *con)
{
    char bytes[MK_CONSOLE_CHUNK];
    size_t length;
    while (con->log_fd >= 0 && (length = copy_chunk(con, &con->log, bytes)) > 0) {
        ssize_t put = con->log_error ? (ssize_t)length : write(con->log_fd, bytes, length);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            con->log_error = put < 0 ? errno : EIO;
        else
            drop(con, &con->log, (size_t)put);
    }
}

/* --- who asks for it --- */

bool mk_console_unwritten(const struct mk_console *con)
{
    return con->unwritten > 0 && con->out_fd >= 0 && !con->out_error;
}

void mk_console_flush(struct mk_console *con)
{
    pthread_mutex_lock(&con->out_lock);
    bool worked = !con->out_error;
    write_streams(con);
    write_log(con);
    bool news = worked && con->out_error;
    pthread_mutex_unlock(&con->out_lock);
    if (news && con->on_output)
        con->on_output(con->ctx);
}

/* On the I/O thread. */
static void became_writable(void *ctx)
{
    struct mk_console *con = ctx;
    pthread_mutex_lock(&con->out_lock);
    con->stalled = false;
    write_streams(con);
    pthread_mutex_unlock(&con->out_lock);
    if (con->on_output)
        con->on_output(con->ctx);
}

int mk_console_set_output(struct mk_console *con, int fd)
{
    mk_console_flush(con);
    mk_io_unwatch(&con->room);
    pthread_mutex_lock(&con->out_lock);
    int before = con->out_fd;
    if (fd != before)
        drop_all(con);
    con->out_fd = fd;
    con->stalled = con->out_known = false;
    con->out_error = 0;
    mk_desc_close(&con->out_desc);
    pthread_mutex_unlock(&con->out_lock);
    if (con->on_output)
        con->on_output(con->ctx);
    return before;
}

int mk_console_log(struct mk_console *con, int fd, struct mk_err *err)
{
    pthread_mutex_lock(&con->out_lock);
    write_log(con);
    int error = con->log_error;
    pthread_mutex_lock(&con->lock);
    if (con->log_fd >= 0)
        close(con->log_fd);
    con->log_fd = fd;
    con->log_error = 0;
    pthread_mutex_unlock(&con->lock);
    pthread_mutex_unlock(&con->out_lock);
    return error ? mk_fail_errno(err, error, "the console's log was not written to its end") : 0;
}

void mk_console_init_output(struct mk_console *con)
{
    pthread_mutex_init(&con->out_lock, NULL);
    con->out_fd = con->log_fd = -1;
    con->room = (struct mk_io_source){ .ready = became_writable, .ctx = con, .events = EPOLLOUT };
}
