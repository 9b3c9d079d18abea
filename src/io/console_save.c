/* console_save.c - what a snapshot keeps of a console: input that waits, and what was printed.
 *
 * What lies outside the VM stays: attachments, listeners, and output that is still on its way to
 * its reader. A file that input comes from is set back to where it was. Used while no vCPU runs. */
#include "io/console.h"

#include "io/watch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool take(struct mk_text *to, const struct mk_buffer *from)
{
    *to = (struct mk_text){ .length = from->length };
    if (!from->length)
        return true;
    to->bytes = malloc(from->length);
    if (to->bytes)
        memcpy(to->bytes, from->data + from->start, from->length);
    return to->bytes;
}

bool mk_console_save(struct mk_console *con, struct mk_console_state *state)
{
    *state = (struct mk_console_state){ .in_fd = -1 };
    pthread_mutex_lock(&con->lock);
    state->in_at = con->in.fd > STDERR_FILENO ? lseek(con->in.fd, 0, SEEK_CUR) : -1;
    if (state->in_at >= 0)
        state->in_fd = con->in.fd;
    bool ok = take(&state->input, &con->input);
    state->eof = con->in.eof;
    for (unsigned i = 0; ok && i < MK_MAX_CPUS; i++) {
        const struct mk_stream *s = &con->stream[i];
        ok = take(&state->stream[i].history, &s->history) && take(&state->stream[i].line, &s->line);
        state->stream[i].total = s->total;
        state->stream[i].consumed = s->consumed;
        state->stream[i].polls = s->polls;
    }
    pthread_mutex_unlock(&con->lock);
    if (!ok)
        mk_console_state_free(state);
    return ok;
}

void mk_console_state_free(struct mk_console_state *state)
{
    free(state->input.bytes);
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        free(state->stream[i].history.bytes);
        free(state->stream[i].line.bytes);
    }
    *state = (struct mk_console_state){ .in_fd = -1 };
}

static void put(struct mk_buffer *b, const struct mk_text *from)
{
    b->start = 0;
    b->length = from->length;
    if (from->length)
        memcpy(b->data, from->bytes, from->length);
}

static bool reserve_all(struct mk_console *con, const struct mk_console_state *state)
{
    bool ok = mk_buffer_reserve(&con->input, state->input.length);
    for (unsigned i = 0; ok && i < MK_MAX_CPUS; i++)
        ok = mk_buffer_reserve(&con->stream[i].history, state->stream[i].history.length) &&
             mk_buffer_reserve(&con->stream[i].line, state->stream[i].line.length);
    return ok;
}

bool mk_console_load(struct mk_console *con, const struct mk_console_state *state)
{
    pthread_mutex_lock(&con->lock);
    bool ok = reserve_all(con, state);
    if (ok) {
        put(&con->input, &state->input);
        con->in.eof = state->eof;
        if (state->in_fd >= 0 && state->in_fd == con->in.fd)
            lseek(con->in.fd, state->in_at, SEEK_SET);
    }
    for (unsigned i = 0; ok && i < MK_MAX_CPUS; i++) {
        struct mk_stream *s = &con->stream[i];
        put(&s->history, &state->stream[i].history);
        put(&s->line, &state->stream[i].line);
        s->total = state->stream[i].total;
        s->consumed = state->stream[i].consumed;
        s->polls = state->stream[i].polls;
    }
    if (ok)
        mk_watch_restart(con);
    pthread_mutex_unlock(&con->lock);
    return ok;
}
