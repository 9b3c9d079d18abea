/* parent.c - see parent.h.
 *
 * The child leads a session of its own, so it has no terminal: Ctrl-C comes to the parent, which
 * hands it on. It has /dev/null on stdin, and dies with its parent (prctl(2), PR_SET_PDEATHSIG),
 * which a filter keeps it from changing. The parent kills by SIGKILL and reads nothing from the
 * child but the page that they share. Where there is a folder to be removed, a third process, the
 * guard, waits for the parent's death, for kill -9's sake. */
#include "lua/parent.h"

#include "base/util.h"
#include "files/fsbox_in.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define REMOVALS 200            /* tries of the guard, 10 ms apart: the child dies meanwhile */
#define LIBRARIES (24ull << 20) /* address space of those that are loaded when needed */
#define STACK (768u << 10)      /* of the script's thread: what Lua's limits on recursion take */
#define START_NS 5000000000u    /* the script begins so late at the most */
#define START_STEP_NS 10000000u
#define SAY_MS 1000 /* nobody need read what is said */

/* After each question where the script is; its process seldom needs the last ones. */
static const long waits_ms[] = { 20, 50, 500, 999 };
static const int handed_on[] = { SIGINT, SIGTSTP };
static const int endings[] = { SIGTERM, SIGHUP, SIGQUIT };

struct parent {
    pid_t child, guard;
    struct mk_parent_page *page;
    uint64_t from, until;
    bool has_begun;
    sigset_t waited, before;
    struct termios modes[3];
    bool terminal[3];
    int ending; /* the signal that ends the parent, too */
    bool time_up;
};

/* --- processes --- */

/* Only its parent's end sends this signal. */
bool mk_guard_wait(pid_t parent)
{
    sigset_t all, orphaned;
    int number;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&orphaned);
    sigaddset(&orphaned, SIGRTMAX);
    close_range(0, ~0u, 0);
    if (prctl(PR_SET_PDEATHSIG, SIGRTMAX) < 0)
        return false;
    if (getppid() == parent)
        sigwait(&orphaned, &number);
    return true;
}

