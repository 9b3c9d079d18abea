/* exit.h - the exit port 0xf4: an OUT of 1, 2 or 4 bytes ends the VM with that value as its
 * exit code, as it is. No state. */
#ifndef MK_DEV_EXIT_H
#define MK_DEV_EXIT_H

#include "dev/dev.h"

extern const struct mk_dev_ops mk_exit_dev; /* of a bare struct mk_dev */

#endif
