/* watch.c - see watch.h. */
#include "io/watch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- life --- */

struct mk_watch *mk_watch_new(unsigned stream)
{
    struct mk_watch *w = calloc(1, sizeof(*w));
    if (w) {
        w->stream = stream;
        w->steps = MK_WATCH_STEPS;
        w->exits = w->ticks = w->exits_before = UINT64_MAX;
    }
    return w;
}

int mk_watch_add(struct mk_watch *w, const char *pattern, size_t length, bool plain,
                 struct mk_err *err)
{
    if (w->count == MK_WATCH_PATTERNS)
        return mk_fail(err, E2BIG, "more than %d patterns in one wait", MK_WATCH_PATTERNS);
    struct mk_scan *more = realloc(w->scan, (w->count + 1) * sizeof(*more));
    if (!more)
        return mk_fail_errno(err, ENOMEM, "patterns");
    w->scan = more;
    if (mk_scan_init(&w->scan[w->count], pattern, length, plain, err) < 0)
        return -1;
    w->count++;
    return 0;
}

void mk_watch_free(struct mk_watch *w)
{
    for (unsigned i = 0; i < w->count; i++)
        mk_scan_free(&w->scan[i]);
    free(w->scan);
    free(w->text);
    free(w->seen);
    free(w);
}

/* --- a match --- */

/* What is kept of a stream, with offsets counted from the first byte ever printed. */
struct window {
    const char *bytes;
    uint64_t base, end;
};

static struct window window_of(const struct mk_stream *s)
{
    return (struct window){ .bytes = mk_buffer_bytes(&s->history),
                            .base = s->total - s->history.length,
                            .end = s->total };
}

/* Where pattern `which` has been found to match. */
struct found {
    unsigned which;
    enum mk_pattern_result result;
    uint64_t from, end; /* where match's offsets count from; the byte that completed it */
    struct mk_match match;
};

/* The line of the byte at `offset`, as far as it was printed. */
static void record_line(struct mk_watch *w, const struct window *win, uint64_t offset)
{
    const char *first = win->bytes + (offset - win->base), *last = first;
    const char *limit = win->bytes + (win->end - win->base);
    while (first > win->bytes && first[-1] != '\n')
        first--;
    while (last < limit && *last != '\n' && *last != '\r')
        last++;
    size_t used = 0;
    for (; first < last && used < sizeof(w->line) - 1; first++)
        w->line[used++] = (char)(*first >= 0x20 && *first < 0x7f ? *first : '.');
    w->line[used] = 0;
}

/* Keeps the text of the match, and offsets that count from its start. */
static bool record_text(struct mk_watch *w, const struct window *win, const struct found *f)
{
    size_t shift = f->match.start;
    size_t length = f->match.end - shift;
    char *text = realloc(w->text, length + 1);
    if (!text)
        return false;
    memcpy(text, win->bytes + (f->from - win->base) + shift, length);
    w->text = text;
    w->text_length = length;
    w->match = f->match;
    w->match.start = 0;
    w->match.end = length;
    for (unsigned i = 0; i < w->match.captures; i++)
        w->match.capture[i].start -= shift;
    return true;
}

static void record_match(struct mk_watch *w, const struct window *win, const struct found *f)
{
    bool known = f->result == MK_PATTERN_FOUND && record_text(w, win, f);
    w->state = known ? MK_WATCH_MATCHED : MK_WATCH_UNDECIDABLE;
    w->which = f->which;
    w->hits++;
    record_line(w, win, f->end - 1);
    w->from = w->at = known ? f->from + f->match.end : f->end;
    w->match_end = f->end;
}

/* Looks for the first end of pattern `i` in what is new before `limit`. A candidate that cannot be
 * confirmed is an end only if its start may lie before what is kept. */
static bool search(struct mk_watch *w, unsigned i, const struct window *win, uint64_t limit,
                   struct found *f)
{
    const char *at = win->bytes + (w->at - win->base), *end = win->bytes + (limit - win->base);
    uint64_t from = w->from > win->base ? w->from : win->base;
    const char *start = win->bytes + (from - win->base);
    while (mk_scan_next(&w->scan[i], &at, end)) {
        struct found new = { .which = i, .from = from };
        new.end = win->base + (uint64_t)(at - win->bytes);
        new.result =
            mk_scan_confirm(&w->scan[i], start, (size_t)(at - start), &w->steps, &new.match);
        if (new.result != MK_PATTERN_NONE || (from > w->from && w->scan[i].exact)) {
            *f = new;
            return true;
        }
    }
    return false;
}

