/* sieve.c - the primes below 10000 by Eratosthenes' sieve. */
#include "minikvm.h"

#define LIMIT 10000

static bool composite[LIMIT];

int main(void)
{
    unsigned count = 0, last = 0;

    for (unsigned n = 2; n < LIMIT; n++) {
        if (composite[n])
            continue;
        count++;
        last = n;
        for (unsigned multiple = n * n; multiple < LIMIT; multiple += n)
            composite[multiple] = true;
    }
    printf("%u primes below %u, the last is %u\n", count, LIMIT, last);
    return 0;
}
