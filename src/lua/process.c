/* process.c - processes and descriptors, for the test runner (lua/minikvm/test/children.lua).
 *
 * A process leads a process group of its own, with nothing on stdin, its output in one pipe and
 * what it reports on descriptor 3 in another. A guardian, a process in the same group that does
 * nothing else, kills it when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), however
 * that came about. Script's thread only. */
#include "files/outfile.h"
#include "lua/core.h"
#include "lua/parent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHUNK = 16384, REPORT_FD = 3, ABOVE_ALL = 10, MOST_FDS = 256 };

struct child {
    pid_t pid, guardian;
    int output, report, pidfd; /* two pipes to read; ready when the process has ended */
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
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
    kill(-leader, SIGKILL);
    int status = mk_end_child(leader);
    if (guardian > 0)
        mk_end_child(guardian); /* it may not have joined the group yet */
    return status;
}

/* Starts argv[0] with these descriptors, no blocked signals and a process group of its own. Returns
 * 0 or an errno value. */
static int start_leader(pid_t *pid, char **argv, char **env, int output, int report)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t none;
    sigemptyset(&none); /* whoever started us may have blocked some */
    posix_spawnattr_init(&how);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&how, &none);
    posix_spawn_file_actions_init(&files);
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC); /* a container may have none */
    int code = posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
    if (!code && nothing >= 0)
        code = posix_spawn_file_actions_adddup2(&files, nothing, STDIN_FILENO);
    if (!code)
        code = posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
    if (!code)
        code = posix_spawn_file_actions_adddup2(&files, report, REPORT_FD);
    if (!code)
        code = posix_spawn(pid, argv[0], &files, &how, argv, env);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&how);
    close_fd(&nothing);
    return code;
}

/* In the guardian. */
static _Noreturn void guard_group(pid_t group, pid_t parent)
{
    if (setpgid(0, group) < 0 || !mk_guard_wait(parent))
        _exit(1);
    kill(0, SIGKILL);
    _exit(0);
}

/* fd[1] is out of the way of the descriptors that a new process gets. */
static int make_pipe(int fd[2])
{
    if (pipe2(fd, O_CLOEXEC) < 0)
        return -1;
    int low = fd[1];
    fd[1] = fcntl(low, F_DUPFD_CLOEXEC, ABOVE_ALL);
    close(low);
    return fd[1] < 0 ? -1 : fcntl(fd[0], F_SETFL, O_NONBLOCK);
}

static int start(struct child *child, char **argv, char **env, struct mk_err *err)
{
    int output[2] = { -1, -1 }, report[2] = { -1, -1 }, status = -1;
    pid_t pid, self = getpid();
    if (make_pipe(output) < 0 || make_pipe(report) < 0) {
        mk_fail_errno(err, errno, "pipe");
        goto out;
    }
    int code = start_leader(&pid, argv, env, output[1], report[1]);
    if (code) {
        mk_fail_errno(err, code, "%s", argv[0]);
        goto out;
    }
    pid_t guardian = fork();
    if (guardian == 0)
        guard_group(pid, self);
    int pidfd = guardian < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        mk_fail_errno(err, errno, guardian < 0 ? "fork" : "pidfd_open");
        end_group(pid, guardian);
        goto out;
    }
    *child = (struct child){ pid, guardian, output[0], report[0], pidfd };
    output[0] = report[0] = -1;
    status = 0;
out:
    for (int i = 0; i < 2; i++) {
        close_fd(&output[i]);
        close_fd(&report[i]);
    }
    return status;
}

/* spawn(argv, env) -> { pid=, guardian=, output=, report=, pidfd= } | nil, why, code. argv[1] is a
 * path, env of "NAME=value". */
static int spawn(lua_State *L)
{
    static const char *const names[] = { "pid", "guardian", "output", "report", "pidfd" };
    char **argv = push_strings(L, 1), **env = push_strings(L, 2);
    luaL_argcheck(L, argv[0], 1, "the list is empty");
    struct child child;
    struct mk_err err;
    lua_createtable(L, 0, 5);
    for (size_t i = 0; i < MK_COUNT(names); i++) /* from here on Lua needs no memory */
        mk_set_integer(L, names[i], 0);
    if (start(&child, argv, env, &err) < 0)
        return mk_push_err(L, &err);
    mk_set_integer(L, "pid", (uint64_t)child.pid);
    mk_set_integer(L, "guardian", (uint64_t)child.guardian);
    mk_set_integer(L, "output", (uint64_t)child.output);
    mk_set_integer(L, "report", (uint64_t)child.report);
    mk_set_integer(L, "pidfd", (uint64_t)child.pidfd);
    return 1;
}

