/* console.c - see console.h. */
#include "io/console.h"

#include "io/watch.h"
#include "jail/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PENDING_FULL 65536 /* bytes: then the guest waits for the reader */
#define PIECE 65536        /* written under the lock at once */

/* --- life --- */

void mk_console_init(struct mk_console *con)
{
    *con = (struct mk_console){ .history_limit = MK_CONSOLE_HISTORY, .streams = 1, .cpus = 1 };
    pthread_mutex_init(&con->lock, NULL);
    mk_console_init_input(con);
    mk_console_init_output(con);
}

static void free_stream(struct mk_stream *s)
{
    mk_buffer_free(&s->history);
    mk_buffer_free(&s->pending);
    *s = (struct mk_stream){ 0 };
}

void mk_console_set_streams(struct mk_console *con, unsigned streams)
{
    pthread_mutex_lock(&con->out_lock); /* nobody writes what goes */
    pthread_mutex_lock(&con->lock);
    for (unsigned i = streams; i < con->streams; i++)
        free_stream(&con->stream[i]);
    con->streams = streams;
    pthread_mutex_unlock(&con->lock);
    pthread_mutex_unlock(&con->out_lock);
}

static void streams_free(struct mk_console *con)
{
    for (unsigned i = 0; i < con->streams; i++)
        free_stream(&con->stream[i]);
    for (unsigned i = 0; i < con->cpus; i++) {
        mk_buffer_free(&con->cpu[i].line);
        con->cpu[i] = (struct mk_console_cpu){ 0 };
    }
}

void mk_console_free(struct mk_console *con)
{
    mk_console_log(con, -1, NULL);
    mk_console_stop_input(con);
    mk_io_unwatch(&con->room);
    mk_desc_close(&con->out_desc);
    mk_buffer_free(&con->input);
    mk_buffer_free(&con->log);
    streams_free(con);
    while (con->watches) {
        struct mk_watch *w = con->watches;
        mk_watch_disarm(con, w);
        mk_watch_free(w);
    }
    pthread_mutex_destroy(&con->out_lock);
    pthread_mutex_destroy(&con->lock);
}

void mk_console_reset(struct mk_console *con)
{
    pthread_mutex_lock(&con->out_lock); /* nobody writes what goes */
    pthread_mutex_lock(&con->lock);
    mk_buffer_free(&con->input);
    streams_free(con);
    con->unwritten = 0;
    con->full = false;
    mk_watch_reset(con);
    con->sent.length = 0;
    con->in.eof = con->escaped = false;
    if (con->in.fd > STDERR_FILENO) /* a file begins anew; stdin is not ours to rewind */
        lseek(con->in.fd, 0, SEEK_SET);
    pthread_mutex_unlock(&con->lock);
    pthread_mutex_unlock(&con->out_lock);
}

void mk_console_begin(struct mk_console *con)
{
    pthread_mutex_lock(&con->out_lock);
    con->out_known = false;
    if (con->out_told) /* else what was lost ends this run */
        con->out_error = 0;
    con->out_told = false;
    if (con->out_fd >= 0 && mk_jail_is_on()) /* the vCPU that prints cannot open it */
        mk_desc_use(&con->out_desc, con->out_fd, O_WRONLY);
    pthread_mutex_unlock(&con->out_lock);
    con->reading = true;
    mk_console_start_input(con);
}

void mk_console_end(struct mk_console *con)
{
    mk_console_stop_input(con);
    con->reading = false;
}

/* --- output --- */

/* What cannot be kept is lost, which ends the run as an output does that cannot be written. */
static bool keep(struct mk_console *con, struct mk_buffer *b, const char *bytes, size_t length)
{
    bool kept = mk_buffer_append(b, bytes, length);
    if (!kept)
        con->out_error = ENOMEM;
    return kept;
}

