/* process.c - processes that a script starts, listens to and ends: what the test runner needs.
 *
 * core.children() owns them. Each child leads a process group of its own, with nothing on stdin,
 * its output in one pipe and what it reports on descriptor 3 in another. The group is killed as a
 * whole when its leader has ended, by kill() and by close(). A guard, a process in the same group
 * that does nothing else, kills it when the thread that started it ends (prctl(2),
 * PR_SET_PDEATHSIG), however that came about. While the object is open, SIGINT, SIGTERM and SIGHUP
 * are blocked in its thread and arrive as events (signalfd(2)). Script's thread only. At most
 * MAX_CHILDREN at a time. */
#include "files/outfile.h"
#include "lua/core.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MK_CHILDREN "minikvm.children"

enum { MAX_CHILDREN = 64, CHUNK = 16384, REPORT_FD = 3, ABOVE_ALL = 10 };
enum { OUTPUT, REPORT, ENDED, SOURCES };
#define LAST_WORDS (1u << 20) /* bytes that are still read of a child that has ended */

struct child {
    pid_t pid; /* 0: free */
    pid_t guardian;
    bool gone; /* its group has been killed; not yet reaped */
    size_t budget;
    int fd[SOURCES]; /* two pipes and a pidfd; -1: at its end */
};

struct children {
    bool open;
    int next; /* the child that is looked at first: one that never stops leaves room for the others
               */
    int signals;
    sigset_t mask_before;
    struct child child[MAX_CHILDREN];
};

/* What a new process needs to know; made before fork(). */
struct launch {
    char **argv, **env;
    pid_t parent;
    int output, report;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static struct children *check_children(lua_State *L)
{
    struct children *c = luaL_checkudata(L, 1, MK_CHILDREN);
    if (!c->open)
        mk_lua_error(L, "the children object is closed");
    return c;
}

static struct child *check_child(lua_State *L, struct children *c)
{
    lua_Integer number = luaL_checkinteger(L, 2);
    luaL_argcheck(L, number >= 1 && number <= MAX_CHILDREN && c->child[number - 1].pid, 2,
                  "no such child");
    return &c->child[number - 1];
}

/* ---- starting ---- */

/* Pushes a NULL-terminated array of the strings in the list at `index`, which keeps them alive. */
static char **push_strings(lua_State *L, int index)
{
    luaL_checktype(L, index, LUA_TTABLE);
    lua_Integer count = luaL_len(L, index);
    luaL_argcheck(L, count >= 0 && count < 65536, index, "too many strings");
    char **list = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof(*list), 0);
    for (lua_Integer i = 0; i < count; i++) {
        lua_geti(L, index, i + 1);
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, index, "a list of strings is needed");
        list[i] = (char *)lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    list[count] = NULL;
    return list;
}

