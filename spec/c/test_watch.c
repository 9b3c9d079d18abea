/* test_watch.c - waiting for output: the streaming automaton beside the matcher tried after every
 * byte, output in pieces, what forbids, budgets, limits. No KVM, no Lua. Prints TAP.
 *
 * Arguments: how many random patterns to compare, and their seed. */
#include "io/watch.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

static struct mk_console con;
static struct mk_cpu cpu;

static void print(const char *text)
{
    mk_console_write(&con, &cpu, text, strlen(text));
}

static struct mk_watch *wait_for(const char *pattern, bool plain)
{
    struct mk_err err = { .text = "no memory" };
    struct mk_watch *w = mk_watch_new(0);
    if (!w || mk_watch_add(w, pattern, strlen(pattern), plain, &err) < 0) {
        tap_ok(false, err.text);
        exit(1);
    }
    mk_watch_arm(&con, w);
    return w;
}

static void forget(struct mk_watch *w)
{
    mk_watch_disarm(&con, w);
    mk_watch_free(w);
}

/* --- against the matcher --- */

static unsigned pick(unsigned n)
{
    return (unsigned)random() % n;
}

static void random_text(char *to, const char *const *parts, unsigned count, unsigned most)
{
    to[0] = 0;
    for (unsigned n = pick(most + 1); n > 0; n--)
        strcat(to, parts[pick(count)]);
}

/* The match that counts by the definition; `end` is the byte that completed it. */
static bool by_hand(const char *text, const char *pattern, struct mk_match *m, size_t *end)
{
    size_t length = strlen(text), plength = strlen(pattern);
    for (*end = 1; *end <= length; ++*end) {
        uint64_t steps = 1000000;
        if (mk_pattern_match(text, *end, 0, pattern, plength, &steps, m) == MK_PATTERN_FOUND)
            return true;
    }
    return false;
}

static bool same_captures(const struct mk_watch *w, const struct mk_match *m)
{
    for (unsigned i = 0; i < m->captures; i++)
        if (w->match.capture[i].start + m->start != m->capture[i].start ||
            w->match.capture[i].length != m->capture[i].length)
            return false;
    return w->match.captures == m->captures;
}

static bool same_result(const struct mk_watch *w, bool found, const char *text,
                        const struct mk_match *m, size_t end)
{
    if (!found)
        return w->state == MK_WATCH_ARMED;
    return w->state == MK_WATCH_MATCHED && w->match_end == end && w->from == m->end &&
           w->text_length == m->end - m->start &&
           !memcmp(w->text, text + m->start, w->text_length) && same_captures(w, m);
}

static bool compare_one(const char *pattern, const char *text)
{
    struct mk_match m;
    size_t end, length = strlen(text);
    bool found = by_hand(text, pattern, &m, &end);
    mk_console_init(&con);
    struct mk_watch *w = wait_for(pattern, false);
    for (size_t at = 0; at < length;) {
        size_t piece = pick(4) + 1;
        if (piece > length - at)
            piece = length - at;
        mk_console_write(&con, &cpu, text + at, piece);
        at += piece;
    }
    bool same = same_result(w, found, text, &m, end);
    if (!same)
        printf("# \"%s\" in \"%s\": by hand %d, %zu-%zu at %zu; state %d, \"%.*s\" at %llu\n",
               pattern, text, found, m.start, m.end, end, w->state, (int)w->text_length, w->text,
               (unsigned long long)w->match_end);
    mk_console_free(&con);
    return same;
}

