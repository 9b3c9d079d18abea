/* tty.c - raw terminal mode that never outlives the process.
 *
 * A process has one controlling terminal, and a signal handler gets no argument of ours: therefore
 * this file keeps process-wide state (`tty`), the only place of the core that does. Handlers are
 * installed only while the terminal is raw, only over default dispositions (an ignored signal stays
 * ignored, a program's own handler stays in charge and may call mk_tty_restore), and restored
 * after. Fatal faults are the exception: those are taken over in any case and handed on. SIGKILL
 * cannot be caught: `stty sane` remains. References: termios(3), signal-safety(7). */
#include "io/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* Signals that end a process and so must restore first. Raw mode makes no SIGINT and SIGQUIT from
 * keys, but others can send them. */
static const struct {
    int number;
    bool fault; /* raised by an instruction: taken over even from a handler (a sanitizer's, say) */
} endings[] = {
    { SIGINT, false },  { SIGTERM, false }, { SIGHUP, false }, { SIGQUIT, false },
    { SIGPIPE, false }, { SIGABRT, true },  { SIGSEGV, true }, { SIGBUS, true },
    { SIGFPE, true },   { SIGILL, true },
};

#define ENDINGS MK_COUNT(endings)
#define STOP ENDINGS       /* slot of SIGTSTP */
#define CONT (ENDINGS + 1) /* slot of SIGCONT */

enum { COOKED, CHANGING, RAW };

static struct {
    atomic_int state;
    int fd;
    pid_t owner; /* a forked child's exit must not touch the parent's terminal */
    bool at_exit;
    struct termios before, raw;
    char farewell[MK_TTY_FAREWELL];
    _Atomic size_t farewell_length;
    struct sigaction old[ENDINGS + 2];
    bool taken[ENDINGS + 2];
} tty;

/* Setting modes from the background would stop the process (SIGTTOU) or spoil the shell's terminal.
 * With no controlling terminal there is no job control and nobody to disturb. */
static bool in_foreground(void)
{
    pid_t group = tcgetpgrp(tty.fd);
    return group == -1 || group == getpgrp();
}

static void set_modes(const struct termios *modes)
{
    if (in_foreground())
        tcsetattr(tty.fd, TCSANOW, modes);
}

static void restore_modes(void)
{
    size_t length = atomic_load(&tty.farewell_length);
    if (length && in_foreground() && write(STDOUT_FILENO, tty.farewell, length) < 0)
        return; /* it has gone, and its modes too */
    set_modes(&tty.before);
}

/* A faulting instruction is run again and faults into the old disposition, with the right address
 * for a debugger; anything else has to be sent again. */
static bool will_fault_again(int number, const siginfo_t *info)
{
    bool fault = number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL;
    return fault && info->si_code > 0;
}

static void on_ending(int number, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    mk_tty_restore();
    errno = saved;
    if (!will_fault_again(number, info))
        raise(number);
}

static void on_stop(int number)
{
    (void)number;
    int saved = errno;
    if (atomic_load(&tty.state) == RAW)
        restore_modes();
    raise(SIGSTOP);
    errno = saved;
}

/* Also after a SIGSTOP that nobody could see; `fg` sends it with us in the foreground again. */
static void on_continue(int number)
{
    (void)number;
    int saved = errno;
    if (atomic_load(&tty.state) == RAW)
        set_modes(&tty.raw);
    errno = saved;
}

static void install_handler(size_t slot, int number, const struct sigaction *action, bool always)
{
    struct sigaction *old = &tty.old[slot];
    tty.taken[slot] = false;
    if (sigaction(number, NULL, old) == -1)
        return;
    bool defaulted = !(old->sa_flags & SA_SIGINFO) && old->sa_handler == SIG_DFL;
    if (defaulted || always)
        tty.taken[slot] = sigaction(number, action, NULL) == 0;
}

