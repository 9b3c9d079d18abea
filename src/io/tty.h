/* tty.h - the terminal in raw mode while a guest's console is attached to it. */
#ifndef MK_TTY_H
#define MK_TTY_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Makes the terminal `fd` raw: bytes arrive as typed, with no echo, no line editing and no signal
 * keys (Ctrl-C is a byte for the guest). Output processing stays, so "\n" still starts a line.
 * Already raw on the same fd: nothing happens. Fails with ENOTTY when fd is no terminal, EBUSY when
 * another terminal is raw. From now on every way out of the process restores the terminal. */
int mk_tty_raw(int fd, struct mk_err *err);

/* Back to how it was, signal dispositions included. Harmless when nothing is raw; may be called
 * twice, from any thread and from a signal handler. */
void mk_tty_restore(void);

/* What is written to standard output when a raw terminal is restored, such as what makes its cursor
 * visible; MK_TTY_FAREWELL bytes at the most. "": nothing. */
#define MK_TTY_FAREWELL 64
void mk_tty_set_farewell(const char *text, size_t length);

/* Rows and columns of the terminal that standard output is; false when it is none, or does not
 * say. */
bool mk_tty_size(unsigned *rows, unsigned *columns);

#endif
