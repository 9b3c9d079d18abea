/* util.h - checked arithmetic and the small tools every layer uses. */
#ifndef MK_UTIL_H
#define MK_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define MK_PRINTF(f, a) __attribute__((format(printf, f, a)))
/* What nearly every exit goes through lies together in the program: some hosts forget at an exit
 * where pages of code lie, and each one costs anew. */
#define MK_HOT __attribute__((hot))
/* A function that is seldom called: what leads to it is laid out beside the usual way. */
#define MK_COLD __attribute__((cold, noinline))
#define MK_EXPORT __attribute__((visibility("default")))
#define MK_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MK_CONTAINER(ptr, type, field) ((type *)((char *)(ptr)-offsetof(type, field)))

#define MK_PAGE 4096u

/* True when [at, at + len) lies inside [0, size); never overflows. */
static inline bool mk_inside(uint64_t at, uint64_t len, uint64_t size)
{
    return at <= size && len <= size - at;
}

/* The largest value that `bytes` (1..8) bytes hold. */
static inline uint64_t mk_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : (UINT64_C(1) << (bytes * 8)) - 1;
}

/* Whether all of `length` bytes, 1 or more, are zero. */
static inline bool mk_is_zero(const void *bytes, size_t length)
{
    const char *at = bytes;
    return at[0] == 0 && memcmp(at, at + 1, length - 1) == 0;
}

/* Monotonic time in nanoseconds. */
static inline uint64_t mk_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* mk_now() in `ns` nanoseconds; UINT64_MAX: never. */
static inline uint64_t mk_time_in(uint64_t ns)
{
    uint64_t now = mk_now();
    return ns > UINT64_MAX - now ? UINT64_MAX : now + ns;
}

#endif
