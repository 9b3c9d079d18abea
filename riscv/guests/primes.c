/* primes.c - computes, and leaves the hart for others only when its time slice is over. */
#include "guest.h"

#define LIMIT 12000u

/* Without a sieve: it is to take its time. */
static bool is_prime(unsigned n)
{
    for (unsigned d = 2; d < n; d++)
        if (n % d == 0)
            return false;
    return n > 1;
}

int main(void)
{
    unsigned count = 0;

    for (unsigned n = 0; n <= LIMIT; n++) {
        count += is_prime(n);
        if (n && n % (LIMIT / 10) == 0) {
            put_number(count);
            put_string(" primes up to ");
            put_number(n);
            put_string("\n");
        }
    }
    return 0;
}
