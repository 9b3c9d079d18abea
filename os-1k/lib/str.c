/* str.c - memory and string functions of kernel and programs.
 *
 * memcpy and memset also exist because the compiler may call them by itself. They use the string
 * instructions: one `rep` is far cheaper than a loop where a host interprets guest code. */
#include "str.h"

void *memcpy(void *to, const void *from, size_t count)
{
    void *dest = to;
    size_t words = count / 4, rest = count % 4;

    __asm__ volatile("rep movsd" : "+D"(dest), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(dest), "+S"(from), "+c"(rest) : : "memory");
    return to;
}

void *memset(void *to, int byte, size_t count)
{
    void *dest = to;
    size_t words = count / 4, rest = count % 4;

    __asm__ volatile("rep stosd" : "+D"(dest), "+c"(words)
                     : "a"((unsigned char)byte * 0x01010101u) : "memory");
    __asm__ volatile("rep stosb" : "+D"(dest), "+c"(rest) : "a"(byte) : "memory");
    return to;
}

bool str_equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

void str_copy(char *to, const char *from, size_t size)
{
    while (--size && *from)
        *to++ = *from++;
    *to = '\0';
}
