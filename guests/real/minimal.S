/* minimal.S - the smallest guest there is: one byte, one exit. */
#include "real.inc"

    hlt