int mk_end_child(pid_t pid)
{
    int status = 0;
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

/* --- the terminal --- */

static void note_terminal(struct parent *p)
{
    for (int fd = 0; fd < 3; fd++)
        p->terminal[fd] = tcgetattr(fd, &p->modes[fd]) == 0;
}

/* Whatever the child did to it. SIGTTOU is blocked: a parent in the background changes nothing
 * unless the child did. */
static void restore_terminal(const struct parent *p)
{
    struct termios now;
    for (int fd = 0; fd < 3; fd++)
        if (p->terminal[fd] && tcgetattr(fd, &now) == 0 &&
            memcmp(&now, &p->modes[fd], sizeof(now)) != 0)
            tcsetattr(fd, TCSANOW, &p->modes[fd]);
}

/* --- the folder --- */

static void remove_folder(const char *path)
{
    int dir = path[0] ? open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (dir < 0)
        return;
    mk_path_empty(dir);
    close(dir);
    rmdir(path);
}

/* In the guard. The page has the folder's name before the folder is made. */
static _Noreturn void guard_folder(const struct mk_parent_page *page, pid_t parent)
{
    setsid();
    if (!mk_guard_wait(parent))
        _exit(1);
    for (int i = 0; i < REMOVALS && access(page->folder, F_OK) == 0; i++) {
        remove_folder(page->folder);
        usleep(10000);
    }
    _exit(0);
}

static int make_folder(struct parent *p, struct mk_err *err)
{
    const char *tmp = getenv("TMPDIR"), *below = tmp && *tmp ? tmp : "/tmp";
    pid_t self = getpid();
    if (strlen(below) + sizeof("/minikvm-XXXXXX") > sizeof(p->page->folder))
        return mk_fail_errno(err, ENAMETOOLONG, "TMPDIR");
    p->guard = fork();
    if (p->guard == 0)
        guard_folder(p->page, self);
    if (p->guard < 0)
        return mk_fail_errno(err, errno, "fork");
    sprintf(p->page->folder, "%s/minikvm-XXXXXX", below);
    if (!mkdtemp(p->page->folder)) {
        p->page->folder[0] = 0;
        return mk_fail_errno(err, errno, "%s: a folder for private files", below);
    }
    return 0;
}

static void clear_away(const struct parent *p)
{
    restore_terminal(p);
    remove_folder(p->page->folder);
    if (p->guard > 0)
        mk_end_child(p->guard);
}

/* --- in the child --- */

static uint64_t address_space(void)
{
    char text[64] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    return n > 0 ? strtoull(text, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* A stack that cannot grow ends the process: it grows before there is a limit. */
static void __attribute__((noinline)) grow_stack(void)
{
    volatile char deep[STACK];
    deep[0] = 0;
    (void)deep[0];
}

/* Address space is what counts all: Lua, guests' RAM, snapshots, stacks, rings. A sanitizer's
 * shadow has no room below any limit. */
static int limit_memory(uint64_t bytes, struct mk_err *err)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    struct rlimit limit;
    grow_stack();
    mallopt(M_ARENA_MAX, 1); /* others reserve 64 MiB each */
    limit.rlim_cur = limit.rlim_max = address_space() + LIBRARIES + bytes;
    if (setrlimit(RLIMIT_AS, &limit) < 0)
        return mk_fail_errno(err, errno, "memory");
#else
    (void)bytes;
    (void)address_space;
    (void)grow_stack;
    (void)err;
#endif
    return 0;
}

static int begin_child(const struct parent *p, const struct mk_parent_grant *grant, pid_t parent,
                       struct mk_err *err)
{
    int nothing = open("/dev/null", O_RDONLY);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || nothing < 0 || dup2(nothing, STDIN_FILENO) < 0)
        return mk_fail_errno(err, errno, "--safe");
    if (nothing > STDIN_FILENO)
        close(nothing);
    if (getppid() != parent)
        _exit(EXIT_FAILURE); /* it died before it could be said */
    setsid();
    pthread_sigmask(SIG_SETMASK, &p->before, NULL);
    return limit_memory(grant->memory, err);
}

/* --- the end of the child --- */

static bool has_ended(const struct parent *p, int *status)
{
    pid_t got;
    while ((got = waitpid(p->child, status, WNOHANG)) < 0 && errno == EINTR)
        ;
    return got != 0;
}

/* It tells where it is and ends itself, or is ended. */
static void end_in_time(struct parent *p, int *status)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    p->time_up = true;
    for (size_t i = 0; i < MK_COUNT(waits_ms); i++) {
        struct timespec wait = { 0, waits_ms[i] * 1000000L };
        syscall(SYS_tgkill, p->child, p->child, MK_PARENT_SIGNAL);
        sigtimedwait(&child, NULL, &wait);
        if (has_ended(p, status))
            return;
    }
    *status = mk_end_child(p->child);
}

static void stop_both(struct parent *p)
{
    uint64_t from = mk_now();
    kill(p->child, SIGSTOP);
    raise(SIGSTOP);
    kill(p->child, SIGCONT);
    p->from += mk_now() - from; /* that was not its time */
    p->until += mk_now() - from;
}

/* The script's time begins with the script, up to START_NS late: a host may be busy. Looked at
 * once, for the script can write there, too. */
static bool has_more_time(struct parent *p, uint64_t ns)
{
    uint64_t now = mk_now(), began = p->page->began;
    if (p->has_begun || ns == UINT64_MAX)
        return now < p->until;
    if (!began && now < p->from + START_NS) {
        p->until = now + START_STEP_NS;
        return true;
    }
    if (began < p->from || began > p->from + START_NS)
        began = p->from;
    p->has_begun = true;
    p->until = began + ns;
    return now < p->until;
}

static void wait_for_child(struct parent *p, uint64_t ns, int *status)
{
    siginfo_t info;
    while (!has_ended(p, status)) {
        uint64_t now = mk_now(), left = p->until > now ? p->until - now : 0;
        struct timespec wait = { (time_t)(left / 1000000000u), (long)(left % 1000000000u) };
        int number = left ? sigtimedwait(&p->waited, &info, &wait) : 0;
        if (number == SIGINT)
            kill(p->child, SIGINT);
        else if (number == SIGTSTP)
            stop_both(p);
        else if (number > 0 && number != SIGCHLD) {
            p->ending = number;
            *status = mk_end_child(p->child);
            return;
        } else if (mk_now() >= p->until && !has_more_time(p, ns)) {
            end_in_time(p, status);
            return;
        }
    }
}

