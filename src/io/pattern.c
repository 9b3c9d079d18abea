/* pattern.c - see pattern.h. */
#include "io/pattern.h"

#include <errno.h>
#include <string.h>

#define ESCAPE '%'
#define CHEAP 16 /* so many characters of a set, or bytes compared at once, for a step */

/* --- characters and sets --- */

static bool in_range(uint8_t c, uint8_t first, uint8_t last)
{
    return first <= c && c <= last;
}

static bool is_alpha(uint8_t c)
{
    return in_range(c | 0x20, 'a', 'z');
}

static bool is_digit(uint8_t c)
{
    return in_range(c, '0', '9');
}

/* `class` is the letter behind the '%'; anything that is no class stands for itself. */
static bool in_class(uint8_t c, uint8_t class)
{
    bool in;
    switch (class | 0x20) {
    case 'a': in = is_alpha(c); break;
    case 'c': in = c < 0x20 || c == 0x7f; break;
    case 'd': in = is_digit(c); break;
    case 'g': in = in_range(c, 0x21, 0x7e); break;
    case 'l': in = in_range(c, 'a', 'z'); break;
    case 'p': in = in_range(c, 0x21, 0x7e) && !is_alpha(c) && !is_digit(c); break;
    case 's': in = c == ' ' || in_range(c, '\t', '\r'); break;
    case 'u': in = in_range(c, 'A', 'Z'); break;
    case 'w': in = is_alpha(c) || is_digit(c); break;
    case 'x': in = is_digit(c) || in_range(c | 0x20, 'a', 'f'); break;
    case 'z': in = c == 0; break; /* not in the manual any more, still in Lua 5.4 */
    default: return c == class;
    }
    return in_range(class, 'A', 'Z') ? !in : in;
}

/* `at` is on the '[', `end` behind the ']'. */
static bool in_set(uint8_t c, const uint8_t *at, const uint8_t *end)
{
    const uint8_t *last = end - 1; /* the ']' */
    bool inside = *++at != '^';
    for (at += !inside; at < last; at++) {
        if (*at == ESCAPE) {
            if (in_class(c, *++at))
                return inside;
        } else if (at[1] == '-' && at + 2 < last) {
            if (in_range(c, at[0], at[2]))
                return inside;
            at += 2;
        } else if (*at == c) {
            return inside;
        }
    }
    return !inside;
}

bool mk_pattern_accepts(const struct mk_pattern_item *item, uint8_t c)
{
    switch (*item->at) {
    case '.': return true;
    case ESCAPE: return in_class(c, item->at[1]);
    case '[': return in_set(c, item->at, item->end);
    default: return *item->at == c;
    }
}

/* --- reading a pattern --- */

/* Behind the set whose '[' is at `at`; NULL when it has no end. A ']' that comes first is one of
 * the set. */
static const uint8_t *skip_set(const uint8_t *at, const uint8_t *end)
{
    at++;
    if (at < end && *at == '^')
        at++;
    do {
        if (at >= end)
            return NULL;
        at += *at == ESCAPE && at + 1 < end ? 2 : 1;
    } while (at >= end || *at != ']');
    return at + 1;
}

static const char *read_one(struct mk_pattern_item *item, const uint8_t *end)
{
    const uint8_t *at = item->at;
    item->kind = MK_PATTERN_ONE;
    if (*at == ESCAPE && at + 1 == end)
        return "ends with '%'";
    item->end = *at == '[' ? skip_set(at, end) : at + (*at == ESCAPE ? 2 : 1);
    if (!item->end)
        return "missing ']'";
    bool repeats = item->end < end && memchr("*+-?", *item->end, 4);
    item->repeat = repeats ? (char)*item->end : 0;
    item->next = item->end + repeats;
    return NULL;
}

static const char *read_frontier(struct mk_pattern_item *item, const uint8_t *end)
{
    item->kind = MK_PATTERN_FRONTIER;
    item->at += 2;
    if (item->at == end || *item->at != '[')
        return "missing '[' after '%f'";
    item->end = item->next = skip_set(item->at, end);
    return item->end ? NULL : "missing ']'";
}

static const char *read_special(struct mk_pattern_item *item, enum mk_pattern_kind kind,
                                ptrdiff_t length, const uint8_t *end)
{
    item->kind = kind;
    if (length > end - item->at)
        return "missing arguments to '%b'"; /* the only one that can be cut off */
    item->end = item->next = item->at + length;
    return NULL;
}

const char *mk_pattern_next(struct mk_pattern_item *item, const uint8_t *at, const uint8_t *end)
{
    uint8_t second = at + 1 < end ? at[1] : 0;
    *item = (struct mk_pattern_item){ .at = at };
    if (*at == '(')
        return second == ')' ? read_special(item, MK_PATTERN_POSITION, 2, end)
                             : read_special(item, MK_PATTERN_OPEN, 1, end);
    if (*at == ')')
        return read_special(item, MK_PATTERN_CLOSE, 1, end);
    if (*at == '$' && at + 1 == end)
        return read_special(item, MK_PATTERN_TAIL, 1, end);
    if (*at == ESCAPE && second == 'b')
        return read_special(item, MK_PATTERN_BALANCE, 4, end);
    if (*at == ESCAPE && second == 'f')
        return read_frontier(item, end);
    if (*at == ESCAPE && is_digit(second))
        return read_special(item, MK_PATTERN_BACK, 2, end);
    return read_one(item, end);
}