static void test_random(unsigned count)
{
    static const char *const parts[] = { "a",  "b",  ".",  "%a", "[ab]", "[^a]",  "%d",
                                         "(",  ")",  "()", "%1", "%b()", "%f[a]", "%f[%A]",
                                         "a*", "b-", ".-", "a?", "%a+",  "[^b]*", "^",
                                         "$",  "$",  "ab", "b?", ".*",   "(a-)",  "%s" };
    static const char *const bytes[] = { "a", "b", "c", "(", ")", "1", " ", "ab", "aa", "^", "$" };
    unsigned tried = 0, differ = 0;
    while (tried < count) {
        char pattern[100], text[100];
        random_text(pattern, parts, MK_COUNT(parts), 6);
        random_text(text, bytes, MK_COUNT(bytes), 20);
        struct mk_scan scan;
        if (mk_scan_init(&scan, pattern, strlen(pattern), false, NULL) < 0)
            continue;
        mk_scan_free(&scan);
        tried++;
        differ += !compare_one(pattern, text);
    }
    tap_is(differ, 0, "random patterns match as if they were tried after every byte");
}

/* --- by example --- */

static void test_examples(void)
{
    mk_console_init(&con);
    print("boot ok\nprompt> ");
    struct mk_watch *w = wait_for("prompt> $", false);
    tap_is(w->state, MK_WATCH_MATCHED, "what was printed before counts; '$' is true after a byte");
    tap_is((long long)con.stream[0].consumed, 16, "and is consumed");
    forget(w);
    w = wait_for("prompt> ", true);
    tap_is(w->state, MK_WATCH_ARMED, "once");
    print("prom");
    print("pt");
    tap_is(w->state, MK_WATCH_ARMED, "a part is no match");
    print("> rest");
    tap_is(w->state, MK_WATCH_MATCHED, "pieces are joined");
    forget(w);
    w = wait_for("^rest", false);
    tap_is(w->state, MK_WATCH_MATCHED, "^ is where the wait begins");
    forget(w);
    w = wait_for("%.*[x]", true);
    print("%.*[x]");
    tap_is(w->state, MK_WATCH_MATCHED, "plain text");
    forget(w);
    mk_console_free(&con);
}

static void test_long(void)
{
    char line[201], pattern[300];
    memset(line, 'x', 200);
    line[200] = 0;
    mk_console_init(&con);
    struct mk_watch *w = wait_for(line, true);
    print(line + 1);
    tap_is(w->state, MK_WATCH_ARMED, "199 of 200 bytes are not all of them");
    print("yx");
    print(line + 1);
    tap_is(w->state, MK_WATCH_MATCHED, "a long text, of which the automaton knows the end");
    forget(w);
    snprintf(pattern, sizeof(pattern), "(y)%s", line + 100);
    w = wait_for(pattern, false);
    print(line);
    tap_is(w->state, MK_WATCH_ARMED, "a long pattern without its beginning");
    print("y");
    print(line);
    tap_is(w->state, MK_WATCH_MATCHED, "and with it");
    tap_is((long long)w->text_length, 101, "the match is as long as it should be");
    forget(w);
    mk_console_free(&con);
}

static void test_order(void)
{
    struct mk_err err;
    mk_console_init(&con);
    struct mk_watch *w = mk_watch_new(0);
    mk_watch_add(w, "abcd", 4, true, &err);
    mk_watch_add(w, "bc", 2, true, &err);
    mk_watch_add(w, "c", 1, true, &err);
    mk_watch_arm(&con, w);
    print("--abcd--");
    tap_is(w->which, 1, "the earliest end counts, then the order of the list");
    tap_is((long long)w->match_end, 5, "where it ends");
    forget(w);
    w = mk_watch_new(0);
    for (unsigned i = 0; i < MK_WATCH_PATTERNS; i++)
        mk_watch_add(w, "a", 1, false, &err);
    tap_is(mk_watch_add(w, "a", 1, false, &err), -1, "more patterns than there may be");
    mk_watch_free(w);
    mk_console_free(&con);
}

