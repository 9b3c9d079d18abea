/* console.h - a VM's console: one queue of input bytes and one stream of output for all devices
 * that print to it; or, where each vCPU is a guest in a window of its own, a stream for each.
 *
 * Input comes from send() and, when a descriptor is attached, from that: a file is read when the
 * guest asks; a pipe, a terminal or a socket by the I/O thread, while the VM runs (console_in.c).
 * Output is kept as history (bounded), written to a descriptor (console_out.c), and cut into lines
 * for a listener. All functions may be called from any thread. Listener and callbacks are called
 * without a lock; nothing here waits for a reader or a writer.
 *
 * Locks: `out_lock` (whose holder writes), then `lock` (all fields that name no other). */
#ifndef MK_CONSOLE_H
#define MK_CONSOLE_H

#include "codec/fields.h"
#include "io/buffer.h"
#include "io/desc.h"
#include "io/io.h"
#include "kvm/cpu.h"

#include <pthread.h>
#include <stdatomic.h>

#define MK_CONSOLE_HISTORY (1u << 20) /* bytes kept per stream unless told otherwise */
#define MK_CONSOLE_INPUT (16u << 20)  /* bytes of queued input at the most */
#define MK_CONSOLE_LINE (1u << 20)    /* a longer line is handed to the listener in pieces */
#define MK_CONSOLE_SENT 160           /* bytes remembered of what was sent last */
#define MK_CONSOLE_CHUNK 4096         /* written or read at once */

struct mk_watch;

enum { MK_INPUT_NONE = -1, MK_INPUT_EOF = -2 };

struct mk_stream {
    struct mk_buffer history;
    struct mk_buffer pending; /* not yet written to the descriptor */
    uint64_t total;           /* bytes ever printed */
    uint64_t consumed;        /* so many of them have been waited for (watch.h) */
};

/* What is told apart by vCPU, whatever stream it prints to. For its thread only. */
struct mk_console_cpu {
    struct mk_buffer line; /* its unfinished line, when somebody listens */
    uint64_t printed;      /* bytes ever */
    unsigned polls;        /* times in a row that it asked for input in vain */
};

/* Where input comes from. */
struct mk_console_input {
    int fd;      /* -1: none */
    bool pipe;   /* it is no terminal: it will deliver or end, so waiting for it is right */
    bool escape; /* Ctrl-A is a command key: x leaves, a second Ctrl-A sends itself */
    bool eof;    /* nothing follows what is queued */
    bool keys;   /* they are keys, which a script takes: the guest's devices get none */
};

struct mk_console {
    pthread_mutex_t lock;
    /* Input. */
    struct mk_buffer input;
    struct mk_console_input in;
    bool escaped;   /* Ctrl-A was the last byte */
    bool reading;   /* a run is in progress */
    bool throttled; /* enough is queued: nothing is read until the guest took some */
    struct mk_desc in_desc;
    struct mk_io_source arrival;
    struct mk_waiter *readers; /* handlers that wait for input (wait.h) */
    struct {
        char bytes[MK_CONSOLE_SENT];
        size_t length;
    } sent; /* by the last send() */
    /* Output. */
    struct mk_stream stream[MK_MAX_CPUS];
    unsigned streams; /* one, or one for each vCPU. Changed under both locks */
    struct mk_console_cpu cpu[MK_MAX_CPUS];
    unsigned cpus; /* that there are */
    size_t history_limit;
    _Atomic int out_fd;       /* -1: none */
    _Atomic size_t unwritten; /* bytes of all `pending` */
    _Atomic bool full;        /* that many that the guest should wait until out_fd takes them */
    _Atomic int out_error;    /* errno of a write that failed: what follows is not written */
    _Atomic bool out_told;    /* a run has ended because of it */
    pthread_mutex_t out_lock;
    struct mk_desc out_desc; /* under out_lock, as the next two */
    bool out_known;          /* out_desc was looked at since the run began */
    _Atomic bool stalled;    /* out_desc takes nothing; `room` waits for it */
    struct mk_io_source room;
    struct mk_buffer log; /* not yet written to log_fd */
    int log_fd;           /* -1: none; all streams go there, too. Changed under both locks */
    int log_error;        /* errno of the first write that failed */
    /* Who waits for output. */
    struct mk_watch *watches;
    _Atomic bool watched;        /* there are some */
    void (*on_watch)(void *ctx); /* one was decided; called without the lock */
    _Atomic bool lines;          /* listener wanted */
    /* A whole line (without its newline), or, when `more` of it follows, MK_CONSOLE_LINE bytes of
     * one; called on the printing vCPU's thread. */
    void (*on_line)(void *ctx, struct mk_cpu *cpu, const char *line, size_t length, bool more);
    void (*on_input)(void *ctx);  /* input arrived from another thread: wake sleeping vCPUs */
    void (*on_output)(void *ctx); /* out_fd took what was pending, or failed: the same */
    void (*on_leave)(void *ctx);  /* Ctrl-A x */
    void *ctx;                    /* of on_input, on_output, on_leave and on_watch */
    void *line_ctx;               /* of on_line */
};

