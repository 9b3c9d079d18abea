/* exit42.S - ends with exit code 42 by the EXIT hypercall. */
#include "real.inc"

    exit 42
