/* boot.h - what the guests of this folder share: they print what their loader told them, through port
 * 0xe9, and halt. Included by one file a guest; works in 32-bit and in 64-bit code. */
#ifndef BOOT_H
#define BOOT_H

#include "abi.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ELEMENTS(list) (sizeof(list) / sizeof((list)[0]))

static inline void put(char c)
{
    __asm__ volatile("out %1, %0" : : "a"(c), "N"(MK_PORT_DEBUGCON));
}

static inline void print(const char *text)
{
    while (*text)
        put(*text++);
}

static inline void print_hex(uint64_t value)
{
    int shift = 60;
    print("0x");
    while (shift > 0 && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

/* "name value" and a newline. */
static inline void tell(const char *name, uint64_t value)
{
    print(name);
    put(' ');
    print_hex(value);
    put('\n');
}

static inline void tell_text(const char *name, const char *value)
{
    print(name);
    print(" \"");
    print(value);
    print("\"\n");
}

/* A line only when something is not as it should be. */
static inline void check(const char *what, bool holds)
{
    if (holds)
        return;
    print("WRONG: ");
    print(what);
    put('\n');
}

static inline bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Of modules: the sum of all bytes. */
static inline uint32_t sum(const volatile uint8_t *bytes, uint32_t count)
{
    uint32_t total = 0;
    while (count--)
        total += *bytes++;
    return total;
}

/* Four fields of a picture: red, green, blue, white. */
static inline void draw(volatile uint32_t *pixels, uint32_t width, uint32_t height)
{
    static const uint32_t colours[4] = { 0xff0000, 0x00ff00, 0x0000ff, 0xffffff };
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            pixels[y * width + x] = colours[(y >= height / 2) * 2 + (x >= width / 2)];
}

#endif
