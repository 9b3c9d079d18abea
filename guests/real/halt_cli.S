/* halt_cli.S - halts with interrupts off; for a HLT that no interrupt can ever end. */
#include "real.inc"

    cli
    hlt
