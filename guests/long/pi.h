/* pi.h - pi in floating point, for sse.c and float.c. */
#ifndef PI_H
#define PI_H

#include <stdint.h>

/* The first 8 digits behind the point: atan(1) as the mean of neighbouring sums of Leibniz's
 * series, which converges faster than the sums. */
static uint64_t pi(uint64_t terms)
{
    double sum = 0, before = 0, sign = 4;

    for (uint64_t i = 0; i < terms; i++, sign = -sign) {
        before = sum;
        sum += sign / (double)(2 * i + 1);
    }
    return (uint64_t)(((sum + before) / 2 - 3) * 1e8);
}

#endif