/* Ends a group and forgets it. Returns the leader's status, as of wait(2). */
static int end_group(pid_t leader, pid_t guardian)
{
    int status = 0;
    kill(-leader, SIGKILL);
    while (waitpid(leader, &status, 0) < 0 && errno == EINTR)
        ;
    if (guardian > 0) {
        kill(guardian, SIGKILL); /* it may not have joined the group yet */
        while (waitpid(guardian, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    return status;
}

/* In the new process: calls that are safe after fork() only. The pipes move out of the way first,
 * because they may have any number. */
static _Noreturn void exec_child(const struct launch *l)
{
    sigset_t none;
    int output = fcntl(l->output, F_DUPFD_CLOEXEC, ABOVE_ALL);
    int report = fcntl(l->report, F_DUPFD_CLOEXEC, ABOVE_ALL);
    int nothing = open("/dev/null", O_RDONLY);
    setpgid(0, 0);
    if (nothing > STDIN_FILENO)
        dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    dup2(report, REPORT_FD);
    sigemptyset(&none); /* whoever started us may have blocked some */
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(l->argv[0], l->argv, l->env);
    static const char message[] = "cannot be executed\n";
    if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
        _exit(126);
    _exit(127);
}

/* In the guard: waits for the end of its parent, which is the only one to send this signal. */
static _Noreturn void wait_for_parent(pid_t group, pid_t parent)
{
    sigset_t all, orphaned;
    int number;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&orphaned);
    sigaddset(&orphaned, SIGRTMAX);
    close_range(0, ~0u, 0); /* the pipes above all */
    if (setpgid(0, group) < 0 || prctl(PR_SET_PDEATHSIG, SIGRTMAX) < 0)
        _exit(1);
    if (getppid() == parent)
        sigwait(&orphaned, &number);
    kill(0, SIGKILL);
    _exit(0);
}

static int start(struct child *child, struct launch *l, struct mk_err *err)
{
    int output[2] = { -1, -1 }, report[2] = { -1, -1 }, status = -1;
    pid_t pid, guardian;
    if (pipe2(output, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0) {
        mk_fail_errno(err, errno, "pipe");
        goto out;
    }
    l->output = output[1];
    l->report = report[1];
    l->parent = getpid();
    pid = fork();
    if (pid == 0)
        exec_child(l);
    if (pid < 0) {
        mk_fail_errno(err, errno, "fork");
        goto out;
    }
    setpgid(pid, pid); /* both do it: whoever comes first */
    guardian = fork();
    if (guardian == 0)
        wait_for_parent(pid, l->parent);
    int pidfd = guardian < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        mk_fail_errno(err, errno, guardian < 0 ? "fork" : "pidfd_open");
        end_group(pid, guardian);
        goto out;
    }
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    fcntl(report[0], F_SETFL, O_NONBLOCK);
    *child = (struct child){ .pid = pid,
                             .guardian = guardian,
                             .budget = LAST_WORDS,
                             .fd = { output[0], report[0], pidfd } };
    output[0] = report[0] = -1;
    status = 0;
out:
    for (int i = 0; i < 2; i++) {
        close_fd(&output[i]);
        close_fd(&report[i]);
    }
    return status;
}

/* children:spawn(argv, env) -> number | nil, why, code. argv[1] is a path, env of "NAME=value". */
static int children_spawn(lua_State *L)
{
    struct children *c = check_children(L);
    struct launch l = { .argv = push_strings(L, 2), .env = push_strings(L, 3) };
    luaL_argcheck(L, l.argv[0], 2, "the list is empty");
    struct mk_err err;
    int i = 0;
    while (i < MAX_CHILDREN && c->child[i].pid)
        i++;
    if (i == MAX_CHILDREN) {
        mk_fail(&err, EAGAIN, "there are %d children already", MAX_CHILDREN);
        return mk_push_err(L, &err);
    }
    if (start(&c->child[i], &l, &err) < 0)
        return mk_push_err(L, &err);
    lua_pushinteger(L, i + 1);
    return 1;
}

/* ---- listening ---- */

/* Lets go of an ended child. Its number is free again. */
static int push_end(lua_State *L, struct child *child, int number)
{
    int status = end_group(child->pid, child->guardian);
    for (int i = 0; i < SOURCES; i++)
        close_fd(&child->fd[i]);
    child->pid = 0;
    lua_pushliteral(L, "ended");
    lua_pushinteger(L, number);
    lua_pushstring(L, WIFSIGNALED(status) ? "signal" : "exit");
    lua_pushinteger(L, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return 4;
}

/* Pushes what there is to read in one of the pipes; 0: nothing. */
static int push_bytes(lua_State *L, struct child *child, int source, int number)
{
    char buffer[CHUNK];
    ssize_t got = child->fd[source] < 0 ? -1 : read(child->fd[source], buffer, sizeof(buffer));
    if (got == 0)
        close_fd(&child->fd[source]);
    if (got <= 0)
        return 0;
    if (child->gone)
        child->budget = child->budget > (size_t)got ? child->budget - (size_t)got : 0;
    lua_pushstring(L, source == OUTPUT ? "output" : "report");
    lua_pushinteger(L, number);
    lua_pushlstring(L, buffer, (size_t)got);
    return 3;
}

/* What it wrote comes before its end; the rest of its group does not outlive it. */
static int push_child(lua_State *L, struct child *child, const struct pollfd *ready, int number)
{
    if (ready[ENDED].revents && !child->gone) {
        kill(-child->pid, SIGKILL);
        child->gone = true;
    }
    for (int source = OUTPUT; source <= REPORT && child->budget > 0; source++) {
        int pushed =
            ready[source].revents || child->gone ? push_bytes(L, child, source, number) : 0;
        if (pushed)
            return pushed;
    }
    return child->gone ? push_end(L, child, number) : 0;
}

static int push_signal(lua_State *L, struct children *c)
{
    struct signalfd_siginfo info;
    if (read(c->signals, &info, sizeof(info)) != sizeof(info))
        return 0;
    lua_pushliteral(L, "signal");
    lua_pushfstring(L, "SIG%s", sigabbrev_np((int)info.ssi_signo));
    return 2;
}

static int push_event(lua_State *L, struct children *c, const struct pollfd *ready)
{
    int pushed = ready[0].revents ? push_signal(L, c) : 0;
    for (int n = 0; n < MAX_CHILDREN && !pushed; n++) {
        int i = c->next;
        c->next = (i + 1) % MAX_CHILDREN;
        if (c->child[i].pid)
            pushed = push_child(L, &c->child[i], ready + 1 + i * SOURCES, i + 1);
    }
    return pushed;
}

static void fill_pollfds(const struct children *c, struct pollfd *list)
{
    list[0] = (struct pollfd){ .fd = c->signals, .events = POLLIN };
    for (int i = 0; i < MAX_CHILDREN; i++)
        for (int s = 0; s < SOURCES; s++) {
            const struct child *child = &c->child[i];
            list[1 + i * SOURCES + s] =
                (struct pollfd){ .fd = child->pid ? child->fd[s] : -1, .events = POLLIN };
        }
}

/* children:next(seconds) -> "output"|"report", number, bytes | "ended", number, "exit"|"signal",
 * status | "signal", name | nothing when the time is up */
static int children_next(lua_State *L)
{
    struct children *c = check_children(L);
    uint64_t ns = mk_check_seconds(L, 2);
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_lua_context context;
    mk_check_outside_handler(L, "children:next()");
    uint64_t now = mk_now(), until = ns > MK_FOREVER - now ? MK_FOREVER : now + ns;
    for (int pushed = 0;; now = mk_now()) {
        struct pollfd list[1 + MAX_CHILDREN * SOURCES];
        fill_pollfds(c, list);
        uint64_t left = until > now ? until - now : 0;
        struct timespec wait = { (time_t)(left / 1000000000u), (long)(left % 1000000000u) };
        mk_lua_begin_blocking(lua, &context);
        int ready = ppoll(list, MK_COUNT(list), &wait, NULL);
        mk_lua_end_blocking(lua, &context);
        if (ready > 0)
            pushed = push_event(L, c, list);
        if (pushed || left == 0 || (ready < 0 && errno != EINTR))
            return pushed;
    }
}

/* ---- ending ---- */

/* children:kill(number): the whole group, at once. Its end is still to come as an event. */
static int children_kill(lua_State *L)
{
    struct child *child = check_child(L, check_children(L));
    kill(-child->pid, SIGKILL);
    return 0;
}

static int children_close(lua_State *L)
{
    struct children *c = luaL_checkudata(L, 1, MK_CHILDREN);
    if (!c->open)
        return 0;
    c->open = false;
    for (int i = 0; i < MAX_CHILDREN; i++)
        if (c->child[i].pid)
            kill(-c->child[i].pid, SIGKILL);
    for (int i = 0; i < MAX_CHILDREN; i++)
        if (c->child[i].pid) {
            push_end(L, &c->child[i], i + 1);
            lua_settop(L, 1);
        }
    close_fd(&c->signals);
    pthread_sigmask(SIG_SETMASK, &c->mask_before, NULL);
    return 0;
}

/* children() -> object | nil, why, code */
static int new_children(lua_State *L)
{
    struct children *c = lua_newuserdatauv(L, sizeof(*c), 0);
    memset(c, 0, sizeof(*c));
    luaL_setmetatable(L, MK_CHILDREN);
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGHUP);
    c->signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    if (c->signals < 0) {
        struct mk_err err;
        mk_fail_errno(&err, errno, "signalfd");
        return mk_push_err(L, &err);
    }
    pthread_sigmask(SIG_BLOCK, &wanted, &c->mask_before);
    c->open = true;
    return 1;
}

/* ---- about this process ---- */

/* process() -> { pid=, program= (its path), cpus= (that it may use), terminal= (stdout is one) } */
static int process_info(lua_State *L)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
    cpu_set_t cpus;
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, getpid());
    lua_setfield(L, -2, "pid");
    if (length > 0) {
        lua_pushlstring(L, path, (size_t)length);
        lua_setfield(L, -2, "program");
    }
    lua_pushinteger(L, sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1);
    lua_setfield(L, -2, "cpus");
    lua_pushboolean(L, isatty(STDOUT_FILENO));
    lua_setfield(L, -2, "terminal");
    return 1;
}