/* Keeps the newest bytes; drops by halves, so that the copying is paid once per half. */
static void append_history(struct mk_console *con, struct mk_stream *s, const char *bytes,
                           size_t length)
{
    if (length > con->history_limit) {
        bytes += length - con->history_limit;
        length = con->history_limit;
    }
    keep(con, &s->history, bytes, length);
    if (s->history.length > con->history_limit)
        mk_buffer_consume(&s->history, s->history.length - con->history_limit);
}

/* Hands whole lines to the listener. Only the printing vCPU's thread touches its `line`, so the
 * lock is not needed, and must not be held, while the listener runs. */
static void cut_lines(struct mk_console *con, struct mk_cpu *cpu, const char *bytes, size_t length)
{
    struct mk_buffer *line = &con->cpu[cpu->index].line;
    while (length > 0) {
        size_t room = line->length < MK_CONSOLE_LINE ? MK_CONSOLE_LINE - line->length : 0;
        size_t reach = length <= room ? length : room + 1;
        const char *newline = memchr(bytes, '\n', reach);
        size_t part = newline ? (size_t)(newline - bytes) : reach <= room ? reach : room;
        keep(con, line, bytes, part);
        bytes += part + (newline != NULL);
        length -= part + (newline != NULL);
        if (newline || reach > room) {
            con->on_line(con->line_ctx, cpu, mk_buffer_bytes(line), line->length, !newline);
            mk_buffer_consume(line, line->length);
        }
    }
}

/* A piece that is short beside the history, so that watches see all of it. Caller holds the lock;
 * true when a watch was decided. */
static bool write_piece(struct mk_console *con, unsigned number, const char *bytes, size_t length)
{
    struct mk_stream *s = &con->stream[number];
    s->total += length;
    append_history(con, s, bytes, length);
    if (con->out_fd >= 0 && !con->out_error && keep(con, &s->pending, bytes, length)) {
        con->unwritten += length;
        if (con->unwritten >= PENDING_FULL)
            con->full = true;
    }
    if (con->log_fd >= 0)
        keep(con, &con->log, bytes, length);
    return con->watched && mk_watch_feed(con, number, length);
}

static bool much_pending(const struct mk_console *con)
{
    return (con->unwritten >= MK_CONSOLE_CHUNK && !con->stalled) ||
           con->log.length >= MK_CONSOLE_CHUNK;
}

/* Compiled twice: for a byte, which nearly all guests print, its loop and its copies are none. */
static inline __attribute__((always_inline)) void write_bytes(struct mk_console *con,
                                                              struct mk_cpu *cpu, const char *bytes,
                                                              size_t length)
{
    bool decided = false, lines, flush;
    unsigned number = mk_console_stream(con, cpu->index);
    size_t done = 0;
    con->cpu[cpu->index].printed += length;
    do {
        size_t piece = length - done < PIECE ? length - done : PIECE;
        pthread_mutex_lock(&con->lock);
        decided |= write_piece(con, number, bytes + done, piece);
        lines = con->lines;
        flush = much_pending(con);
        pthread_mutex_unlock(&con->lock);
        if (flush)
            mk_console_flush(con);
        done += piece;
    } while (done < length);
    if (con->out_fd >= 0)
        cpu->printed = true;
    if (decided && con->on_watch)
        con->on_watch(con->ctx);
    if (lines)
        cut_lines(con, cpu, bytes, length);
}

void mk_console_write(struct mk_console *con, struct mk_cpu *cpu, const char *bytes, size_t length)
{
    write_bytes(con, cpu, bytes, length);
}

MK_HOT void mk_console_putc(struct mk_console *con, struct mk_cpu *cpu, uint8_t byte)
{
    char c = (char)byte;
    write_bytes(con, cpu, &c, 1);
}

void mk_console_end_lines(struct mk_console *con, struct mk_cpu *cpu)
{
    struct mk_buffer *line = &con->cpu[cpu->index].line;
    pthread_mutex_lock(&con->lock);
    bool lines = con->lines;
    pthread_mutex_unlock(&con->lock);
    if (lines && line->length > 0) {
        con->on_line(con->line_ctx, cpu, mk_buffer_bytes(line), line->length, false);
        mk_buffer_consume(line, line->length);
    }
}