/* kill_group(pid) */
static int kill_group(lua_State *L)
{
    kill(-(pid_t)luaL_checkinteger(L, 1), SIGKILL);
    return 0;
}

/* reap(pid, guardian) -> "exit" | "signal", status: ends both. */
static int reap(lua_State *L)
{
    int status = end_group((pid_t)luaL_checkinteger(L, 1), (pid_t)luaL_checkinteger(L, 2));
    lua_pushstring(L, WIFSIGNALED(status) ? "signal" : "exit");
    lua_pushinteger(L, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return 2;
}

/* ---- listening ---- */

/* poll(list of descriptors, seconds) -> a table with true for each that is ready to read */
static int poll_fds(lua_State *L)
{
    struct pollfd list[MOST_FDS];
    uint64_t ns = mk_check_seconds(L, 2);
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_lua_context context;
    struct timespec wait = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    nfds_t count = (nfds_t)luaL_len(L, 1);
    mk_check_outside_handler(L, "poll");
    luaL_argcheck(L, count <= MOST_FDS, 1, "too many descriptors");
    for (nfds_t i = 0; i < count; i++) {
        lua_geti(L, 1, (lua_Integer)i + 1);
        list[i] = (struct pollfd){ .fd = (int)lua_tointeger(L, -1), .events = POLLIN };
        lua_pop(L, 1);
    }
    mk_lua_begin_blocking(lua, &context);
    int ready = ppoll(list, count, &wait, NULL);
    mk_lua_end_blocking(lua, &context);
    lua_newtable(L);
    for (nfds_t i = 0; ready > 0 && i < count; i++)
        if (list[i].revents) {
            lua_pushboolean(L, 1);
            lua_rawseti(L, -2, list[i].fd);
        }
    return 1;
}

/* read_fd(fd) -> bytes, "" at the end | nil: there are none */
static int read_fd(lua_State *L)
{
    char buffer[CHUNK];
    ssize_t got = read((int)luaL_checkinteger(L, 1), buffer, sizeof(buffer));
    got < 0 ? luaL_pushfail(L) : (void)lua_pushlstring(L, buffer, (size_t)got);
    return 1;
}

/* close_fd(fd) */
static int close_one(lua_State *L)
{
    close((int)luaL_checkinteger(L, 1));
    return 0;
}

/* block_signals() -> descriptor to read_signal(), mask for unblock_signals() | nil, why, code */
static int block_signals(lua_State *L)
{
    sigset_t wanted, before;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGHUP);
    int fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        struct mk_err err;
        mk_fail_errno(&err, errno, "signalfd");
        return mk_push_err(L, &err);
    }
    pthread_sigmask(SIG_BLOCK, &wanted, &before);
    lua_pushinteger(L, fd);
    lua_pushlstring(L, (const char *)&before, sizeof(before));
    return 2;
}

/* unblock_signals(descriptor, mask) */
static int unblock_signals(lua_State *L)
{
    size_t length;
    sigset_t before;
    const char *mask = luaL_checklstring(L, 2, &length);
    luaL_argcheck(L, length == sizeof(before), 2, "not a mask");
    memcpy(&before, mask, sizeof(before));
    close((int)luaL_checkinteger(L, 1));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return 0;
}

/* read_signal(descriptor) -> "SIGINT" | nil */
static int read_signal(lua_State *L)
{
    struct signalfd_siginfo info;
    if (read((int)luaL_checkinteger(L, 1), &info, sizeof(info)) != sizeof(info))
        return 0;
    lua_pushfstring(L, "SIG%s", sigabbrev_np((int)info.ssi_signo));
    return 1;
}

/* ---- about this process ---- */

/* process() -> { pid=, program= (its path), cpus= (that it may use), terminal= (stdout is one),
 * errors= (stderr is one) } */
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
    lua_pushboolean(L, isatty(STDERR_FILENO));
    lua_setfield(L, -2, "errors");
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
    if (mk_outfile_open(&file, path, &err) < 0)
        return mk_push_err(L, &err);
    int code = mk_outfile_close(&file, mk_outfile_write(&file, bytes, length));
    if (code) {
        mk_fail_errno(&err, code, "%s", path);
        return mk_push_err(L, &err);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static const luaL_Reg core[] = { MK_FN(spawn),
                                 MK_FN(kill_group),
                                 MK_FN(reap),
                                 { "poll", poll_fds },
                                 MK_FN(read_fd),
                                 { "close_fd", close_one },
                                 MK_FN(block_signals),
                                 MK_FN(unblock_signals),
                                 MK_FN(read_signal),
                                 { "process", process_info },
                                 MK_FN(environment),
                                 MK_FN(write_file),
                                 MK_END };

MK_EXPORTS = { { .core = core } };
