/* pattern.c - patterns of scripts against what guests print (src/io/pattern.c, scan.c): the matcher
 * and the automaton find the same. Globs of file policies (src/files/fsbox_policy.c). */
#include "fuzz.h"

#include "files/fsbox_policy.h"
#include "io/scan.h"

#include <stdlib.h>

#define STEPS 20000u

/* The first end that the automaton reports is no later than the first match that there is. */
static void scan(const char *pattern, size_t plength, bool plain, const char *text, size_t length)
{
    struct mk_scan s;
    struct mk_err err;
    struct mk_match match, other;
    uint64_t steps = STEPS, limit = STEPS;
    if (mk_scan_init(&s, pattern, plength, plain, &err) < 0)
        return;
    enum mk_pattern_result there =
        plain ? MK_PATTERN_NONE
              : mk_pattern_match(text, length, 0, pattern, plength, &limit, &other);
    const char *at = text, *end = text + length;
    bool found = false, sure = true;
    while (!found && mk_scan_next(&s, &at, end)) {
        enum mk_pattern_result r = mk_scan_confirm(&s, text, (size_t)(at - text), &steps, &match);
        found = r == MK_PATTERN_FOUND;
        sure &= r != MK_PATTERN_EXHAUSTED;
        if (found)
            fuzz_check(match.start <= match.end && match.end <= length &&
                       match.captures <= MK_PATTERN_CAPTURES);
        fuzz_steps++;
    }
    fuzz_check(at <= end);
    if (sure && !s.anchored && there == MK_PATTERN_FOUND && other.end > other.start && s.exact)
        fuzz_check(found);
    mk_scan_free(&s);
}

static void match_at_all(const char *pattern, size_t plength, const char *text, size_t length)
{
    struct mk_match m;
    struct mk_err err;
    uint64_t steps = STEPS;
    bool fine = mk_pattern_check(pattern, plength, &err) == 0;
    enum mk_pattern_result r = mk_pattern_match(text, length, 0, pattern, plength, &steps, &m);
    if (fine && r == MK_PATTERN_FOUND) {
        fuzz_check(m.start <= m.end && m.end <= length && m.captures <= MK_PATTERN_CAPTURES);
        for (unsigned i = 0; i < m.captures; i++)
            fuzz_check(m.capture[i].length == MK_CAPTURE_POSITION
                           ? m.capture[i].start <= length
                           : mk_inside(m.capture[i].start, m.capture[i].length, length));
    }
    fuzz_check(steps <= STEPS);
    for (size_t i = 0; i <= length && i < 4; i++)
        mk_pattern_at(text, length, i, pattern, plength, &steps, &m);
}

static char *string(const uint8_t *bytes, size_t length)
{
    char *s = malloc(length + 1);
    fuzz_check(s);
    memcpy(s, bytes, length);
    s[length] = 0;
    return s;
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    size_t plength, tlength;
    uint8_t flags = fuzz_u8(&in);
    const uint8_t *p = fuzz_bytes(&in, fuzz_u8(&in), &plength);
    const uint8_t *t = fuzz_bytes(&in, 4096, &tlength);
    char *pattern = string(p, plength), *text = string(t, tlength);
    match_at_all(pattern, plength, text, tlength);
    scan(pattern, plength, flags & 1, text, tlength);
    if (strlen(pattern) < 40 && strlen(text) < 300)
        mk_glob_match(pattern, text);
    free(pattern);
    free(text);
    fuzz_steps++;
}

FUZZ_TARGET(pattern, NULL, one)
