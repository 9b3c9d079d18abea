/* scan.c - see scan.h. */
#include "io/scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- the pattern as a list of positions --- */

/* What one position of the automaton accepts. */
struct position {
    struct mk_pattern_item item; /* at == NULL: any byte */
    uint8_t literal[1];          /* what item.at points to where the pattern has no such text */
    bool optional, loop;
};

struct positions {
    struct position *list;
    unsigned count;
    bool exact;         /* the positions say all that the pattern says */
    unsigned mandatory; /* so many have to match something */
    bool loops;
    unsigned captures;
};

static struct position *add(struct positions *p, bool optional, bool loop)
{
    struct position *new = &p->list[p->count++];
    *new = (struct position){ .optional = optional, .loop = loop };
    p->mandatory += !optional;
    p->loops |= loop;
    return new;
}

static void add_literal(struct positions *p, uint8_t byte)
{
    struct position *new = add(p, false, false);
    new->literal[0] = byte;
    new->item.at = new->literal;
}

static bool accepts(const struct position *p, uint8_t c)
{
    if (!p->item.at)
        return true;
    return p->item.end ? mk_pattern_accepts(&p->item, c) : *p->item.at == c;
}

/* An item as positions that match at least what it matches. A frontier at the end of the pattern
 * may have to see one byte more. */
static void add_item(struct positions *p, const struct mk_pattern_item *item)
{
    p->captures += item->kind == MK_PATTERN_OPEN || item->kind == MK_PATTERN_POSITION;
    switch (item->kind) {
    case MK_PATTERN_ONE:
        add(p, item->repeat && item->repeat != '+', item->repeat && item->repeat != '?')->item =
            *item;
        break;
    case MK_PATTERN_BALANCE:
        add_literal(p, item->at[2]);
        add(p, true, true);
        add_literal(p, item->at[3]);
        p->exact = false;
        break;
    case MK_PATTERN_BACK:
        add(p, true, true);
        p->exact = false;
        break;
    case MK_PATTERN_FRONTIER: p->exact = false; break;
    default: break; /* captures match nothing themselves; '$' is true at every end */
    }
}

static void add_pattern(struct positions *p, const struct mk_scan *s)
{
    const uint8_t *at = (const uint8_t *)s->text, *end = at + s->length;
    struct mk_pattern_item item = { .kind = MK_PATTERN_ONE };
    for (; at < end; at = item.next) {
        mk_pattern_next(&item, at, end);
        add_item(p, &item);
    }
    if (!p->exact)
        add(p, true, false); /* for a frontier: any byte behind the match */
}

/* --- the automaton of some positions --- */

/* Bits [from, to]. */
static uint64_t bits(unsigned from, unsigned to)
{
    return (to == 63 ? UINT64_MAX : (UINT64_C(1) << (to + 1)) - 1) & ~((UINT64_C(1) << from) - 1);
}

/* Adds what is reached by leaving out optional positions: in each run of them, all that lies above
 * the lowest bit set. */
static inline uint64_t close_over(const struct mk_automaton *a, uint64_t state)
{
    uint64_t marked = state | a->last;
    return state | (a->over & (~(marked - a->first) ^ marked));
}

static inline uint64_t step(const struct mk_automaton *a, uint64_t state, uint8_t byte)
{
    uint64_t taken = state & a->mask[byte];
    return close_over(a, taken << 1 | (taken & a->loop));
}

static void make_runs(struct mk_automaton *a, const uint64_t optional, unsigned count)
{
    for (unsigned i = 0, run = 0; i < count; i++) {
        bool here = optional >> i & 1, next = i + 1 < count && optional >> (i + 1) & 1;
        if (!here)
            run = i + 1;
        if (here && !next) {
            a->first |= UINT64_C(1) << run;
            a->over |= bits(run + 1, i + 1);
            a->last |= UINT64_C(1) << (i + 1);
        }
    }
}

static void build(struct mk_automaton *a, const struct position *list, unsigned count, bool reverse)
{
    uint64_t optional = 0;
    *a = (struct mk_automaton){ .accept = UINT64_C(1) << count };
    for (unsigned i = 0; i < count; i++) {
        const struct position *p = &list[reverse ? count - 1 - i : i];
        uint64_t bit = UINT64_C(1) << i;
        a->loop |= p->loop ? bit : 0;
        optional |= p->optional ? bit : 0;
        for (unsigned c = 0; c < 256; c++)
            a->mask[c] |= accepts(p, (uint8_t)c) ? bit : 0;
    }
    make_runs(a, optional, count);
    a->start = close_over(a, 1);
    for (unsigned c = 0; c < 256; c++)
        a->begins[c] = (a->start & (a->mask[c] | a->accept)) != 0;
}

/* --- life --- */

static int check(const char *pattern, size_t length, bool plain, struct mk_err *err)
{
    if (length > MK_SCAN_LENGTH)
        return mk_fail(err, E2BIG, "a pattern of %zu bytes: %d at the most", length,
                       MK_SCAN_LENGTH);
    if (plain)
        return length ? 0 : mk_fail(err, EINVAL, "the empty text is found everywhere: give one");
    return mk_pattern_check(pattern, length, err);
}

