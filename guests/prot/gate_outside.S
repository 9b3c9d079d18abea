/* gate_outside.S - a gate that leads to where no RAM is; for how an exception ends then. */
#include "prot.inc"

    gate 0, 0x70000000
    xor ecx, ecx
    div ecx
    exit 0
