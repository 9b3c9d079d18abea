/* kick.c - see kick.h. */
#include "kvm/kick.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>

/* In the thread's own block from its start to its end: other variables of a thread that a shared
 * object has come from malloc() at their first use, and the first use may be in the signal's
 * handler, while the thread is inside malloc() or has given them back (ELF Handling For
 * Thread-Local Storage, 3.4). */
#define SIGNAL_SAFE __attribute__((tls_model("initial-exec")))

static __thread struct mk_kick_handler *volatile handlers SIGNAL_SAFE;

static void on_kick(int signal_number)
{
    (void)signal_number;
    int saved = errno;
    for (const struct mk_kick_handler *w = handlers; w; w = w->below)
        w->fn(w->ctx);
    errno = saved;
}

void mk_kick_add_handler(struct mk_kick_handler *w)
{
    w->below = handlers;
    atomic_signal_fence(memory_order_seq_cst);
    handlers = w;
}

void mk_kick_remove_handler(struct mk_kick_handler *w)
{
    if (handlers == w)
        handlers = w->below;
    for (struct mk_kick_handler *above = handlers; above; above = above->below)
        if (above->below == w)
            above->below = w->below;
}

static _Atomic int kick_signal; /* 0: nobody has asked yet */
static _Atomic bool kick_ready;
static _Atomic unsigned kick_breaks; /* threads that want system calls broken off */

int mk_kick_signal(void)
{
    int none = 0;
    atomic_compare_exchange_strong(&kick_signal, &none, SIGRTMIN + 6);
    return atomic_load(&kick_signal);
}

static bool is_ours(int number)
{
    struct sigaction now;
    return sigaction(number, NULL, &now) == 0 &&
           (now.sa_handler == SIG_DFL || now.sa_handler == on_kick);
}

/* Signals that the kernel sends for what a thread itself did cannot be told from kicks. */
int mk_kick_set_signal(int number, struct mk_err *err)
{
    static const int own[] = { SIGILL,  SIGTRAP, SIGABRT, SIGBUS, SIGFPE,
                               SIGKILL, SIGSEGV, SIGSTOP, SIGSYS };
    bool fits = number > 0 && number <= SIGRTMAX && (number < 32 || number >= SIGRTMIN);
    for (size_t i = 0; i < MK_COUNT(own); i++)
        fits = fits && number != own[i];
    if (!fits)
        return mk_fail(err, EINVAL,
                       "signal %d cannot interrupt guests: choose one that the program "
                       "does not use, such as SIGRTMIN + 7 (%d)",
                       number, SIGRTMIN + 7);
    if (kick_ready && number != mk_kick_signal())
        return mk_fail(err, EBUSY,
                       "signal %d interrupts guests already: choose another one before "
                       "the first VM is made",
                       mk_kick_signal());
    if (!is_ours(number))
        return mk_fail(err, EBUSY, "signal %d is in use by this program", number);
    kick_signal = number;
    return 0;
}

/* Programs that own all signals want handlers on the alternate stack, where a thread has one. */
static void install(bool restart)
{
    struct sigaction kick = { .sa_handler = on_kick,
                              .sa_flags = SA_ONSTACK | (restart ? SA_RESTART : 0) };
    sigaction(mk_kick_signal(), &kick, NULL);
}

int mk_kick_init(struct mk_err *err)
{
    if (!is_ours(mk_kick_signal()))
        return mk_fail(err, EBUSY,
                       "signal %d is in use by this program: minikvm needs one to "
                       "interrupt guests; choose another by kvm.signal(number)",
                       mk_kick_signal());
    if (!atomic_exchange(&kick_ready, true))
        install(true);
    return 0;
}

void mk_kick_interrupt_syscalls(bool wanted)
{
    unsigned before =
        wanted ? atomic_fetch_add(&kick_breaks, 1) : atomic_fetch_sub(&kick_breaks, 1);
    if (before == !wanted)
        install(!wanted);
}

static sigset_t kick_set(void)
{
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, mk_kick_signal());
    return kick;
}

void mk_kick_block(void)
{
    sigset_t kick = kick_set();
    pthread_sigmask(SIG_BLOCK, &kick, NULL);
}

bool mk_kick_unblock(void)
{
    sigset_t kick = kick_set(), before;
    pthread_sigmask(SIG_UNBLOCK, &kick, &before);
    return sigismember(&before, mk_kick_signal());
}
