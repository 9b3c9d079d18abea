/* spin.S - runs for ever without an exit; for deadlines, kicks and time limits. */
#include "real.inc"

1:  jmp 1b
