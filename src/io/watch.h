/* watch.h - waiting for what a guest prints: watches on the streams of a console.
 *
 * A watch looks at every byte as it is printed, however the bytes are cut into pieces. The match is
 * the one with the earliest end, as if the pattern were tried after every byte; of the starts that
 * lead there it is the leftmost. There are two kinds: one waits, begins at what nobody has waited
 * for yet and is over with the first match; the other forbids, begins at what comes next and goes
 * on behind each match.
 * Fields belong to the console's lock from mk_watch_arm() on. A match is looked for in what the
 * console keeps (history_limit); one that began before that is not found. */
#ifndef MK_WATCH_H
#define MK_WATCH_H

#include "io/console.h"
#include "io/scan.h"

#define MK_WATCH_PATTERNS 16
/* Steps of the matcher to confirm candidates: so many, and with every byte some more. */
#define MK_WATCH_STEPS 10000000
#define MK_WATCH_STEPS_BYTE 100
#define MK_WATCH_LOOK_NS 10000000u /* between two looks at a screen that is not RAM alone */

enum mk_watch_state {
    MK_WATCH_ARMED,
    MK_WATCH_MATCHED,
    MK_WATCH_UNDECIDABLE, /* it cannot be told whether it matches: steps or kept output used up */
    MK_WATCH_BUDGET,      /* exits or timer ticks used up */
    MK_WATCH_CHANGED,     /* of a screen: it looks different */
};

struct mk_watch {
    struct mk_watch *next; /* of the console's */
    unsigned stream;       /* whose output */
    bool forbids;
    bool stops; /* a decision ends the run */
    bool exact; /* at the very byte: output must not be collected */
    unsigned count;
    struct mk_scan *scan;
    uint64_t steps;
    uint64_t from;         /* offset in the stream at which a match may begin */
    uint64_t at;           /* and up to which it was looked for */
    uint64_t exits, ticks; /* budget; UINT64_MAX: none */
    uint64_t exits_before; /* the vCPU's count when it began, UINT64_MAX: not known yet */
    const uint8_t *screen; /* memory to watch for changes instead, `screen_size` bytes */
    size_t screen_size;
    uint8_t *seen;    /* a copy of it */
    bool polls;       /* it counts as changed now and then, whatever its memory has: */
    uint64_t poll_at; /* mk_now() time; 0: the guest has not run since the last look */

    enum mk_watch_state state;
    bool ended;     /* the run has been ended for it */
    unsigned which; /* pattern that matched or cannot be decided */
    uint64_t hits;
    uint64_t match_end;    /* offset behind the byte that decided it last */
    struct mk_match match; /* in `text` */
    char *text;            /* from the start of the match to its end */
    size_t text_length;
    char line[160]; /* in which it ends, as far as it was printed, made printable */
};

/* NULL when there is no memory. mk_watch_free() undoes it, armed or not. */
struct mk_watch *mk_watch_new(unsigned stream);
/* Adds a pattern (MK_WATCH_PATTERNS at most). */
int mk_watch_add(struct mk_watch *w, const char *pattern, size_t length, bool plain,
                 struct mk_err *err);
void mk_watch_free(struct mk_watch *w);

/* Puts it on its stream; one that waits first looks at what nobody has waited for. */
void mk_watch_arm(struct mk_console *con, struct mk_watch *w);
void mk_watch_disarm(struct mk_console *con, struct mk_watch *w);
/* One on a screen goes on waiting. */
void mk_watch_rearm(struct mk_console *con, struct mk_watch *w);
/* Whether something forbidden was printed, before the match of `w` if that has one: says what. */
bool mk_watch_forbidden(struct mk_console *con, const struct mk_watch *w, char *text, size_t size);

/* Whether it cannot be told if it matches: says why. */
bool mk_watch_undecidable(struct mk_console *con, const struct mk_watch *w, char *text,
                          size_t size);

/* The rest is for those who run or print. */

/* The last `length` bytes of a stream's history are new. The caller holds the lock. True when a
 * watch was decided. */
bool mk_watch_feed(struct mk_console *con, unsigned stream, size_t length);
/* After a console was emptied or a snapshot restored: all begins anew. With the lock. */
void mk_watch_reset(struct mk_console *con);
/* A run begins: what was forbidden and ended the one before is forbidden again. */
void mk_watch_resume(struct mk_console *con);
/* An armed watch on a screen would see it changed. */
bool mk_watch_screen_changed(struct mk_console *con);
/* A timer tick was delivered; true when a watch was decided. */
bool mk_watch_timer_tick(struct mk_console *con);
/* After each exit of a vCPU that prints to this stream, those of which have made `exits`: counts
 * them, looks at screens. *decided tells whether a watch was. Returns why the run is to end, with a
 * sentence, or MK_RUNNING. */
enum mk_reason mk_watch_check(struct mk_console *con, unsigned stream, uint64_t exits,
                              bool *decided, char *text, size_t size);
/* Whether a watch that must not miss the byte is armed. */
bool mk_watch_exact(struct mk_console *con);

#endif
