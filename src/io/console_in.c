/* console_in.c - a console's input: a queue, and the descriptor that it comes from.
 *
 * A file is read when the guest asks and nothing is queued: it never blocks, and the guest gets
 * each byte at once. All else is read by the I/O thread while the VM runs, some way ahead of the
 * guest. */
#include "io/console.h"

#include "kvm/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define CTRL_A 1
#define FREE_POLLS 3 /* empty polls before a polling vCPU is made to wait */
#define IDLE_MS 100
#define AHEAD 65536 /* bytes that are read before the guest asks for them */

/* --- bytes that came; callers hold the lock --- */

/* Takes Ctrl-A commands out of terminal input. Returns true when the user wants to leave. */
static bool filter_escapes(struct mk_console *con, char *bytes, size_t *length)
{
    size_t kept = 0;
    bool leave = false;
    for (size_t i = 0; i < *length; i++) {
        char c = bytes[i];
        if (con->escaped) {
            con->escaped = false;
            if (c == 'x' || c == 'X')
                leave = true;
            if (c != CTRL_A)
                continue;
        } else if (c == CTRL_A) {
            con->escaped = true;
            continue;
        }
        bytes[kept++] = c;
    }
    *length = kept;
    return leave;
}

/* What read() returned, with its errno; returns true on Ctrl-A x. */
static bool enqueue(struct mk_console *con, char *bytes, ssize_t got, int code)
{
    if (got < 0 && (code == EINTR || code == EAGAIN))
        return false;
    if (got <= 0) {
        con->in.eof = true;
        return false;
    }
    size_t length = (size_t)got;
    bool leave = con->in.escape && filter_escapes(con, bytes, &length);
    mk_buffer_append(&con->input, bytes, length);
    return leave;
}

static void fill_from_file(struct mk_console *con)
{
    char bytes[MK_CONSOLE_CHUNK];
    if (con->in_desc.kind != MK_DESC_FILE || con->in.eof)
        return;
    ssize_t got = mk_desc_read(&con->in_desc, bytes, sizeof(bytes));
    enqueue(con, bytes, got, errno);
}

/* --- the I/O thread --- */

/* The read of a terminal in the background: it stops the process, as it would had the signal not
 * been blocked here (POSIX, General Terminal Interface, "Terminal Access Control"). */
static bool in_background(const struct mk_console *con, int code)
{
    return code == EIO && con->in.escape && tcgetpgrp(con->in_desc.own) != getpgrp();
}

/* Reads what is there, and has it watched for more. */
static void became_readable(void *ctx)
{
    struct mk_console *con = ctx;
    char bytes[MK_CONSOLE_CHUNK];
    ssize_t got = mk_desc_read(&con->in_desc, bytes, sizeof(bytes));
    int code = got < 0 ? errno : 0;
    bool background = in_background(con, code);
    pthread_mutex_lock(&con->lock);
    bool leave = enqueue(con, bytes, got, background ? EAGAIN : code);
    con->throttled = !con->in.eof && con->input.length >= AHEAD;
    bool more = !con->in.eof && !con->throttled;
    mk_wake(con->readers);
    pthread_mutex_unlock(&con->lock);
    if (background)
        kill(getpid(), SIGTTIN);
    if (more)
        mk_io_watch(&con->arrival);
    if (leave && con->on_leave)
        con->on_leave(con->ctx);
    if (con->on_input)
        con->on_input(con->ctx);
}

void mk_console_start_input(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    int fd = con->reading && !con->in.eof ? con->in.fd : -1;
    if (fd >= 0 && !mk_desc_use(&con->in_desc, fd, O_RDONLY))
        con->in.eof = true;
    bool file = con->in_desc.kind <= MK_DESC_FILE;
    con->arrival.fd = con->in_desc.own;
    pthread_mutex_unlock(&con->lock);
    if (fd >= 0 && !file)
        became_readable(con); /* what is there now is there for the first instruction */
}

