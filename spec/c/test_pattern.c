/* test_pattern.c - Lua's patterns with a limit: results as string.find() of Lua 5.4 gives them,
 * malformed patterns, and work that is cut off. No KVM, no Lua. Prints TAP.
 *
 * With the argument "-" it reads lines of "PATTERN SUBJECT INIT" (the first two in hex, behind an
 * x) and prints what came of each, for a comparison with another implementation. */
#include "io/pattern.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

#define PLENTY 10000000

/* "1-3 'a' @4": where it is (from 1, as in Lua), then what the captures hold. */
static void describe(char *to, size_t size, const char *subject, enum mk_pattern_result result,
                     const struct mk_match *m)
{
    if (result != MK_PATTERN_FOUND) {
        snprintf(to, size, "%s", result == MK_PATTERN_NONE ? "none" : "exhausted");
        return;
    }
    size_t used = (size_t)snprintf(to, size, "%zu-%zu", m->start + 1, m->end);
    for (unsigned i = 0; i < m->captures && used < size; i++) {
        size_t length = m->capture[i].length, start = m->capture[i].start;
        if (length == MK_CAPTURE_POSITION)
            used += (size_t)snprintf(to + used, size - used, " @%zu", start + 1);
        else
            used +=
                (size_t)snprintf(to + used, size - used, " '%.*s'", (int)length, subject + start);
    }
}

static const struct {
    const char *subject, *pattern, *want;
} known[] = {
    { "hello world", "world", "7-11" },
    { "hello", "", "1-0" },
    { "", "", "1-0" },
    { "", "^$", "1-0" },
    { "abc", "x", "none" },
    { "abc", "^b", "none" },
    { "a^b", "a^b", "1-3" },
    { "a$b", "a$b", "1-3" },
    { "ab", "b$", "2-2" },
    { "abb", "ab$", "none" },
    { "key = value", "(%w+)%s*=%s*(%w+)", "1-11 'key' 'value'" },
    { "  x", "^%s*()", "1-2 @3" },
    { "aaa", "a-", "1-0" },
    { "aaab", "^a-b", "1-4" },
    { "aaab", "a*ab", "1-4" },
    { "b", "a?b", "1-1" },
    { "ab", "a?ab", "1-2" },
    { "+-", "%+%-", "1-2" },
    { "x-y", "[x-]+", "1-2" },
    { "]", "[]]", "1-1" },
    { "a]", "[^]]", "1-1" },
    { "a-z", "[a%-z]+", "1-3" },
    { "m", "[a-z]", "1-1" },
    { "^", "[%^]", "1-1" },
    { "^", "[x^]", "1-1" },
    { "f(a(b)c)d", "%b()", "2-8" },
    { "((", "%b()", "none" },
    { "xaxax", "%bxx", "1-3" },
    { "THE (quick) fox", "%f[%a]%a+%f[%A]", "1-3" },
    { "a fox", "%f[%w]f", "3-3" },
    { "end", "%f[%z]", "4-3" },
    { "\"it's\"", "([\"'])(.-)%1", "1-6 '\"' 'it's'" },
    { "abab", "(ab)%1", "1-4 'ab'" },
    { "abcabd", "(%a)(%a)%a%1%2", "1-5 'a' 'b'" },
    { "abab", "()%1", "none" },
    { "nested", "((n)(e))s", "1-3 'ne' 'n' 'e'" },
    { "nested", "((n)(e)s)", "1-3 'nes' 'n' 'e'" },
    { "0x1F!", "0x(%x+)", "1-4 '1F'" },
    { "a.b", "a%.b", "1-3" },
    { "tab\there", "%c", "4-4" },
    { "Upper", "%u%l+", "1-5" },
    { "a_b", "%W", "2-2" },
    { "a1", "%D%d", "1-2" },
    { "a!", "%p", "2-2" },
    { "*", "*", "1-1" },
    { "**", "**", "1-2" },
    { "aXb", "a%Xb", "1-3" },
    { "%", "%%", "1-1" },
    { "a%1", "%1", NULL },
};

