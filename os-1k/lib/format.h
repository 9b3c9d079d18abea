/* format.h - printf-like formatting for kernel, programs and host tests. */
#ifndef FORMAT_H
#define FORMAT_H

#include <stdarg.h>

/* Calls put(ctx, c) for every character of the result. Knows %d %u %x %c %s %%, a width, and the
 * flags '-' (left) and '0'. Anything else is printed as it stands. */
void vformat(void (*put)(void *ctx, char c), void *ctx, const char *fmt, va_list ap);

#endif
