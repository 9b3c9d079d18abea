/* scan.h - finds where matches of a pattern end in a stream of bytes, at one look per byte.
 *
 * A pattern becomes a bit-parallel automaton (Shift-And with repetitions and optional parts): one
 * bit for each of its characters, classes and sets. What the automaton cannot know (%b, %f, %1,
 * more than MK_SCAN_POSITIONS of them) it takes for possible; then the ends it reports are
 * candidates, which the matcher of pattern.h has to confirm. No lock: whoever owns the scan uses it
 * from one thread at a time.
 *
 * Follows Navarro and Raffinot, "Flexible Pattern Matching in Strings" (2002), section 4.4. */
#ifndef MK_SCAN_H
#define MK_SCAN_H

#include "io/pattern.h"

#define MK_SCAN_POSITIONS 63
#define MK_SCAN_LENGTH 65536 /* bytes of a pattern */

/* Bit i of a state: the next byte may be the pattern's i-th. */
struct mk_automaton {
    uint64_t mask[256];         /* by byte: the positions that accept it */
    uint64_t start;             /* the state before the first byte */
    uint64_t accept;            /* in a state: a match is complete */
    uint64_t loop;              /* positions that repeat */
    uint64_t first, over, last; /* of each run of optional positions: where it begins, which
                                   positions can be reached by leaving some out, the last of them */
    bool begins[256];           /* bytes that a match may begin with */
};

struct mk_scan {
    struct mk_automaton ahead, back; /* back: from the end of a match to its start */
    bool exact;    /* ends that are reported are ends of matches, not candidates */
    bool whole;    /* all of the pattern is in it, not just its end */
    bool anchored; /* '^' */
    bool plain;
    uint64_t state;
    char *text; /* of the pattern, without '^' */
    size_t length;
    unsigned captures;
    size_t shortest, longest; /* bytes of a match; SIZE_MAX: as many as it likes */
};

/* Fails for a malformed pattern and for one that matches the empty string, which it would find
 * everywhere. `plain`: no character has a meaning. To be freed by mk_scan_free(). */
int mk_scan_init(struct mk_scan *s, const char *pattern, size_t length, bool plain,
                 struct mk_err *err);
void mk_scan_free(struct mk_scan *s);
/* Before the first byte again. */
void mk_scan_reset(struct mk_scan *s);

/* Takes the bytes up to the next place where a match may end; true when there is one. Then *at is
 * behind its last byte, else it is `end`. */
bool mk_scan_next(struct mk_scan *s, const char **at, const char *end);

/* Confirms an end that was reported, at text[length - 1], and finds the leftmost start of a match
 * that ends there and its captures. text[0] is the first byte that may belong to it. */
enum mk_pattern_result mk_scan_confirm(const struct mk_scan *s, const char *text, size_t length,
                                       uint64_t *steps, struct mk_match *match);

#endif
