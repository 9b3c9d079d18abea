/* ranges.c - see ranges.h. */
#include "dev/ranges.h"

#include "dev/bus.h"

#include <stdlib.h>

struct mk_bus_ranges mk_bus_no_ranges = { .count = 1, .at = { { .last = UINT64_MAX } } };

static void release(struct mk_retired *map)
{
    free(map);
}

/* Adds a range behind the others: a part of the last one if the same hook is on top. */
static void append(struct mk_bus_ranges *map, struct mk_bus_range range)
{
    struct mk_bus_range *last = map->count ? &map->at[map->count - 1] : NULL;
    if (last && last->top == range.top)
        last->last = range.last;
    else
        map->at[map->count++] = range;
}

/* Adds what `old` has of [first, last]. */
static void append_old(struct mk_bus_ranges *map, const struct mk_bus_ranges *old, uint64_t first,
                       uint64_t last)
{
    unsigned place = 0;
    const struct mk_bus_range *end = &old->at[old->count];
    for (const struct mk_bus_range *r = mk_bus_ranges_find(old, first, &place);
         r < end && r->first <= last; r++)
        append(map, (struct mk_bus_range){ .first = r->first > first ? r->first : first,
                                           .last = r->last < last ? r->last : last,
                                           .top = r->top });
}

/* From `first` on, at most to `last`, as far as the same hook of the list is on top. */
static struct mk_bus_range next_range(struct mk_hook *hook, uint64_t first, uint64_t last)
{
    for (; hook; hook = atomic_load(&hook->link)) {
        if (hook->first <= first && first <= hook->last)
            break;
        if (hook->first > first && hook->first <= last)
            last = hook->first - 1;
    }
    if (hook && hook->last < last)
        last = hook->last;
    return (struct mk_bus_range){ .first = first, .last = last, .top = hook };
}

static void append_hooks(struct mk_bus_ranges *map, struct mk_hook *hooks, uint64_t first,
                         uint64_t last)
{
    struct mk_bus_range range;
    do {
        range = next_range(hooks, first, last);
        append(map, range);
        first = range.last + 1;
    } while (range.last < last);
}

/* Each hook begins a range and ends one. */
struct mk_bus_ranges *mk_bus_ranges_make(const struct mk_bus_ranges *old, struct mk_hook *hooks,
                                         unsigned hook_count, uint64_t first, uint64_t last)
{
    size_t size = sizeof(*old) + (2 * hook_count + 1) * sizeof(old->at[0]);
    struct mk_bus_ranges *map = malloc(size);
    if (!map)
        return NULL;
    map->retired = (struct mk_retired){ .release = release, .size = size };
    map->count = 0;
    if (old && first > 0)
        append_old(map, old, 0, first - 1);
    append_hooks(map, hooks, old ? first : 0, old ? last : UINT64_MAX);
    if (old && last < UINT64_MAX)
        append_old(map, old, last + 1, UINT64_MAX);
    return map;
}

const struct mk_bus_range *mk_bus_ranges_find(const struct mk_bus_ranges *map, uint64_t address,
                                              unsigned *hit)
{
    unsigned low = *hit, high = map->count;
    if (low < high && map->at[low].first <= address && address <= map->at[low].last)
        return &map->at[low];
    low = 0;
    while (high - low > 1) {
        unsigned middle = low + (high - low) / 2;
        if (map->at[middle].first <= address)
            low = middle;
        else
            high = middle;
    }
    *hit = low;
    return &map->at[low];
}
