/* badcall.S - a hypercall number nobody defined; for the reason `fault`, and for a number that Lua
 * defines. Halts if the call returns. */
#include "real.inc"

    hypercall 0x77
    hlt