static void test_known(void)
{
    for (unsigned i = 0; i < MK_COUNT(known); i++) {
        const char *subject = known[i].subject, *pattern = known[i].pattern;
        struct mk_match m = { 0 };
        struct mk_err err = { 0 };
        char got[200];
        if (mk_pattern_check(pattern, strlen(pattern), &err) < 0) {
            tap_ok(!known[i].want, pattern);
            continue;
        }
        uint64_t steps = PLENTY;
        enum mk_pattern_result result =
            mk_pattern_match(subject, strlen(subject), 0, pattern, strlen(pattern), &steps, &m);
        describe(got, sizeof(got), subject, result, &m);
        tap_text(got, known[i].want ? known[i].want : "malformed", pattern);
    }
}

static void test_bytes(void)
{
    struct mk_match m;
    uint64_t steps = PLENTY;
    tap_is(mk_pattern_match("a\0b", 3, 0, "a%zb", 4, &steps, &m), MK_PATTERN_FOUND, "a NUL is %z");
    tap_is(mk_pattern_match("a\0b", 3, 0, "\0b", 2, &steps, &m), MK_PATTERN_FOUND,
           "a NUL in the pattern");
    tap_is((long long)m.start, 1, "and where");
    tap_is(mk_pattern_match("\xff", 1, 0, "[\x80-\xff]", 5, &steps, &m), MK_PATTERN_FOUND,
           "bytes above 127 are in a range");
    tap_is(mk_pattern_match("\xe4", 1, 0, "%a", 2, &steps, &m), MK_PATTERN_NONE,
           "and are no letters");
}

static void test_places(void)
{
    struct mk_match m;
    uint64_t steps = PLENTY;
    tap_is(mk_pattern_match("abab", 4, 1, "ab", 2, &steps, &m), MK_PATTERN_FOUND, "from an offset");
    tap_is((long long)m.start, 2, "finds what is behind it");
    tap_is(mk_pattern_match("abab", 4, 2, "^ab", 3, &steps, &m), MK_PATTERN_FOUND,
           "^ is the offset");
    tap_is(mk_pattern_match("abab", 4, 1, "^ab", 3, &steps, &m), MK_PATTERN_NONE, "and only that");
    tap_is(mk_pattern_match("ab", 2, 3, "", 0, &steps, &m), MK_PATTERN_NONE, "behind the end");
    tap_is(mk_pattern_match("ab", 2, 2, "", 0, &steps, &m), MK_PATTERN_FOUND, "at the end");
    tap_is(mk_pattern_at("ab", 2, 1, "b", 1, &steps, &m), MK_PATTERN_FOUND, "one attempt");
    tap_is(mk_pattern_at("ab", 2, 0, "b", 1, &steps, &m), MK_PATTERN_NONE, "one attempt only");
    tap_is(mk_pattern_at("^a", 2, 0, "^a", 2, &steps, &m), MK_PATTERN_FOUND, "^ for itself");
}

static void test_malformed(void)
{
    static const struct {
        const char *pattern, *want;
    } bad[] = {
        { "abc%", "malformed pattern \"abc%\", at character 4: ends with '%'" },
        { "x[a-z", "malformed pattern \"x[a-z\", at character 2: missing ']'" },
        { "[]", "malformed pattern \"[]\", at character 1: missing ']'" },
        { "[^]", "malformed pattern \"[^]\", at character 1: missing ']'" },
        { "[a%]", "malformed pattern \"[a%]\", at character 1: missing ']'" },
        { "[a%", "malformed pattern \"[a%\", at character 1: missing ']'" },
        { "[", "malformed pattern \"[\", at character 1: missing ']'" },
        { "%b", "malformed pattern \"%b\", at character 1: missing arguments to '%b'" },
        { "%b(", "malformed pattern \"%b(\", at character 1: missing arguments to '%b'" },
        { "%fa", "malformed pattern \"%fa\", at character 1: missing '[' after '%f'" },
        { "%f", "malformed pattern \"%f\", at character 1: missing '[' after '%f'" },
        { "%f[a", "malformed pattern \"%f[a\", at character 1: missing ']'" },
        { "a(b", "malformed pattern \"a(b\", at character 3: unfinished capture: missing ')'" },
        { "a)b", "malformed pattern \"a)b\", at character 2: ')' without '('" },
        { "(a%1)", "malformed pattern \"(a%1)\", at character 3: no such capture, or it is not "
                   "closed yet" },
        { "%0", "malformed pattern \"%0\", at character 1: no such capture, or it is not closed "
                "yet" },
    };
    for (unsigned i = 0; i < MK_COUNT(bad); i++) {
        struct mk_err err = { 0 };
        struct mk_match m;
        uint64_t steps = PLENTY;
        mk_pattern_check(bad[i].pattern, strlen(bad[i].pattern), &err);
        tap_text(err.text, bad[i].want, bad[i].pattern);
        tap_ok(mk_pattern_match("aab(", 4, 0, bad[i].pattern, strlen(bad[i].pattern), &steps, &m) !=
                   MK_PATTERN_EXHAUSTED,
               "does no harm unchecked");
    }
}

