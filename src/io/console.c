/* console.c - see console.h. */
#include "io/console.h"

#include "io/watch.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITE_CHUNK 4096    /* a pipe that poll() calls writable takes this much without blocking */
#define PENDING_FULL 65536  /* then the guest waits for the reader */
#define PIECE 65536         /* written under the lock at once */
#define CTRL_A 1
#define FREE_POLLS 3        /* empty polls before a polling vCPU is made to wait */
#define IDLE_MS 100

/* --- byte buffers: append at the end, take from the start --- */

static void buffer_free(struct mk_buffer *b)
{
    free(b->data);
    *b = (struct mk_buffer){ 0 };
}

static bool buffer_reserve(struct mk_buffer *b, size_t more)
{
    if (b->start + b->length + more <= b->capacity)
        return true;
    if (b->data && b->start >= b->length) { /* half is free at the front: move, do not grow */
        memmove(b->data, b->data + b->start, b->length);
        b->start = 0;
        if (b->length + more <= b->capacity)
            return true;
    }
    size_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < b->start + b->length + more)
        capacity *= 2;
    char *data = realloc(b->data, capacity);
    if (!data)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

/* Output is dropped when memory runs out: a guest must not be able to end the process by
 * talking. */
static bool buffer_append(struct mk_buffer *b, const char *bytes, size_t length)
{
    size_t end = b->start + b->length;
    if (length == 1 && end < b->capacity) { /* nearly always: one byte of a guest's */
        b->data[end] = *bytes;
        b->length++;
        return true;
    }
    if (length == 0)
        return true;
    if (!buffer_reserve(b, length))
        return false;
    memcpy(b->data + b->start + b->length, bytes, length);
    b->length += length;
    return true;
}

static void buffer_drop(struct mk_buffer *b, size_t length)
{
    b->start += length;
    b->length -= length;
    if (b->length == 0)
        b->start = 0;
}

/* --- life --- */

void mk_console_init(struct mk_console *con)
{
    *con = (struct mk_console){
        .in_fd = -1, .out_fd = -1, .log_fd = -1, .history_limit = MK_CONSOLE_HISTORY };
    pthread_mutex_init(&con->lock, NULL);
}

static void streams_free(struct mk_console *con)
{
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        buffer_free(&con->stream[i].history);
        buffer_free(&con->stream[i].line);
        buffer_free(&con->stream[i].pending);
        con->stream[i].total = con->stream[i].consumed = con->stream[i].polls = 0;
    }
}

void mk_console_free(struct mk_console *con)
{
    mk_console_log(con, -1, NULL);
    buffer_free(&con->input);
    buffer_free(&con->log);
    streams_free(con);
    while (con->watches) {
        struct mk_watch *w = con->watches;
        mk_watch_disarm(con, w);
        mk_watch_free(w);
    }
    pthread_mutex_destroy(&con->lock);
}

void mk_console_reset(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    buffer_free(&con->input);
    streams_free(con);
    mk_watch_restart(con);
    con->sent.length = 0;
    con->eof = con->escaped = false;
    if (con->in_fd > STDERR_FILENO) /* a file begins anew; stdin is not ours to rewind */
        lseek(con->in_fd, 0, SEEK_SET);
    pthread_mutex_unlock(&con->lock);
}

/* --- input --- */

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

/* Moves what in_fd has ready into the queue; returns true on Ctrl-A x. Caller holds the lock. */
static bool fill(struct mk_console *con)
{
    struct pollfd pfd = { .fd = con->in_fd, .events = POLLIN };
    if (con->in_fd < 0 || con->eof || con->input.length > MK_CONSOLE_INPUT / 2 ||
        poll(&pfd, 1, 0) <= 0)
        return false;
    char bytes[4096];
    ssize_t got = read(con->in_fd, bytes, sizeof(bytes));
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (got <= 0) {
        con->eof = true;
        return false;
    }
    size_t length = (size_t)got;
    bool leave = con->escape && filter_escapes(con, bytes, &length);
    buffer_append(&con->input, bytes, length);
    return leave;
}

void mk_console_poll(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    bool leave = fill(con);
    pthread_mutex_unlock(&con->lock);
    if (leave && con->on_leave)
        con->on_leave(con->ctx);
}

