/* str.h - the few memory and string functions a freestanding program needs. */
#ifndef STR_H
#define STR_H

#include <stdbool.h>
#include <stddef.h>

void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);
bool str_equal(const char *a, const char *b);
void str_copy(char *to, const char *from, size_t size); /* cuts; always ends with NUL */

#endif