/* environment() -> a list of "NAME=value" */
static int environment(lua_State *L)
{
    lua_newtable(L);
    for (int i = 0; environ && environ[i]; i++) {
        lua_pushstring(L, environ[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* write_file(path, bytes) -> true | nil, why, code. As outfile.c does it. */
static int write_file(lua_State *L)
{
    size_t length;
    const char *path = mk_check_cstring(L, 1), *bytes = luaL_checklstring(L, 2, &length);
    struct mk_outfile file;
    struct mk_err err;
    int code = 0;
    if (mk_outfile_open(&file, path, &err) < 0)
        return mk_push_err(L, &err);
    code = mk_outfile_close(&file, mk_outfile_write(&file, bytes, length));
    if (code) {
        mk_fail_errno(&err, code, "%s", path);
        return mk_push_err(L, &err);
    }
    lua_pushboolean(L, 1);
    return 1;
}

void mk_open_process(lua_State *L)
{
    static const luaL_Reg meta[] = { { "__gc", children_close },
                                     { "__close", children_close },
                                     { NULL, NULL } };
    static const luaL_Reg methods[] = { { "spawn", children_spawn },
                                        { "next", children_next },
                                        { "kill", children_kill },
                                        { "close", children_close },
                                        { NULL, NULL } };
    static const luaL_Reg functions[] = { { "children", new_children },
                                          { "process", process_info },
                                          { "environment", environment },
                                          { "write_file", write_file },
                                          { NULL, NULL } };
    mk_new_type(L, MK_CHILDREN, meta, methods);
    luaL_setfuncs(L, functions, 0);
}
