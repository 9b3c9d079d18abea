/* debugcon.h - the debug console, port 0xe9: OUT prints a byte, IN takes one (0xff: none).
 * Self is the VM's struct mk_console; its lock is the only state. */
#ifndef MK_DEV_DEBUGCON_H
#define MK_DEV_DEBUGCON_H

#include "dev/dev.h"
#include "io/console.h"

extern const struct mk_io_ops mk_debugcon_ops;

#endif
