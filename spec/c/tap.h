/* tap.h - checks that print the Test Anything Protocol; for the stand-alone C tests. */
#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static unsigned tap_count, tap_failed;

static inline bool tap_ok(bool passed, const char *name)
{
    printf("%sok %u - %s\n", passed ? "" : "not ", ++tap_count, name);
    tap_failed += !passed;
    return passed;
}

static inline bool tap_is(long long got, long long want, const char *name)
{
    bool same = tap_ok(got == want, name);
    if (!same)
        printf("# got %lld (0x%llx), wanted %lld (0x%llx)\n", got, got, want, want);
    return same;
}

static inline bool tap_text(const char *got, const char *want, const char *name)
{
    bool same = tap_ok(!strcmp(got, want), name);
    if (!same)
        printf("# got    \"%s\"\n# wanted \"%s\"\n", got, want);
    return same;
}

/* The plan, at the end; the exit status of main(). */
static inline int tap_done(void)
{
    printf("1..%u\n", tap_count);
    return tap_failed ? 1 : 0;
}

#endif