/* --- checking one --- */

struct check {
    unsigned captures, depth;
    bool open[MK_PATTERN_CAPTURES];
};

static const char *close_last(struct check *k)
{
    for (unsigned i = k->captures; i-- > 0;)
        if (k->open[i]) {
            k->open[i] = false;
            return NULL;
        }
    return "')' without '('";
}

static const char *check_item(struct check *k, const struct mk_pattern_item *item)
{
    unsigned digit = item->kind == MK_PATTERN_BACK ? item->at[1] - (unsigned)'0' : 0;
    bool capture = item->kind == MK_PATTERN_OPEN || item->kind == MK_PATTERN_POSITION;
    if (capture || item->kind == MK_PATTERN_CLOSE || item->repeat)
        k->depth++;
    if (k->depth >= MK_PATTERN_DEPTH)
        return "too complex: it has 200 repetitions and captures or more";
    if (capture && k->captures == MK_PATTERN_CAPTURES)
        return "more than 32 captures";
    if (capture)
        k->open[k->captures++] = item->kind == MK_PATTERN_OPEN;
    if (item->kind == MK_PATTERN_CLOSE)
        return close_last(k);
    if (item->kind == MK_PATTERN_BACK && (digit == 0 || digit > k->captures || k->open[digit - 1]))
        return "no such capture, or it is not closed yet";
    return NULL;
}

int mk_pattern_check(const char *pattern, size_t length, struct mk_err *err)
{
    const uint8_t *start = (const uint8_t *)pattern, *end = start + length;
    const uint8_t *at = start + (length > 0 && *pattern == '^');
    struct check k = { 0 };
    struct mk_pattern_item item = { .next = at };
    const char *why = NULL;
    for (; !why && at < end; at = why ? at : item.next) {
        why = mk_pattern_next(&item, at, end);
        if (!why)
            why = check_item(&k, &item);
    }
    if (!why && close_last(&k) == NULL)
        why = "unfinished capture: missing ')'";
    if (!why)
        return 0;
    int shown = length > 80 ? 80 : (int)length;
    return mk_fail(err, EINVAL, "malformed pattern \"%.*s%s\", at character %zu: %s", shown,
                   pattern, length > 80 ? "..." : "", (size_t)(at - start) + (at < end), why);
}

/* --- matching --- */

struct run {
    const uint8_t *subject, *end; /* what is looked at */
    const uint8_t *pend;          /* the pattern's end */
    uint64_t *steps;
    bool exhausted;
    unsigned depth;
    struct mk_match *m;
};

#define UNFINISHED (SIZE_MAX - 1) /* `length` of an open capture */

static const uint8_t *match_here(struct run *r, const uint8_t *s, const uint8_t *p);

static bool spend(struct run *r, size_t work)
{
    uint64_t cost = 1 + work / CHEAP;
    r->exhausted |= *r->steps < cost;
    *r->steps -= r->exhausted ? *r->steps : cost;
    return !r->exhausted;
}

static bool one(struct run *r, const uint8_t *s, const struct mk_pattern_item *item)
{
    return spend(r, (size_t)(item->end - item->at)) && s < r->end && mk_pattern_accepts(item, *s);
}

static const uint8_t *repeat_most(struct run *r, const uint8_t *s,
                                  const struct mk_pattern_item *item, size_t least)
{
    size_t n = 0;
    while (one(r, s + n, item))
        n++;
    while (n >= least && !r->exhausted) {
        const uint8_t *end = match_here(r, s + n, item->next);
        if (end || n-- == 0)
            return end;
    }
    return NULL;
}

static const uint8_t *repeat_least(struct run *r, const uint8_t *s,
                                   const struct mk_pattern_item *item)
{
    for (;; s++) {
        const uint8_t *end = match_here(r, s, item->next);
        if (end || !one(r, s, item))
            return end;
    }
}

static const uint8_t *repeat(struct run *r, const uint8_t *s, const struct mk_pattern_item *item)
{
    switch (item->repeat) {
    case '*': return repeat_most(r, s, item, 0);
    case '+': return repeat_most(r, s, item, 1);
    case '-': return repeat_least(r, s, item);
    default: {
        const uint8_t *end = one(r, s, item) ? match_here(r, s + 1, item->next) : NULL;
        return end || r->exhausted ? end : match_here(r, s, item->next);
    }
    }
}

static const uint8_t *open_capture(struct run *r, const uint8_t *s,
                                   const struct mk_pattern_item *item)
{
    struct mk_match *m = r->m;
    if (m->captures == MK_PATTERN_CAPTURES)
        return NULL;
    m->capture[m->captures].start = (size_t)(s - r->subject);
    m->capture[m->captures].length =
        item->kind == MK_PATTERN_POSITION ? MK_CAPTURE_POSITION : UNFINISHED;
    m->captures++;
    const uint8_t *end = match_here(r, s, item->next);
    if (!end)
        m->captures--;
    return end;
}