/* --- watches of a console --- */

static enum mk_reason end_reason(const struct mk_watch *w, char *text, size_t size)
{
    const char *pattern = w->count ? w->scan[w->which].text : "";
    if (w->state == MK_WATCH_BUDGET) {
        snprintf(text, size, "the budget of a wait is used up");
        return MK_LIMIT;
    }
    if (w->state == MK_WATCH_UNDECIDABLE) {
        snprintf(text, size,
                 "pattern \"%.80s\" needs more than %d steps, or a match longer than "
                 "the output that is kept",
                 pattern, MK_WATCH_STEPS);
        return w->forbids ? MK_FORBIDDEN : MK_LIMIT;
    }
    if (w->forbids)
        snprintf(text, size, "the output matches the forbidden pattern \"%.80s\": \"%s\"", pattern,
                 w->line);
    else
        snprintf(text, size, "stopped at what was waited for");
    return w->forbids ? MK_FORBIDDEN : MK_STOPPED;
}

/* Of several patterns the one whose match ends first counts; of those the one listed first. */
static bool feed(struct mk_console *con, struct mk_watch *w)
{
    struct mk_stream *s = &con->stream[w->stream];
    struct window win = window_of(s);
    struct found f;
    uint64_t limit = win.end;
    bool decided = false;
    if (w->at < win.base)
        w->at = win.base;
    w->steps += MK_WATCH_STEPS_BYTE * (win.end - w->at);
    if (w->steps > MK_WATCH_STEPS)
        w->steps = MK_WATCH_STEPS;
    for (unsigned i = 0; i < w->count && limit > w->at; i++)
        if (search(w, i, &win, limit, &f)) {
            decided = true;
            limit = f.end - 1;
        }
    if (decided)
        record_match(w, &win, &f);
    else
        w->at = win.end;
    if (!w->forbids && w->state == MK_WATCH_MATCHED)
        s->consumed = w->at;
    return decided;
}

bool mk_watch_feed(struct mk_console *con, unsigned stream, size_t length)
{
    bool decided = false;
    for (struct mk_watch *w = con->watches; w && length; w = w->next)
        if (w->stream == stream && w->state == MK_WATCH_ARMED && !w->screen)
            decided |= feed(con, w);
    return decided;
}

static void update_watched(struct mk_console *con)
{
    con->watched = con->watches != NULL;
}

/* Before the first byte behind `from`. */
static void begin(struct mk_watch *w, uint64_t from)
{
    w->from = w->at = from;
    w->state = MK_WATCH_ARMED;
    w->ended = false;
    for (unsigned i = 0; i < w->count; i++)
        mk_scan_reset(&w->scan[i]);
}

void mk_watch_arm(struct mk_console *con, struct mk_watch *w)
{
    pthread_mutex_lock(&con->lock);
    struct mk_stream *s = &con->stream[w->stream];
    begin(w, w->forbids ? s->total : s->consumed);
    w->next = con->watches;
    con->watches = w;
    update_watched(con);
    if (w->screen) {
        w->seen = malloc(w->screen_size);
        if (w->seen)
            memcpy(w->seen, w->screen, w->screen_size);
    } else if (!w->forbids && s->total > s->consumed) {
        feed(con, w);
    }
    pthread_mutex_unlock(&con->lock);
}

