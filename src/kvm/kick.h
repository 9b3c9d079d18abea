/* kick.h - the signal that gets a thread out of the guest, out of a wait or to what it has to end.
 */
#ifndef MK_KICK_H
#define MK_KICK_H

#include "base/err.h"
#include "base/util.h"

/* The signal that kicks: SIGRTMIN + 6, unless another one was chosen before the first setup. */
int mk_kick_signal(void);
int mk_kick_set_signal(int number, struct mk_err *err);
/* Prepares the process for kicks: a handler for the signal, once. */
int mk_kick_init(struct mk_err *err);
/* Lets the signal into the calling thread; true when it was blocked there. Blocks it again. */
bool mk_kick_unblock(void);
void mk_kick_block(void);
/* While somebody wants it, the signal breaks system calls off instead of restarting them: what a
 * thread that is to end is blocked in. */
void mk_kick_interrupt_syscalls(bool wanted);

/* Between the two, fn(ctx) is called on this thread in the signal's handler. */
struct mk_kick_handler {
    void (*fn)(void *ctx);
    void *ctx;
    struct mk_kick_handler *below;
};
void mk_kick_add_handler(struct mk_kick_handler *w);
void mk_kick_remove_handler(struct mk_kick_handler *w);

#endif
