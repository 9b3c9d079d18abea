/* kick.h - the signal that gets a thread out of the guest, out of a wait or to what it has to end.
 */
#ifndef MK_KICK_H
#define MK_KICK_H

#include "base/err.h"
#include "base/util.h"

/* The signal that kicks: SIGRTMIN + 6, unless another one was chosen before the first setup. */
int mk_kick_signal(void);
int mk_kick_choose(int number, struct mk_err *err);
/* Prepares the process for kicks: a handler for the signal, once. */
int mk_kick_setup(struct mk_err *err);
/* Lets the signal into the calling thread; true when it was blocked there. Blocks it again. */
bool mk_kick_allow(void);
void mk_kick_forbid(void);
/* While somebody wants it, the signal breaks system calls off instead of restarting them: what a
 * thread that is to end is blocked in. */
void mk_kick_break(bool wanted);

/* Between the two, fn(ctx) is called on this thread in the signal's handler. */
struct mk_kick_watch {
    void (*fn)(void *ctx);
    void *ctx;
    struct mk_kick_watch *below;
};
void mk_kick_watch(struct mk_kick_watch *w);
void mk_kick_unwatch(struct mk_kick_watch *w);

#endif
