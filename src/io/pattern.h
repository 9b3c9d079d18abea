/* pattern.h - Lua 5.4's patterns, matched with a limit on the work.
 *
 * string.find() may take time exponential in the pattern: here every character looked at costs a
 * step of a budget, and the recursion is as deep as the pattern has repetitions and captures, at
 * most MK_PATTERN_DEPTH. Malformed patterns are found before matching, not on the way.
 * No state, no memory of its own: any thread may call it.
 *
 * Follows the Lua 5.4 manual, section 6.4.1. Classes are those of the C locale, whatever the
 * program's locale is. */
#ifndef MK_PATTERN_H
#define MK_PATTERN_H

#include "base/err.h"

#define MK_PATTERN_CAPTURES 32
#define MK_PATTERN_DEPTH 200

enum mk_pattern_result {
    MK_PATTERN_EXHAUSTED = -1, /* the steps are used up: nobody knows whether it matches */
    MK_PATTERN_NONE = 0,
    MK_PATTERN_FOUND = 1,
};

#define MK_CAPTURE_POSITION SIZE_MAX /* `length` of a position capture, "()" */

struct mk_match {
    size_t start, end; /* offsets in the subject, from 0; subject[end] is behind the match */
    unsigned captures; /* 0: none in the pattern; the whole match stands for them */
    struct {
        size_t start, length;
    } capture[MK_PATTERN_CAPTURES];
};

/* -1 and an error that names the pattern, the place and the reason when it is malformed. */
int mk_pattern_check(const char *pattern, size_t length, struct mk_err *err);

/* The first match at or behind offset `init` of the subject, as string.find() has it; a leading
 * '^' ties it to `init`. `*steps` counts down, across calls if the caller likes. *match is filled
 * in when the result is MK_PATTERN_FOUND. The pattern has passed mk_pattern_check(); one that has
 * not does no harm, it only fails to match.
 * (string.find() looks for a pattern without any of ^$*+?.([%- as plain text: there ")" is no
 * mistake. That shortcut is the caller's.) */
enum mk_pattern_result mk_pattern_match(const char *subject, size_t length, size_t init,
                                        const char *pattern, size_t plength, uint64_t *steps,
                                        struct mk_match *match);

/* A match that starts at `at` exactly. '^' is an ordinary character, as in string.gmatch(). */
enum mk_pattern_result mk_pattern_at(const char *subject, size_t length, size_t at,
                                     const char *pattern, size_t plength, uint64_t *steps,
                                     struct mk_match *match);

/* --- the pattern's parts, for those who compile it to something else --- */

enum mk_pattern_kind {
    MK_PATTERN_ONE,      /* matches one character; may be repeated */
    MK_PATTERN_OPEN,     /* ( */
    MK_PATTERN_POSITION, /* () */
    MK_PATTERN_CLOSE,    /* ) */
    MK_PATTERN_BALANCE,  /* %bxy */
    MK_PATTERN_FRONTIER, /* %f[set] */
    MK_PATTERN_BACK,     /* %1 */
    MK_PATTERN_TAIL,     /* $ at the end */
};

struct mk_pattern_item {
    enum mk_pattern_kind kind;
    const uint8_t *at, *end; /* the character, class or set; with FRONTIER the set alone */
    char repeat;             /* of ONE: 0, '*', '+', '-' or '?' */
    const uint8_t *next;     /* behind it, its repetition included */
};

/* Reads the item at `at` < `end`; NULL, or the reason why it is malformed. */
const char *mk_pattern_next(struct mk_pattern_item *item, const uint8_t *at, const uint8_t *end);
/* Whether an item of one character (or a frontier's set) matches `c`. */
bool mk_pattern_accepts(const struct mk_pattern_item *item, uint8_t c);

#endif
