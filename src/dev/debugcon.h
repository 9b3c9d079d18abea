/* debugcon.h - the debug console, port 0xe9: OUT prints a byte, IN takes one (0xff: none). The VM's
 * console is a part of this device: reset, saved and loaded with it. */
#ifndef MK_DEV_DEBUGCON_H
#define MK_DEV_DEBUGCON_H

#include "dev/dev.h"
#include "io/console.h"

struct mk_debugcon {
    struct mk_dev dev;
    struct mk_console *console;
};

struct mk_dev *mk_debugcon_init(struct mk_debugcon *port, struct mk_console *console);
extern const struct mk_dev_ops mk_debugcon_dev;

#endif
