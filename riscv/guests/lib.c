/* lib.c - what guests in C share: calls of the SBI, printing. */
#include "guest.h"

struct sbi_result sbi(uint64_t extension, uint64_t function, uint64_t a, uint64_t b, uint64_t c)
{
    register uint64_t a0 __asm__("a0") = a;
    register uint64_t a1 __asm__("a1") = b;
    register uint64_t a2 __asm__("a2") = c;
    register uint64_t a6 __asm__("a6") = function;
    register uint64_t a7 __asm__("a7") = extension;

    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
    return (struct sbi_result){ (long)a0, (long)a1 };
}

void shut_down(void)
{
    sbi(0x53525354, 0, 0, 0, 0);
    for (;;)
        ;
}

void set_timer(uint64_t time)
{
    sbi(0x54494d45, 0, time, 0, 0);
}

int get_char(void)
{
    return (int)sbi(2, 0, 0, 0, 0).error;
}

void put_char(char c)
{
    sbi(1, 0, (uint64_t)c, 0, 0);
}

/* In one call, of the debug console. */
void put_string(const char *text)
{
    uint64_t length = 0;

    while (text[length])
        length++;
    sbi(0x4442434e, 0, length, (uint64_t)text, 0);
}

static void put_digits(uint64_t value, unsigned base)
{
    char digits[21], *first = digits + sizeof digits - 1;

    *first = '\0';
    do {
        *--first = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    put_string(first);
}

void put_number(uint64_t value)
{
    put_digits(value, 10);
}

void put_hex(uint64_t value)
{
    put_string("0x");
    put_digits(value, 16);
}