static const uint8_t *close_capture(struct run *r, const uint8_t *s,
                                    const struct mk_pattern_item *item)
{
    struct mk_match *m = r->m;
    unsigned i = m->captures;
    while (i > 0 && m->capture[i - 1].length != UNFINISHED)
        i--;
    if (i == 0)
        return NULL;
    m->capture[i - 1].length = (size_t)(s - r->subject) - m->capture[i - 1].start;
    const uint8_t *end = match_here(r, s, item->next);
    if (!end)
        m->capture[i - 1].length = UNFINISHED;
    return end;
}

static const uint8_t *balance(struct run *r, const uint8_t *s, const struct mk_pattern_item *item)
{
    uint8_t open = item->at[2], close = item->at[3];
    size_t level = 0;
    if (s >= r->end || *s != open)
        return NULL;
    for (; s < r->end && spend(r, 0); s++) {
        if (*s == close && level > 0) { /* first, as in Lua: %bxx ends at the second x */
            if (--level == 0)
                return s + 1;
        } else if (*s == open) {
            level++;
        }
    }
    return NULL;
}

static const uint8_t *frontier(struct run *r, const uint8_t *s, const struct mk_pattern_item *item)
{
    uint8_t before = s > r->subject ? s[-1] : 0, here = s < r->end ? *s : 0;
    return !mk_pattern_accepts(item, before) && mk_pattern_accepts(item, here) ? s : NULL;
}

/* What a capture holds, once more. A position holds nothing that could be repeated. */
static const uint8_t *back(struct run *r, const uint8_t *s, const struct mk_pattern_item *item)
{
    unsigned i = item->at[1] - (unsigned)'1';
    if (i >= r->m->captures || r->m->capture[i].length >= UNFINISHED)
        return NULL;
    size_t length = r->m->capture[i].length;
    if ((size_t)(r->end - s) < length || !spend(r, length) ||
        memcmp(r->subject + r->m->capture[i].start, s, length))
        return NULL;
    return s + length;
}

/* From `s`, with the pattern from `p` on, as far as there is no choice to come back to. */
static const uint8_t *match_on(struct run *r, const uint8_t *s, const uint8_t *p)
{
    struct mk_pattern_item item;
    for (; s && p < r->pend; p = item.next) {
        if (mk_pattern_next(&item, p, r->pend) || !spend(r, (size_t)(item.next - p)))
            return NULL;
        switch (item.kind) {
        case MK_PATTERN_OPEN:
        case MK_PATTERN_POSITION: return open_capture(r, s, &item);
        case MK_PATTERN_CLOSE: return close_capture(r, s, &item);
        case MK_PATTERN_TAIL: return s == r->end ? s : NULL;
        case MK_PATTERN_BALANCE: s = balance(r, s, &item); break;
        case MK_PATTERN_FRONTIER: s = frontier(r, s, &item); break;
        case MK_PATTERN_BACK: s = back(r, s, &item); break;
        case MK_PATTERN_ONE:
            if (item.repeat)
                return repeat(r, s, &item);
            s = one(r, s, &item) ? s + 1 : NULL;
        }
    }
    return s;
}

static const uint8_t *match_here(struct run *r, const uint8_t *s, const uint8_t *p)
{
    if (r->depth == MK_PATTERN_DEPTH)
        r->exhausted = true;
    if (r->exhausted)
        return NULL;
    r->depth++;
    const uint8_t *end = match_on(r, s, p);
    r->depth--;
    return end;
}

static enum mk_pattern_result attempt(struct run *r, const uint8_t *s, const uint8_t *p)
{
    r->m->captures = 0;
    const uint8_t *end = match_here(r, s, p);
    if (r->exhausted)
        return MK_PATTERN_EXHAUSTED;
    if (!end)
        return MK_PATTERN_NONE;
    r->m->start = (size_t)(s - r->subject);
    r->m->end = (size_t)(end - r->subject);
    return MK_PATTERN_FOUND;
}

enum mk_pattern_result mk_pattern_at(const char *subject, size_t length, size_t at,
                                     const char *pattern, size_t plength, uint64_t *steps,
                                     struct mk_match *match)
{
    const uint8_t *s = (const uint8_t *)subject, *p = (const uint8_t *)pattern;
    struct run r = {
        .subject = s, .end = s + length, .pend = p + plength, .steps = steps, .m = match
    };
    return at > length ? MK_PATTERN_NONE : attempt(&r, s + at, p);
}

enum mk_pattern_result mk_pattern_match(const char *subject, size_t length, size_t init,
                                        const char *pattern, size_t plength, uint64_t *steps,
                                        struct mk_match *match)
{
    bool anchored = plength > 0 && *pattern == '^';
    pattern += anchored;
    plength -= anchored;
    enum mk_pattern_result result = MK_PATTERN_NONE;
    for (size_t at = init; at <= length && result == MK_PATTERN_NONE; at++) {
        result = mk_pattern_at(subject, length, at, pattern, plength, steps, match);
        if (anchored)
            break;
    }
    return result;
}
