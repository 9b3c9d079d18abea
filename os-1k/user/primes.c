/* primes.c - the primes up to 100, by the sieve of Eratosthenes. */
#include "ulib.h"

#define LAST 100

int main(void)
{
    static bool composite[LAST + 1];
    uint32_t count = 0;

    for (uint32_t n = 2; n <= LAST; n++) {
        if (composite[n])
            continue;
        printf(count++ ? " %u" : "%u", n);
        for (uint32_t m = n * n; m <= LAST; m += n)
            composite[m] = true;
    }
    printf("\n%u primes\n", count);
    return 0;
}