static void test_limits(void)
{
    char pattern[1000], subject[2001];
    struct mk_err err = { 0 };
    struct mk_match m;
    for (unsigned i = 0; i < 400; i++)
        memcpy(pattern + 2 * i, "a?", 2);
    tap_is(mk_pattern_check(pattern, 2 * 199, &err), 0, "199 repetitions are well");
    tap_is(mk_pattern_check(pattern, 2 * 200, &err), -1, "200 are too many");
    tap_ok(strstr(err.text, "too complex") && strstr(err.text, "..."), "which is said, cut short");
    memset(subject, 'a', 2000);
    uint64_t steps = 100000;
    tap_is(mk_pattern_match(subject, 199, 0, pattern, 398, &steps, &m), MK_PATTERN_FOUND,
           "199 are matched");
    steps = PLENTY;
    tap_is(mk_pattern_match(subject, 2000, 0, pattern, 800, &steps, &m), MK_PATTERN_EXHAUSTED,
           "unchecked, the depth is bounded all the same");
    steps = 1000000;
    tap_is(mk_pattern_match(subject, 2000, 0, "a*a*a*a*a*a*a*b", 15, &steps, &m),
           MK_PATTERN_EXHAUSTED, "an explosion ends when the steps are used up");
    tap_is((long long)steps, 0, "none are left");
    tap_is(mk_pattern_match("a", 1, 0, "a", 1, &steps, &m), MK_PATTERN_EXHAUSTED,
           "without steps nothing matches");
    for (unsigned i = 0; i < 33; i++)
        memcpy(pattern + 2 * i, "()", 2);
    tap_is(mk_pattern_check(pattern, 64, &err), 0, "32 captures are well");
    tap_is(mk_pattern_check(pattern, 66, &err), -1, "33 are too many");
    steps = PLENTY;
    tap_is(mk_pattern_match("", 0, 0, pattern, 64, &steps, &m), MK_PATTERN_FOUND, "all captured");
    tap_is(m.captures, 32, "each of them");
    char set[600] = "[";
    memset(set + 1, 'b', 500);
    set[501] = ']';
    steps = 1000;
    tap_is(mk_pattern_match(subject, 2000, 0, set, 502, &steps, &m), MK_PATTERN_EXHAUSTED,
           "a long set costs more");
}

static size_t unhex(char *to, const char *from)
{
    size_t n = 0;
    unsigned byte;
    for (from++; sscanf(from, "%2x", &byte) == 1; from += 2)
        to[n++] = (char)byte;
    return n;
}

static int compare(void)
{
    static char p[1000], s[1000], pattern[500], subject[500], out[1000];
    unsigned init;
    while (scanf("%999s %999s %u", p, s, &init) == 3) {
        size_t plength = unhex(pattern, p), length = unhex(subject, s);
        struct mk_match m = { 0 };
        uint64_t steps = PLENTY;
        if (mk_pattern_check(pattern, plength, NULL) < 0) {
            puts("malformed");
            continue;
        }
        describe(out, sizeof(out), subject,
                 mk_pattern_match(subject, length, init, pattern, plength, &steps, &m), &m);
        puts(out);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "-"))
        return compare();
    test_known();
    test_bytes();
    test_places();
    test_malformed();
    test_limits();
    return tap_done();
}
