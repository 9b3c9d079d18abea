/* console_save.c - what a snapshot keeps of a console: input that waits, and what was printed.
 *
 * What lies outside the VM stays: attachments, listeners, and output that is still on its way to
 * its reader. A file that input comes from is set back to where it was. Used while no vCPU runs. */
#include "io/console.h"

#include "io/watch.h"

#include <string.h>
#include <unistd.h>

static void code_buffer(struct mk_codec *k, struct mk_buffer *b, uint64_t most)
{
    uint64_t length = b->length;
    mk_codec_u64(k, &length);
    if (k->out) {
        mk_bytes_add(k->out, mk_buffer_bytes(b), length);
        return;
    }
    const uint8_t *from = length <= most ? mk_reader_bytes(&k->in, length) : NULL;
    mk_codec_check(k, from);
    b->start = b->length = 0;
    if (!from || !length)
        return;
    bool room = mk_buffer_reserve(b, length);
    mk_codec_check_memory(k, room);
    if (room)
        memcpy(b->data, from, length);
    b->length = room ? length : 0;
}

static const struct mk_field stream_fields[] = {
    MK_RAW(struct mk_stream, total),
    MK_RAW(struct mk_stream, consumed),
    { 0 },
};

static const struct mk_field cpu_fields[] = {
    MK_RAW(struct mk_console_cpu, printed),
    MK_RAW(struct mk_console_cpu, polls),
    { 0 },
};

static void code_stream(struct mk_codec *k, struct mk_stream *s)
{
    code_buffer(k, &s->history, UINT32_MAX);
    mk_codec_fields(k, stream_fields, s);
    mk_codec_check(k, s->consumed <= s->total && s->history.length <= s->total);
}

static const struct mk_field fields[] = { MK_FLAG(struct mk_console, in.eof), { 0 } };

void mk_console_code(struct mk_console *con, struct mk_codec *k)
{
    pthread_mutex_lock(&con->lock);
    code_buffer(k, &con->input, MK_CONSOLE_INPUT);
    mk_codec_fields(k, fields, con);
    for (unsigned i = 0; i < con->streams; i++)
        code_stream(k, &con->stream[i]);
    for (unsigned i = 0; i < con->cpus; i++) {
        code_buffer(k, &con->cpu[i].line, MK_CONSOLE_LINE);
        mk_codec_fields(k, cpu_fields, &con->cpu[i]);
    }
    if (!k->out)
        mk_watch_reset(con);
    pthread_mutex_unlock(&con->lock);
}

struct mk_console_place mk_console_tell(struct mk_console *con)
{
    off_t at = con->in.fd > STDERR_FILENO ? lseek(con->in.fd, 0, SEEK_CUR) : -1;
    return at >= 0 ? (struct mk_console_place){ con->in.fd, at } : (struct mk_console_place){ 0 };
}

void mk_console_seek(struct mk_console *con, const struct mk_console_place *place)
{
    if (place->fd > STDERR_FILENO && place->fd == con->in.fd)
        lseek(con->in.fd, place->at, SEEK_SET);
}