static void test_forbid(void)
{
    bool decided;
    char text[400];
    mk_console_init(&con);
    print("PANIC before\n");
    struct mk_watch *w = mk_watch_new(0);
    w->forbids = w->stops = true;
    mk_watch_add(w, "PANIC", 5, true, NULL);
    mk_watch_arm(&con, w);
    tap_is(mk_watch_check(&con, 0, 1, &decided, text, sizeof(text)), MK_RUNNING,
           "what was printed before is not forbidden");
    print("all is well\nPAN");
    print("IC: \x01 page fault\nmore");
    tap_is((long long)w->hits, 1, "seen across pieces");
    tap_is(mk_watch_check(&con, 1, 1, &decided, text, sizeof(text)), MK_RUNNING,
           "another vCPU goes on");
    tap_is(mk_watch_check(&con, 0, 1, &decided, text, sizeof(text)), MK_FORBIDDEN,
           "its own run ends");
    tap_text(text, "the output matches the forbidden pattern \"PANIC\": \"PANIC: . page fault\"",
             "the line is told");
    tap_is(mk_watch_check(&con, 0, 1, &decided, text, sizeof(text)), MK_RUNNING, "once");
    struct mk_watch *later = wait_for("more", true);
    tap_ok(!mk_watch_forbidden(&con, later, text, sizeof(text)) == false,
           "a wait whose match came later fails");
    forget(later);
    mk_watch_resume(&con);
    print("PANIC again\n");
    tap_is((long long)w->hits, 2, "it is armed again for the next run");
    mk_console_reset(&con);
    tap_is((long long)w->hits, 0, "a reset forgets");
    print("PANI");
    mk_console_reset(&con);
    print("C");
    tap_is((long long)w->hits, 0, "half a match, too");
    mk_console_free(&con);
}

static void test_budget(void)
{
    bool decided;
    char text[400];
    mk_console_init(&con);
    struct mk_watch *w = wait_for("never", true);
    w->exits = 10;
    w->stops = true;
    tap_is(mk_watch_check(&con, 0, 100, &decided, text, sizeof(text)), MK_RUNNING,
           "counted from the first look");
    tap_is(mk_watch_check(&con, 0, 109, &decided, text, sizeof(text)), MK_RUNNING, "nine exits");
    tap_is(mk_watch_check(&con, 0, 110, &decided, text, sizeof(text)), MK_LIMIT, "ten");
    tap_ok(decided && w->state == MK_WATCH_BUDGET, "which the wait learns");
    forget(w);
    w = wait_for("never", true);
    w->ticks = 2;
    tap_ok(!mk_watch_timer_tick(&con) && mk_watch_timer_tick(&con), "two ticks");
    tap_is(w->state, MK_WATCH_BUDGET, "end the wait");
    forget(w);
    mk_console_free(&con);
}

static void test_limits(void)
{
    mk_console_init(&con);
    struct mk_watch *w = wait_for("(.-)(.-)(.-)(.-)%1%2%3%4x%f[y]z", false);
    for (unsigned i = 0; i < 20000 && w->state == MK_WATCH_ARMED; i++)
        print("abxz");
    tap_is(w->state, MK_WATCH_UNDECIDABLE, "a pattern that needs too much work is given up");
    forget(w);
    w = wait_for("x.*%f[z]ab", false); /* ends that are none, and a start that is not kept */
    print("x");
    for (unsigned i = 0; i < 2 * MK_CONSOLE_HISTORY / 16; i++)
        print("................");
    for (unsigned i = 0; i < 1000 && w->state == MK_WATCH_ARMED; i++)
        print("ab ");
    tap_is(w->state, MK_WATCH_UNDECIDABLE, "so are ends whose start is looked for in vain");
    forget(w);
    mk_console_reset(&con);
    con.history_limit = 1000;
    w = wait_for("begin.*end", false);
    print("begin");
    for (unsigned i = 0; i < 500; i++)
        print("....");
    print("end");
    tap_is(w->state, MK_WATCH_UNDECIDABLE, "so is a match longer than what is kept");
    forget(w);
    w = wait_for("begin.*end", false);
    print("begin end");
    tap_is(w->state, MK_WATCH_MATCHED, "a short one is found");
    forget(w);
    mk_console_free(&con);
}

int main(int argc, char **argv)
{
    srandom(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
    test_examples();
    test_long();
    test_order();
    test_forbid();
    test_budget();
    test_limits();
    test_random(argc > 1 ? (unsigned)atoi(argv[1]) : 20000);
    return tap_done();
}
