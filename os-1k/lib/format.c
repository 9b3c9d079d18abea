/* format.c - printf-like formatting: the only place where numbers become text.
 *
 * Shared by kernel (kprintf), programs (printf) and the host tests. No buffers, no 64-bit numbers
 * (a 32-bit freestanding program has no division for them), no floating point. */
#include "format.h"

#include <stdbool.h>
#include <stdint.h>

struct spec {
    bool left;
    char fill;
    int width;
};

struct sink {
    void (*put)(void *ctx, char c);
    void *ctx;
};

static void pad(const struct sink *out, char fill, int count)
{
    while (count-- > 0)
        out->put(out->ctx, fill);
}

/* Prints text of the given length in a field; a minus sign goes before zeros, but after blanks. */
static void put_field(const struct sink *out, const struct spec *spec, bool minus,
                      const char *text, int length)
{
    int fill = spec->width - length - minus;

    if (!spec->left && spec->fill == ' ')
        pad(out, ' ', fill);
    if (minus)
        out->put(out->ctx, '-');
    if (!spec->left && spec->fill == '0')
        pad(out, '0', fill);
    for (int i = 0; i < length; i++)
        out->put(out->ctx, text[i]);
    if (spec->left)
        pad(out, ' ', fill);
}

static void put_number(const struct sink *out, const struct spec *spec, bool minus, uint32_t value,
                       uint32_t base)
{
    char digits[10], *first = digits + sizeof digits;

    do {
        *--first = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    put_field(out, spec, minus, first, (int)(digits + sizeof digits - first));
}

static void put_string(const struct sink *out, const struct spec *spec, const char *s)
{
    int length = 0;

    if (!s)
        s = "(null)";
    while (s[length])
        length++;
    put_field(out, spec, false, s, length);
}

void vformat(void (*put)(void *ctx, char c), void *ctx, const char *fmt, va_list ap)
{
    const struct sink out = { put, ctx };

    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(ctx, *fmt);
            continue;
        }
        struct spec spec = { .left = false, .fill = ' ', .width = 0 };
        const char *start = fmt++;

        for (; *fmt == '-' || *fmt == '0'; fmt++) {
            if (*fmt == '-')
                spec.left = true;
            else
                spec.fill = '0';
        }
        while (*fmt >= '0' && *fmt <= '9' && spec.width < 100)
            spec.width = spec.width * 10 + (*fmt++ - '0');

        if (*fmt == 'd') {
            int32_t value = va_arg(ap, int32_t);
            put_number(&out, &spec, value < 0, value < 0 ? -(uint32_t)value : (uint32_t)value, 10);
        } else if (*fmt == 'u' || *fmt == 'x') {
            put_number(&out, &spec, false, va_arg(ap, uint32_t), *fmt == 'u' ? 10 : 16);
        } else if (*fmt == 'c') {
            char c = (char)va_arg(ap, int);
            put_field(&out, &spec, false, &c, 1);
        } else if (*fmt == 's') {
            put_string(&out, &spec, va_arg(ap, const char *));
        } else if (*fmt == '%') {
            put(ctx, '%');
        } else { /* unknown or cut off: show it */
            fmt = start;
            put(ctx, '%');
        }
    }
}
