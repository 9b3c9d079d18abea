/* fib.c - the first 15 Fibonacci numbers. */
#include "ulib.h"

int main(void)
{
    uint32_t a = 0, b = 1;

    for (int i = 0; i < 15; i++) {
        uint32_t sum = a + b;
        printf("%u%c", a, i < 14 ? ' ' : '\n');
        a = b;
        b = sum;
    }
    return 0;
}
