/* lib.c - console, memory, and the end: the part of the library that every guest needs. */
#include "minikvm.h"

#include <stdarg.h>

const struct boot_info *boot;

_Noreturn void halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

_Noreturn void exit(int code)
{
    outl(MK_PORT_EXIT, (uint32_t)code);
    halt();
}

/* --- console --- */

void putc(char c)
{
    outb(MK_PORT_DEBUGCON, (uint8_t)c);
}

void puts(const char *text)
{
    while (*text)
        putc(*text++);
}

void write(const void *bytes, uint32_t length)
{
    hypercall(MK_HC_WRITE, (uint64_t)bytes, length);
}

/* Asking again at once is right: the VMM lets a guest sleep that asks in vain. */
int getc(void)
{
    uint16_t answer;

    do {
        hypercall(MK_HC_GETCHAR, 0, 0);
        answer = inw(MK_PORT_HYPERCALL); /* 16 bits wide: the status is in the high byte */
    } while (answer >> 8 == MK_GETCHAR_NONE);
    return answer >> 8 == MK_GETCHAR_BYTE ? answer & 0xff : END_OF_INPUT;
}

static void print_padded(const char *text, int width, char fill)
{
    for (int length = (int)strlen(text); length < width; length++)
        putc(fill);
    puts(text);
}

static void print_number(uint64_t value, unsigned base, bool negative, int width, char fill)
{
    char text[24], *at = text + sizeof(text);

    *--at = 0;
    do {
        *--at = "0123456789abcdef"[value % base];
    } while (value /= base);
    if (negative)
        *--at = '-';
    print_padded(at, width, fill);
}

/* One conversion; `p` is behind its '%'. Returns its last character. */
static const char *convert(const char *p, va_list *args)
{
    char fill = *p == '0' ? '0' : ' ';
    int width = 0;
    bool wide = false;

    while (*p >= '0' && *p <= '9')
        width = width * 10 + *p++ - '0';
    for (; *p == 'l'; p++)
        wide = true;
    if (*p == 'd') {
        int64_t value = wide ? va_arg(*args, int64_t) : va_arg(*args, int);
        print_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 10, value < 0, width, fill);
    } else if (*p == 'u' || *p == 'x') {
        uint64_t value = wide ? va_arg(*args, uint64_t) : va_arg(*args, unsigned);
        print_number(value, *p == 'x' ? 16 : 10, false, width, fill);
    } else if (*p == 's') {
        print_padded(va_arg(*args, const char *), width, fill);
    } else {
        putc(*p == 'c' ? (char)va_arg(*args, int) : *p);
    }
    return p;
}

void printf(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    for (const char *p = format; *p; p++) {
        if (*p == '%')
            p = convert(p + 1, &args);
        else
            putc(*p);
    }
    va_end(args);
}

/* --- memory and text; the compiler calls these by itself, too. 8 bytes a step, by one instruction:
 * where CPL 0 is emulated a step costs as much as an instruction. --- */

void *memcpy(void *to, const void *from, size_t length)
{
    void *result = to;
    size_t words = length / 8, rest = length % 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
    return result;
}

void *memset(void *to, int byte, size_t length)
{
    void *result = to;
    size_t words = length / 8, rest = length % 8;
    uint64_t pattern = (uint8_t)byte * UINT64_C(0x0101010101010101);
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(rest) : "a"(byte) : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t length)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    if ((uintptr_t)to - (uintptr_t)from >= length)
        return memcpy(to, from, length);
    while (length--)
        t[length] = f[length];
    return to;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const uint8_t *x = a, *y = b;

    for (; length; length--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}