static void install_handlers(void)
{
    struct sigaction ending = { .sa_sigaction = on_ending, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    struct sigaction stop = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
    struct sigaction cont = { .sa_handler = on_continue, .sa_flags = SA_RESTART };
    sigemptyset(&ending.sa_mask);
    sigemptyset(&stop.sa_mask);
    sigemptyset(&cont.sa_mask);
    for (size_t i = 0; i < ENDINGS; i++)
        install_handler(i, endings[i].number, &ending, endings[i].fault);
    install_handler(STOP, SIGTSTP, &stop, false);
    install_handler(CONT, SIGCONT, &cont, false);
}

/* Unless somebody installed another handler meanwhile: that one stays. */
static void restore_handler(size_t slot, int number)
{
    struct sigaction now;
    if (tty.taken[slot] && sigaction(number, NULL, &now) == 0 &&
        (now.sa_sigaction == on_ending || now.sa_handler == on_stop ||
         now.sa_handler == on_continue))
        sigaction(number, &tty.old[slot], NULL);
    tty.taken[slot] = false;
}

static void restore_handlers(void)
{
    for (size_t i = 0; i < ENDINGS; i++)
        restore_handler(i, endings[i].number);
    restore_handler(STOP, SIGTSTP);
    restore_handler(CONT, SIGCONT);
}

static void restore_at_exit(void)
{
    if (getpid() == tty.owner)
        mk_tty_restore();
}

/* cfmakeraw(3) but for OPOST: a guest's "\n" shall return the carriage too. */
static void make_raw(struct termios *modes)
{
    tcflag_t output = modes->c_oflag;
    cfmakeraw(modes);
    modes->c_oflag = output;
    modes->c_cc[VMIN] = 1;
    modes->c_cc[VTIME] = 0;
}

static int enter_raw(int fd, struct mk_err *err)
{
    if (tcgetattr(fd, &tty.before) == -1)
        return mk_fail_errno(err, errno, "terminal (descriptor %d)", fd);
    if (!tty.at_exit && atexit(restore_at_exit) != 0)
        return mk_fail(err, ENOMEM, "terminal: no room for an exit handler");
    tty.at_exit = true;
    tty.fd = fd;
    tty.owner = getpid();
    tty.raw = tty.before;
    make_raw(&tty.raw);
    install_handlers();
    if (tcsetattr(fd, TCSANOW, &tty.raw) == 0)
        return 0;
    int code = errno;
    tcsetattr(fd, TCSANOW, &tty.before);
    restore_handlers();
    return mk_fail_errno(err, code, "terminal (descriptor %d): raw mode", fd);
}

/* A handler that came while the state is CHANGING could do nothing and would end the process half
 * way: let signals wait. On another thread such a handler repeats until the change is done. */
static void block_signals(sigset_t *mask)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, mask);
}

int mk_tty_raw(int fd, struct mk_err *err)
{
    sigset_t mask;
    block_signals(&mask);
    int state = COOKED, result = 0;
    if (atomic_compare_exchange_strong(&tty.state, &state, CHANGING)) {
        result = enter_raw(fd, err);
        atomic_store(&tty.state, result == 0 ? RAW : COOKED);
    } else if (state != RAW || tty.fd != fd) {
        result = mk_fail(err, EBUSY, "terminal: another one is in raw mode; detach that first");
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return result;
}

void mk_tty_restore(void)
{
    sigset_t mask;
    block_signals(&mask);
    int state = RAW;
    if (atomic_compare_exchange_strong(&tty.state, &state, CHANGING)) {
        restore_modes();
        restore_handlers();
        atomic_store(&tty.state, COOKED);
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

void mk_tty_set_farewell(const char *text, size_t length)
{
    atomic_store(&tty.farewell_length, 0);
    if (length > sizeof(tty.farewell))
        return;
    memcpy(tty.farewell, text, length);
    atomic_store(&tty.farewell_length, length);
}

bool mk_tty_size(unsigned *rows, unsigned *columns)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col)
        return false;
    *rows = size.ws_row;
    *columns = size.ws_col;
    return true;
}
