/* fact.c - factorials from 0! to 12!, the last one that fits into 32 bits. */
#include "ulib.h"

int main(void)
{
    uint32_t product = 1;

    for (uint32_t n = 0; n <= 12; n++) {
        product *= n ? n : 1;
        printf("%u! = %u\n", n, product);
    }
    return 0;
}
