/* console.h - a VM's console: one queue of input bytes and one output stream per vCPU.
 *
 * Input comes from send() and, when a descriptor is attached, from that: it is read when a guest
 * asks and nothing is queued, and at every tick of a running vCPU, so no thread is needed for it.
 * Output is kept as history (bounded), written to a descriptor, and cut into lines for a listener.
 * All functions may be called from any thread; the listener is called without the lock held. */
#ifndef MK_CONSOLE_H
#define MK_CONSOLE_H

#include "dev/dev.h"
#include "base/err.h"

#include <pthread.h>

#define MK_CONSOLE_HISTORY (1u << 20) /* bytes kept per stream unless told otherwise */
#define MK_CONSOLE_INPUT (16u << 20)  /* bytes of queued input at the most */
#define MK_CONSOLE_LINE (1u << 20)    /* a longer line is handed to the listener in pieces */
#define MK_CONSOLE_SENT 160           /* bytes remembered of what was sent last */

struct mk_watch;

enum { MK_INPUT_NONE = -1, MK_INPUT_EOF = -2 };

struct mk_buffer {
    char *data;
    size_t start, length, capacity;
};

struct mk_stream {
    struct mk_buffer history;
    struct mk_buffer line;    /* the unfinished line, when somebody listens */
    struct mk_buffer pending; /* not yet written to the descriptor */
    uint64_t total;           /* bytes ever printed */
    uint64_t consumed;        /* so many of them have been waited for (watch.h) */
    unsigned polls;           /* times in a row that its vCPU asked for input in vain */
};

struct mk_console {
    pthread_mutex_t lock;
    struct mk_buffer input;
    bool eof;         /* nothing follows what is queued */
    int in_fd;        /* -1: none */
    bool in_pipe;     /* in_fd is no terminal: it will deliver or end, so waiting for it is right */
    bool escape;      /* Ctrl-A is a command key: x leaves, a second Ctrl-A sends itself */
    bool escaped;     /* Ctrl-A was the last byte */
    int out_fd;       /* -1: none */
    _Atomic bool full; /* so much is pending that the guest should wait until out_fd takes it */
    size_t history_limit;
    struct mk_stream stream[MK_MAX_CPUS];
    struct mk_buffer log; /* not yet written to log_fd */
    int log_fd;           /* -1: none; all streams go there, too */
    int log_error;        /* errno of the first write that failed */
    struct { char bytes[MK_CONSOLE_SENT]; size_t length; } sent; /* by the last send() */
    struct mk_watch *watches;
    _Atomic bool watched; /* there are some */
    void (*on_watch)(void *ctx); /* one was decided; called without the lock */
    _Atomic bool lines; /* listener wanted */
    /* A whole line (without its newline), or, when `more` of it follows, MK_CONSOLE_LINE bytes of
     * one; called on the printing vCPU's thread. */
    void (*on_line)(void *ctx, struct mk_cpu *cpu, const char *line, size_t length, bool more);
    void (*on_input)(void *ctx); /* input arrived from another thread: wake sleeping vCPUs */
    void (*on_leave)(void *ctx); /* Ctrl-A x */
    void *ctx;      /* of on_input, on_leave and on_watch */
    void *line_ctx; /* of on_line */
};

void mk_console_init(struct mk_console *con);
void mk_console_free(struct mk_console *con);
/* Empties queues and histories; attachments stay. */
void mk_console_reset(struct mk_console *con);

/* Guest side. */
int mk_console_getc(struct mk_console *con);  /* 0..255, MK_INPUT_NONE or MK_INPUT_EOF */
/* The same for a guest that polls: in vain it lets the vCPU idle a moment, and looks once more. */
int mk_console_getc_idle(struct mk_console *con, struct mk_cpu *cpu);
int mk_console_peek(struct mk_console *con); /* what getc would return; takes nothing */
void mk_console_write(struct mk_console *con, struct mk_cpu *cpu, const char *bytes, size_t length);
void mk_console_putc(struct mk_console *con, struct mk_cpu *cpu, uint8_t byte);

/* Host side. */
int mk_console_send(struct mk_console *con, const char *bytes, size_t length, struct mk_err *err);
void mk_console_eof(struct mk_console *con);
/* Reads what the attached descriptor has, without waiting. */
void mk_console_poll(struct mk_console *con);
/* Writes what is pending to out_fd, without waiting for a reader that does not read. */
void mk_console_flush(struct mk_console *con);
/* The descriptor to wait on for input (-1: none, or waiting is pointless), and for room to
 * write. */
int mk_console_source(struct mk_console *con);
int mk_console_blocked(struct mk_console *con);
/* Everything printed from now on goes to `fd`, too, which the console closes; -1: not any more.
 * Fails when the log up to now could not be written; `fd` counts all the same. */
int mk_console_log(struct mk_console *con, int fd, struct mk_err *err);
/* Ends the vCPU's unfinished line, so that a listener sees the last one too. */
void mk_console_end_lines(struct mk_console *con, struct mk_cpu *cpu);

/* console_save.c: what a snapshot keeps. */
struct mk_text {
    char *bytes;
    size_t length;
};

struct mk_console_state {
    struct mk_text input;
    bool eof;
    int in_fd;      /* a file that was attached, and how far it was read; -1: none */
    int64_t in_at;
    struct {
        struct mk_text history, line;
        uint64_t total, consumed;
        uint32_t polls;
    } stream[MK_MAX_CPUS];
};

/* False when there is no memory; then nothing was taken, or changed. */
bool mk_console_save(struct mk_console *con, struct mk_console_state *state);
bool mk_console_load(struct mk_console *con, const struct mk_console_state *state);
void mk_console_state_free(struct mk_console_state *state);

#endif
