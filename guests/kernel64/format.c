/* format.c - numbers and text into characters: a small printf. */
#include "kernel.h"

#include <stdarg.h>

/* Where characters go: the screen, or a buffer. */
struct sink {
    char *at, *end; /* NULL: the screen */
};

static void put(struct sink *to, char c)
{
    if (!to->at)
        screen_put(c);
    else if (to->at < to->end)
        *to->at++ = c;
}

static void put_text(struct sink *to, const char *text, int width, char fill)
{
    for (const char *p = text; *p; p++)
        width--;
    while (width-- > 0)
        put(to, fill);
    while (*text)
        put(to, *text++);
}

static void put_number(struct sink *to, uint64_t value, unsigned base, int width, char fill)
{
    char text[24], *at = text + sizeof(text);

    *--at = 0;
    do {
        *--at = "0123456789abcdef"[value % base];
    } while (value /= base);
    put_text(to, at, width, fill);
}

static void format(struct sink *to, const char *p, va_list *args)
{
    for (; *p; p++) {
        if (*p != '%') {
            put(to, *p);
            continue;
        }
        char fill = *++p == '0' ? '0' : ' ';
        int width = 0;
        for (; *p >= '0' && *p <= '9'; p++)
            width = width * 10 + *p - '0';
        for (; *p == 'l'; p++)
            ; /* all numbers are of 64 bits */
        if (*p == 's')
            put_text(to, va_arg(*args, const char *), width, fill);
        else if (*p == 'd' || *p == 'x')
            put_number(to, va_arg(*args, uint64_t), *p == 'd' ? 10 : 16, width, fill);
        else
            put(to, *p == 'c' ? (char)va_arg(*args, int) : *p);
    }
}

void print(const char *text, ...)
{
    struct sink screen = { NULL, NULL };
    va_list args;

    va_start(args, text);
    format(&screen, text, &args);
    va_end(args);
}

void format_text(char *to, size_t size, const char *text, ...)
{
    struct sink buffer = { to, to + size - 1 };
    va_list args;

    va_start(args, text);
    format(&buffer, text, &args);
    va_end(args);
    *buffer.at = 0;
}

bool text_equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}