static int compile(struct mk_scan *s, struct positions *p, struct mk_err *err)
{
    for (size_t i = 0; s->plain && i < s->length; i++)
        add_literal(p, (uint8_t)s->text[i]);
    if (!s->plain)
        add_pattern(p, s);
    if (!p->mandatory)
        return mk_fail(err, EINVAL,
                       "pattern \"%.80s\" matches the empty string, which is "
                       "everywhere: demand something, with '+' instead of '*'",
                       s->text);
    unsigned count = p->count < MK_SCAN_POSITIONS ? p->count : MK_SCAN_POSITIONS;
    s->whole = count == p->count;
    s->exact = p->exact && s->whole;
    s->captures = p->captures;
    s->shortest = p->mandatory;
    s->longest = p->loops ? SIZE_MAX : p->count;
    build(&s->ahead, p->list + p->count - count, count, false);
    build(&s->back, p->list + p->count - count, count, true);
    mk_scan_reset(s);
    return 0;
}

int mk_scan_init(struct mk_scan *s, const char *pattern, size_t length, bool plain,
                 struct mk_err *err)
{
    *s = (struct mk_scan){ .plain = plain };
    if (check(pattern, length, plain, err) < 0)
        return -1;
    s->anchored = !plain && length > 0 && *pattern == '^';
    pattern += s->anchored;
    length -= s->anchored;
    struct positions p = { .list = calloc(length + 2, sizeof(*p.list)), .exact = true };
    s->text = malloc(length + 1);
    int rc = -1;
    if (!p.list || !s->text) {
        mk_fail_errno(err, ENOMEM, "pattern of %zu bytes", length);
    } else {
        memcpy(s->text, pattern, length);
        s->text[length] = 0;
        s->length = length;
        rc = compile(s, &p, err);
    }
    free(p.list);
    if (rc < 0)
        mk_scan_free(s);
    return rc;
}

void mk_scan_free(struct mk_scan *s)
{
    free(s->text);
    s->text = NULL;
}

void mk_scan_reset(struct mk_scan *s)
{
    s->state = s->ahead.start;
}

/* --- scanning --- */

#define CHEAP 16

static const uint8_t *skip(const struct mk_automaton *a, const uint8_t *at, const uint8_t *end)
{
    while (end - at >= 4 &&
           !(a->begins[at[0]] | a->begins[at[1]] | a->begins[at[2]] | a->begins[at[3]]))
        at += 4;
    while (at < end && !a->begins[*at])
        at++;
    return at;
}

bool mk_scan_next(struct mk_scan *s, const char **bytes, const char *limit)
{
    const struct mk_automaton *a = &s->ahead;
    const uint8_t *at = (const uint8_t *)*bytes, *end = (const uint8_t *)limit;
    bool tied = s->anchored && s->exact;
    uint64_t state = s->state, always = tied ? 0 : a->start;
    bool found = false;
    while (!found && at < end) {
        if (state == always) {
            at = tied ? end : skip(a, at, end);
            if (at == end)
                break;
        }
        state = step(a, state, *at++) | always;
        found = (state & a->accept) != 0;
    }
    s->state = state;
    *bytes = (const char *)at;
    return found;
}

/* How many of the bytes before text[length] may belong to a match that ends there, at most. A step
 * is for CHEAP bytes. */
static size_t reach(const struct mk_scan *s, const char *text, size_t length, uint64_t *steps)
{
    const struct mk_automaton *a = &s->back;
    uint64_t state = a->start;
    size_t most = 0, n = 0;
    for (; n < length && n / CHEAP < *steps && state; n++) {
        state = step(a, state, (uint8_t)text[length - 1 - n]);
        if (state & a->accept)
            most = n + 1;
    }
    *steps -= n / CHEAP;
    return most;
}

static enum mk_pattern_result confirm_plain(const struct mk_scan *s, const char *text,
                                            size_t length, struct mk_match *match)
{
    if (length < s->length || memcmp(text + length - s->length, s->text, s->length))
        return MK_PATTERN_NONE;
    *match = (struct mk_match){ .start = length - s->length, .end = length };
    return MK_PATTERN_FOUND;
}

enum mk_pattern_result mk_scan_confirm(const struct mk_scan *s, const char *text, size_t length,
                                       uint64_t *steps, struct mk_match *match)
{
    if (s->plain)
        return confirm_plain(s, text, length, match);
    if (length < s->shortest)
        return MK_PATTERN_NONE;
    size_t most = s->whole ? reach(s, text, length, steps) : s->longest;
    if (*steps == 0)
        return MK_PATTERN_EXHAUSTED;
    size_t from = s->anchored || most > length ? 0 : length - most;
    if (s->anchored)
        return mk_pattern_at(text, length, 0, s->text, s->length, steps, match);
    if (s->exact && s->captures == 0) {
        *match = (struct mk_match){ .start = from, .end = length };
        return from < length ? MK_PATTERN_FOUND : MK_PATTERN_NONE;
    }
    enum mk_pattern_result result = MK_PATTERN_NONE;
    for (; from <= length - s->shortest && result == MK_PATTERN_NONE; from++)
        result = mk_pattern_at(text, length, from, s->text, s->length, steps, match);
    return result;
}