void mk_console_init(struct mk_console *con);
void mk_console_free(struct mk_console *con);
/* Empties queues and histories; attachments stay. */
void mk_console_reset(struct mk_console *con);
/* How many streams vCPUs print to; what others had is gone. No vCPU runs. */
void mk_console_set_streams(struct mk_console *con, unsigned streams);
/* The number of the stream that a vCPU prints to. */
static inline unsigned mk_console_stream(const struct mk_console *con, unsigned index)
{
    return con->streams > 1 ? index : 0;
}
/* A run begins: input is read from now on, output that failed before is tried again. It is over:
 * input belongs to others. */
void mk_console_begin(struct mk_console *con);
void mk_console_end(struct mk_console *con);

/* Guest side. */
int mk_console_getc(struct mk_console *con); /* 0..255, MK_INPUT_NONE or MK_INPUT_EOF */
/* The same for a guest that polls: in vain it lets the vCPU idle a moment, and looks once more. */
int mk_console_getc_idle(struct mk_console *con, struct mk_cpu *cpu);
int mk_console_peek(struct mk_console *con); /* what getc would return; takes nothing */
int mk_console_next(struct mk_console *con, bool consume); /* both, for who holds the lock */
int mk_console_take(struct mk_console *con);               /* the next byte for a script, as getc */
void mk_console_write(struct mk_console *con, struct mk_cpu *cpu, const char *bytes, size_t length);
void mk_console_putc(struct mk_console *con, struct mk_cpu *cpu, uint8_t byte);

/* Host side. */
int mk_console_send(struct mk_console *con, const char *bytes, size_t length, struct mk_err *err);
void mk_console_eof(struct mk_console *con);
/* Changes where input comes from; tells what it was, whose descriptor is the caller's. */
struct mk_console_input mk_console_set_input(struct mk_console *con,
                                             const struct mk_console_input *in);
/* More may come from what is attached. */
bool mk_console_expects_input(struct mk_console *con);
/* Changes where output goes; tells where it went. What was printed so far goes there still, as far
 * as that takes it now. */
int mk_console_set_output(struct mk_console *con, int fd);
/* Writes what is pending, as far as it is taken. */
void mk_console_flush(struct mk_console *con);
/* Something is pending that out_fd may yet take: on_output tells. */
bool mk_console_unwritten(const struct mk_console *con);
/* Everything printed from now on goes to `fd`, too, which the console closes; -1: not any more.
 * Fails when the log up to now could not be written; `fd` counts all the same. */
int mk_console_log(struct mk_console *con, int fd, struct mk_err *err);
/* Ends the vCPU's unfinished line, so that a listener sees the last one too. */
void mk_console_end_lines(struct mk_console *con, struct mk_cpu *cpu);

/* For the files of the console: input and output begin and end. */
void mk_console_init_input(struct mk_console *con);
void mk_console_init_output(struct mk_console *con);
void mk_console_start_input(struct mk_console *con);
void mk_console_stop_input(struct mk_console *con);

/* console_save.c: what a snapshot keeps, written or read. */
void mk_console_code(struct mk_console *con, struct mk_codec *k);

/* How far a file was read that input comes from: for this process only. All zero: there is none. */
struct mk_console_place {
    int fd;
    int64_t at;
};
struct mk_console_place mk_console_tell(struct mk_console *con);
/* Sets the file back, if input still comes from it. */
void mk_console_seek(struct mk_console *con, const struct mk_console_place *place);

#endif