void mk_watch_disarm(struct mk_console *con, struct mk_watch *w)
{
    pthread_mutex_lock(&con->lock);
    for (struct mk_watch **at = &con->watches; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    update_watched(con);
    pthread_mutex_unlock(&con->lock);
}

void mk_watch_rearm(struct mk_console *con, struct mk_watch *w)
{
    pthread_mutex_lock(&con->lock);
    w->state = MK_WATCH_ARMED;
    w->ended = false;
    pthread_mutex_unlock(&con->lock);
}

void mk_watch_reset(struct mk_console *con)
{
    for (struct mk_watch *w = con->watches; w; w = w->next) {
        begin(w, con->stream[w->stream].total);
        w->hits = 0;
    }
}

void mk_watch_resume(struct mk_console *con)
{
    pthread_mutex_lock(&con->lock);
    for (struct mk_watch *w = con->watches; w; w = w->next)
        if (w->forbids && w->ended)
            begin(w, con->stream[w->stream].total);
    pthread_mutex_unlock(&con->lock);
}

bool mk_watch_forbidden(struct mk_console *con, const struct mk_watch *w, char *text, size_t size)
{
    bool found = false;
    pthread_mutex_lock(&con->lock);
    bool matched = w->state == MK_WATCH_MATCHED;
    for (struct mk_watch *f = con->watches; f && !found; f = f->next)
        if (f->forbids && f->hits &&
            (!matched || (f->stream == w->stream && f->match_end <= w->match_end))) {
            end_reason(f, text, size);
            found = true;
        }
    pthread_mutex_unlock(&con->lock);
    return found;
}

bool mk_watch_exact(struct mk_console *con)
{
    bool exact = false;
    pthread_mutex_lock(&con->lock);
    for (struct mk_watch *w = con->watches; w; w = w->next)
        exact |= w->exact;
    pthread_mutex_unlock(&con->lock);
    return exact;
}

bool mk_watch_undecidable(struct mk_console *con, const struct mk_watch *w, char *text, size_t size)
{
    pthread_mutex_lock(&con->lock);
    bool undecidable = w->state == MK_WATCH_UNDECIDABLE;
    if (undecidable)
        end_reason(w, text, size);
    pthread_mutex_unlock(&con->lock);
    return undecidable;
}

/* --- budgets, screens, and ending the run --- */

bool mk_watch_timer_tick(struct mk_console *con)
{
    bool decided = false;
    if (!con->watched)
        return false;
    pthread_mutex_lock(&con->lock);
    for (struct mk_watch *w = con->watches; w; w = w->next)
        if (w->state == MK_WATCH_ARMED && w->ticks != UINT64_MAX && --w->ticks == 0) {
            w->state = MK_WATCH_BUDGET;
            decided = true;
        }
    pthread_mutex_unlock(&con->lock);
    return decided;
}

static void count(struct mk_watch *w, uint64_t exits)
{
    if (w->exits_before == UINT64_MAX)
        w->exits_before = exits;
    if (exits - w->exits_before >= w->exits)
        w->state = MK_WATCH_BUDGET;
}

static bool screen_changed(const struct mk_watch *w)
{
    return (w->poll_at && mk_now() >= w->poll_at) ||
           (w->seen && memcmp(w->seen, w->screen, w->screen_size));
}

bool mk_watch_screen_changed(struct mk_console *con)
{
    bool changed = false;
    pthread_mutex_lock(&con->lock);
    for (const struct mk_watch *w = con->watches; w; w = w->next)
        changed |= w->state == MK_WATCH_ARMED && screen_changed(w);
    pthread_mutex_unlock(&con->lock);
    return changed;
}

/* The guest gets its time between two looks, however long a look takes. */
static void compare(struct mk_watch *w)
{
    if (w->polls && !w->poll_at)
        w->poll_at = mk_now() + MK_WATCH_LOOK_NS;
    if (!screen_changed(w))
        return;
    w->poll_at = 0;
    if (w->seen)
        memcpy(w->seen, w->screen, w->screen_size);
    w->state = MK_WATCH_CHANGED;
}

enum mk_reason mk_watch_check(struct mk_console *con, unsigned stream, uint64_t exits,
                              bool *decided, char *text, size_t size)
{
    enum mk_reason reason = MK_RUNNING;
    *decided = false;
    pthread_mutex_lock(&con->lock);
    for (struct mk_watch *w = con->watches; w; w = w->next) {
        bool armed = w->state == MK_WATCH_ARMED;
        if (armed && w->stream == stream && w->exits != UINT64_MAX)
            count(w, exits);
        if (armed && (w->screen || w->polls))
            compare(w);
        *decided |= armed && w->state != MK_WATCH_ARMED;
        if (reason == MK_RUNNING && w->stops && !w->ended && w->state != MK_WATCH_ARMED &&
            (w->stream == stream || w->state == MK_WATCH_BUDGET)) {
            reason = end_reason(w, text, size);
            w->ended = true;
        }
    }
    pthread_mutex_unlock(&con->lock);
    return reason;
}
