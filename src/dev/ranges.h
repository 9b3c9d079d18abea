/* ranges.h - which hook is on top at each address of a bus, for spaces that are too large for a
 * table of their addresses (memory, MSRs).
 *
 * A map is an array of ranges that cover the whole space, sorted, each with the one hook that is on
 * top there, or none. It is found by binary search, and at once where the last one was. A map does
 * not change: whoever hooks makes another one, so readers need no lock (bus.h). */
#ifndef MK_RANGES_H
#define MK_RANGES_H

#include <stddef.h>
#include <stdint.h>

struct mk_hook;

/* What a bus let go of, until no reader can hold it any more. */
struct mk_retired {
    struct mk_retired *next;
    uint64_t at; /* the bus's generation then */
    size_t size; /* in bytes */
    void (*release)(struct mk_retired *what);
};

struct mk_bus_range {
    uint64_t first, last;
    struct mk_hook *top; /* NULL: nobody's */
};

struct mk_bus_ranges {
    struct mk_retired retired; /* first */
    unsigned count;            /* at least one */
    struct mk_bus_range at[];
};

extern struct mk_bus_ranges mk_bus_no_ranges; /* of a bus without a hook; it is never freed */

/* The map for `hooks`, a list with the newest first of `hook_count` hooks, when `old`, the map
 * before, does not hold in [first, last] any more; without one (NULL) all is looked up. NULL when
 * memory ran out. Takes as long as the count of ranges in [first, last] times that of hooks. */
struct mk_bus_ranges *mk_bus_ranges_make(const struct mk_bus_ranges *old, struct mk_hook *hooks,
                                         unsigned hook_count, uint64_t first, uint64_t last);

/* The range of `address`. `hit` is any number at first, and then the place of the last one. */
const struct mk_bus_range *mk_bus_ranges_find(const struct mk_bus_ranges *map, uint64_t address,
                                              unsigned *hit);

#endif