/* --- what is said of it --- */

/* The page's text may be anybody's. */
static void copy_printable(char *to, const char *from, size_t size)
{
    size_t i = 0;
    for (; i + 1 < size && from[i]; i++)
        to[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7f ? '?' : from[i];
    to[i] = 0;
}

static void say(const char *text)
{
    struct pollfd out = { .fd = STDERR_FILENO, .events = POLLOUT };
    if (poll(&out, 1, SAY_MS) > 0 && write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody reads */
}

static void tell_time(const struct parent *p, uint64_t ns)
{
    char where[sizeof(p->page->where)], text[400];
    copy_printable(where, p->page->where, sizeof(where));
    snprintf(text, sizeof(text), "minikvm: %s%sthe script's time is up: %g s (--seconds)\n", where,
             where[0] ? ": " : "", (double)ns / 1e9);
    say(text);
}

static void tell_signal(int number)
{
    char text[200];
    const char *name = sigabbrev_np(number);
    snprintf(text, sizeof(text), "minikvm: the script's process was ended by SIG%s%s\n",
             name ? name : "?", number == SIGKILL ? ": by somebody, or for want of memory" : "");
    say(text);
}

/* As if there had been no parent. */
static void end_by(int number)
{
    sigset_t set;
    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    raise(number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static int conclude(const struct parent *p, const struct mk_parent_grant *grant, int status)
{
    if (p->ending)
        end_by(p->ending);
    if (p->time_up) {
        tell_time(p, grant->ns);
        return EXIT_FAILURE;
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    if (WTERMSIG(status) == SIGINT)
        end_by(SIGINT);
    if (WTERMSIG(status) != SIGPIPE)
        tell_signal(WTERMSIG(status));
    return 128 + WTERMSIG(status);
}

/* --- the whole --- */

static bool is_ignored(int number)
{
    struct sigaction now;
    return sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

/* What nohup(1) has set aside stays so. */
static void block_signals(struct parent *p)
{
    sigset_t blocked;
    sigemptyset(&p->waited);
    signal(SIGCHLD, SIG_DFL);
    sigaddset(&p->waited, SIGCHLD);
    for (size_t i = 0; i < MK_COUNT(handed_on); i++)
        if (handed_on[i] == SIGINT || !is_ignored(handed_on[i]))
            sigaddset(&p->waited, handed_on[i]);
    for (size_t i = 0; i < MK_COUNT(endings); i++)
        if (!is_ignored(endings[i]))
            sigaddset(&p->waited, endings[i]);
    blocked = p->waited;
    sigaddset(&blocked, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &blocked, &p->before);
}

int mk_parent_start(const struct mk_parent_grant *grant, struct mk_parent_page **page, int *status,
                    struct mk_err *err)
{
    struct parent p = { .from = mk_now(), .until = mk_time_in(grant->ns) };
    pid_t self = getpid();
    p.page = mmap(NULL, sizeof(*p.page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p.page == MAP_FAILED)
        return mk_fail_errno(err, errno, "--safe");
    *page = p.page;
    fflush(NULL);
    note_terminal(&p);
    block_signals(&p);
    int rc = grant->files ? make_folder(&p, err) : 0;
    if (rc == 0 && (p.child = fork()) == 0)
        return begin_child(&p, grant, self, err);
    if (rc == 0 && p.child < 0)
        rc = mk_fail_errno(err, errno, "fork");
    if (rc == 0)
        wait_for_child(&p, grant->ns, status);
    clear_away(&p);
    if (rc == 0)
        *status = conclude(&p, grant, *status);
    pthread_sigmask(SIG_SETMASK, &p.before, NULL);
    munmap(p.page, sizeof(*p.page));
    return rc == 0 ? 1 : -1;
}
