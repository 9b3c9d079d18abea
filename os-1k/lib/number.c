/* number.c - reading numbers out of text, without ever overflowing. */
#include "number.h"

#include <stdbool.h>

const char *skip_spaces(const char *s)
{
    while (*s == ' ')
        s++;
    return s;
}

static const char *skip_minus(const char *s)
{
    if (*s == '-')
        return s + 1;
    if (s[0] == '\xe2' && s[1] == '\x88' && s[2] == '\x92') /* U+2212 in UTF-8 */
        return s + 3;
    return s;
}

enum number_result parse_int(const char **s, int32_t *value)
{
    const char *p = skip_minus(*s);
    bool minus = p != *s, overflow = false;
    int32_t n = 0;

    if (*p < '0' || *p > '9')
        return NUMBER_NONE;
    for (; *p >= '0' && *p <= '9'; p++) {
        int32_t digit = *p - '0'; /* counted downwards, because -2147483648 has no positive twin */
        overflow = overflow || __builtin_mul_overflow(n, 10, &n) ||
                   __builtin_sub_overflow(n, digit, &n);
    }
    *s = p;
    if (overflow || (!minus && n == INT32_MIN))
        return NUMBER_OVERFLOW;
    *value = minus ? n : -n;
    return NUMBER_OK;
}