static int next_byte(struct mk_console *con, bool take)
{
    bool leave = false;
    pthread_mutex_lock(&con->lock);
    if (con->input.length == 0)
        leave = fill(con);
    int c = MK_INPUT_NONE;
    if (con->input.length > 0) {
        c = (uint8_t)con->input.data[con->input.start];
        if (take)
            buffer_drop(&con->input, 1);
    } else if (con->eof) {
        c = MK_INPUT_EOF;
    }
    pthread_mutex_unlock(&con->lock);
    if (leave && con->on_leave)
        con->on_leave(con->ctx);
    return c;
}

int mk_console_getc(struct mk_console *con)
{
    return next_byte(con, true);
}

int mk_console_getc_idle(struct mk_console *con, struct mk_cpu *cpu)
{
    unsigned *polls = &con->stream[cpu->index].polls; /* touched by its vCPU's thread only */
    int c = mk_console_getc(con);
    if (c == MK_INPUT_NONE) {
        if (con->in_pipe || ++*polls > FREE_POLLS) {
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
    return next_byte(con, false);
}

int mk_console_send(struct mk_console *con, const char *bytes, size_t length, struct mk_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&con->lock);
    if (con->eof)
        rc = mk_fail(err, EPIPE, "console input has ended: nothing can follow eof()");
    else if (length > MK_CONSOLE_INPUT - con->input.length)
        rc = mk_fail(err, ENOBUFS, "console input is full: %zu bytes wait, the guest reads none",
                     con->input.length);
    else if (!buffer_append(&con->input, bytes, length))
        rc = mk_fail_errno(err, ENOMEM, "console input");
    if (rc == 0) { /* its end, if it is long */
        size_t kept = length < MK_CONSOLE_SENT ? length : MK_CONSOLE_SENT;
        memcpy(con->sent.bytes, bytes + length - kept, kept);
        con->sent.length = kept;
    }
    pthread_mutex_unlock(&con->lock);
    if (rc == 0 && con->on_input)
        con->on_input(con->ctx);
    return rc;
}

void mk_console_eof(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    con->eof = true;
    pthread_mutex_unlock(&con->lock);
    if (con->on_input)
        con->on_input(con->ctx);
}

int mk_console_source(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    int fd = con->eof || con->input.length > 0 ? -1 : con->in_fd;
    pthread_mutex_unlock(&con->lock);
    return fd;
}

/* --- output --- */

/* Keeps the newest bytes; drops by halves, so that the copying is paid once per half. */
static void remember(struct mk_console *con, struct mk_stream *s, const char *bytes, size_t length)
{
    if (length > con->history_limit) {
        bytes += length - con->history_limit;
        length = con->history_limit;
    }
    buffer_append(&s->history, bytes, length);
    if (s->history.length > con->history_limit)
        buffer_drop(&s->history, s->history.length - con->history_limit);
}

/* Caller holds the lock. */
static void write_some(struct mk_console *con, struct mk_stream *s)
{
    while (s->pending.length > 0) {
        struct pollfd pfd = { .fd = con->out_fd, .events = POLLOUT };
        if (poll(&pfd, 1, 0) <= 0)
            return;
        size_t chunk = s->pending.length < WRITE_CHUNK ? s->pending.length : WRITE_CHUNK;
        ssize_t put = write(con->out_fd, s->pending.data + s->pending.start, chunk);
        if (put < 0 && (errno == EINTR || errno == EAGAIN))
            return;
        /* A reader that is gone takes everything: the guest does not learn of it. */
        buffer_drop(&s->pending, put < 0 ? s->pending.length : (size_t)put);
    }
}

/* A log that cannot be written ends; the guest does not learn of it. */
static void write_log(struct mk_console *con)
{
    while (con->log.length > 0 && !con->log_error) {
        ssize_t put = write(con->log_fd, con->log.data + con->log.start, con->log.length);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            con->log_error = put < 0 ? errno : EIO;
        else
            buffer_drop(&con->log, (size_t)put);
    }
    buffer_drop(&con->log, con->log.length);
}

int mk_console_log(struct mk_console *con, int fd, struct mk_err *err)
{
    pthread_mutex_lock(&con->lock);
    write_log(con);
    int failed = con->log_error;
    if (con->log_fd >= 0)
        close(con->log_fd);
    con->log_fd = fd;
    con->log_error = 0;
    pthread_mutex_unlock(&con->lock);
    return failed ? mk_fail_errno(err, failed, "the console's log was not written to its end") : 0;
}

static void note_full(struct mk_console *con)
{
    bool full = false;
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        full |= con->stream[i].pending.length >= PENDING_FULL;
    con->full = full;
}

void mk_console_flush(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    for (unsigned i = 0; con->out_fd >= 0 && i < MK_MAX_CPUS; i++)
        write_some(con, &con->stream[i]);
    write_log(con);
    note_full(con);
    pthread_mutex_unlock(&con->lock);
}

int mk_console_blocked(struct mk_console *con)
{
    int fd = -1;
    pthread_mutex_lock(&con->lock);
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        if (con->stream[i].pending.length > 0)
            fd = con->out_fd;
    pthread_mutex_unlock(&con->lock);
    return fd;
}

/* Hands whole lines to the listener. Only the printing vCPU's thread touches its `line`, so the
 * lock is not needed, and must not be held, while the listener runs. */
static void cut_lines(struct mk_console *con, struct mk_cpu *cpu, const char *bytes, size_t length)
{
    struct mk_buffer *line = &con->stream[cpu->index].line;
    while (length > 0) {
        size_t room = line->length < MK_CONSOLE_LINE ? MK_CONSOLE_LINE - line->length : 0;
        size_t reach = length <= room ? length : room + 1;
        const char *newline = memchr(bytes, '\n', reach);
        size_t part = newline ? (size_t)(newline - bytes) : reach <= room ? reach : room;
        buffer_append(line, bytes, part);
        bytes += part + (newline != NULL);
        length -= part + (newline != NULL);
        if (newline || reach > room) {
            const char *start = line->data ? line->data + line->start : "";
            con->on_line(con->line_ctx, cpu, start, line->length, !newline);
            buffer_drop(line, line->length);
        }
    }
}

/* A piece that is short beside the history, so that watches see all of it. Caller holds the lock;
 * true when a watch was decided. */
static bool write_piece(struct mk_console *con, unsigned cpu, const char *bytes, size_t length)
{
    struct mk_stream *s = &con->stream[cpu];
    s->total += length;
    remember(con, s, bytes, length);
    if (con->out_fd >= 0) {
        buffer_append(&s->pending, bytes, length);
        if (s->pending.length >= WRITE_CHUNK)
            write_some(con, s);
        note_full(con);
    }
    if (con->log_fd >= 0) {
        buffer_append(&con->log, bytes, length);
        if (con->log.length >= WRITE_CHUNK)
            write_log(con);
    }
    return con->watched && mk_watch_feed(con, cpu, length);
}

void mk_console_write(struct mk_console *con, struct mk_cpu *cpu, const char *bytes, size_t length)
{
    bool decided = false, lines;
    size_t done = 0;
    do {
        size_t piece = length - done < PIECE ? length - done : PIECE;
        pthread_mutex_lock(&con->lock);
        decided |= write_piece(con, cpu->index, bytes + done, piece);
        lines = con->lines;
        pthread_mutex_unlock(&con->lock);
        done += piece;
    } while (done < length);
    if (decided && con->on_watch)
        con->on_watch(con->ctx);
    if (lines)
        cut_lines(con, cpu, bytes, length);
}

void mk_console_putc(struct mk_console *con, struct mk_cpu *cpu, uint8_t byte)
{
    char c = (char)byte;
    mk_console_write(con, cpu, &c, 1);
}

void mk_console_end_lines(struct mk_console *con, struct mk_cpu *cpu)
{
    struct mk_buffer *line = &con->stream[cpu->index].line;
    pthread_mutex_lock(&con->lock);
    bool lines = con->lines;
    pthread_mutex_unlock(&con->lock);
    if (lines && line->length > 0) {
        con->on_line(con->line_ctx, cpu, line->data + line->start, line->length, false);
        buffer_drop(line, line->length);
    }
}