void mk_console_stop_input(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    con->throttled = false;
    pthread_mutex_unlock(&con->lock);
    mk_io_unwatch(&con->arrival);
    pthread_mutex_lock(&con->lock);
    mk_desc_close(&con->in_desc);
    pthread_mutex_unlock(&con->lock);
}

struct mk_console_input mk_console_set_input(struct mk_console *con,
                                             const struct mk_console_input *in)
{
    mk_console_stop_input(con);
    pthread_mutex_lock(&con->lock);
    struct mk_console_input before = con->in;
    con->in = *in;
    con->escaped = false;
    pthread_mutex_unlock(&con->lock);
    mk_console_start_input(con);
    return before;
}

bool mk_console_expects_input(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    bool awaits = con->in.fd >= 0 && !con->in.eof && con->input.length == 0;
    pthread_mutex_unlock(&con->lock);
    return awaits;
}

/* --- the guest --- */

int mk_console_next(struct mk_console *con, bool consume)
{
    int c = MK_INPUT_NONE;
    if (con->input.length == 0)
        fill_from_file(con);
    if (con->input.length > 0) {
        c = (uint8_t)con->input.data[con->input.start];
        if (consume)
            mk_buffer_consume(&con->input, 1);
    } else if (con->in.eof) {
        c = MK_INPUT_EOF;
    }
    return c;
}

static int next_byte(struct mk_console *con, bool consume, bool guest)
{
    pthread_mutex_lock(&con->lock);
    int c = guest && con->in.keys ? MK_INPUT_NONE : mk_console_next(con, consume);
    bool read_on = con->throttled && con->input.length < AHEAD / 2;
    if (read_on)
        con->throttled = false;
    pthread_mutex_unlock(&con->lock);
    if (read_on)
        mk_io_watch(&con->arrival);
    return c;
}

int mk_console_getc(struct mk_console *con)
{
    return next_byte(con, true, true);
}

int mk_console_getc_idle(struct mk_console *con, struct mk_cpu *cpu)
{
    unsigned *polls = &con->cpu[cpu->index].polls; /* touched by its vCPU's thread only */
    int c = mk_console_getc(con);
    if (c == MK_INPUT_NONE) {
        if (con->in.pipe || ++*polls > FREE_POLLS) {
            cpu->ops->idle(cpu, IDLE_MS);
            c = mk_console_getc(con);
        }
    }
    if (c != MK_INPUT_NONE)
        *polls = 0;
    return c;
}

int mk_console_peek(struct mk_console *con)
{
    return next_byte(con, false, true);
}

int mk_console_take(struct mk_console *con)
{
    return next_byte(con, true, false);
}

/* --- the script --- */

int mk_console_send(struct mk_console *con, const char *bytes, size_t length, struct mk_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&con->lock);
    if (con->in.eof)
        rc = mk_fail(err, EPIPE, "console input has ended: nothing can follow eof()");
    else if (length > MK_CONSOLE_INPUT - con->input.length)
        rc = mk_fail(err, ENOBUFS, "console input is full: %zu bytes wait, the guest reads none",
                     con->input.length);
    else if (!mk_buffer_append(&con->input, bytes, length))
        rc = mk_fail_errno(err, ENOMEM, "console input");
    if (rc == 0) { /* its end, if it is long */
        size_t kept = length < MK_CONSOLE_SENT ? length : MK_CONSOLE_SENT;
        memcpy(con->sent.bytes, bytes + length - kept, kept);
        con->sent.length = kept;
        mk_wake(con->readers);
    }
    pthread_mutex_unlock(&con->lock);
    if (rc == 0 && con->on_input)
        con->on_input(con->ctx);
    return rc;
}

void mk_console_eof(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    con->in.eof = true;
    mk_wake(con->readers);
    pthread_mutex_unlock(&con->lock);
    if (con->on_input)
        con->on_input(con->ctx);
}

void mk_console_init_input(struct mk_console *con)
{
    con->in.fd = -1;
    con->arrival = (struct mk_io_source){ .ready = became_readable, .ctx = con, .events = EPOLLIN };
}
