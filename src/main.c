/* main.c - the minikvm program: a Lua state with the module built in, and the calls into it.
 *
 * lua/minikvm/cli/interpreter.lua says what the arguments mean. It runs in a coroutine and yields
 * what is to be called, a function and its arguments: that is called on the main thread, so that
 * scripts find there what they find under lua, their calls alone. SIGINT raises "interrupted!" in
 * the running code at the next instruction, a second one ends the process. Output that cannot be
 * written is an error at the end. Everything here belongs to the main thread; the signal handler
 * needs the static variables `target` and `interrupted`. */
#include "io/io.h"
#include "io/tty.h"
#include "line.h"
#include "lua/core.h"
#include "minikvm.h"

#include <lualib.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef MK_VERSION
#error "MK_VERSION comes from the Makefile: -DMK_VERSION='\"1.2.3\"'"
#endif

static const char *program = "minikvm";

static void print_error(const char *message)
{
    fprintf(stderr, "%s: %s\n", program, message);
    fflush(stderr);
}

/* ---- the end ---- */

/* Why what was printed did not all reach its file; NULL: it did. stdio keeps that something failed,
 * not what. */
static const char *output_error(void)
{
    struct pollfd out = { .fd = STDOUT_FILENO };
    bool lost = ferror(stdout) != 0;
    if (fflush(stdout) != 0)
        return strerror(errno);
    int copy = dup(STDOUT_FILENO);    /* VMs that still run may write to descriptor 1 itself */
    if (copy >= 0 && close(copy) < 0) /* some file systems tell only now */
        return strerror(errno);
    if (lost && poll(&out, 1, 0) > 0 && out.revents & POLLERR)
        return strerror(EPIPE); /* a pipe's reader is gone */
    return lost ? "not all could be written" : NULL;
}

/* Runs at exit, whoever called for it: output that is lost must not end with status 0 (POSIX XCU
 * 1.4, "Consequences of Errors"), that on stderr, such as --trace's, included. A reader that has
 * gone away is not worth a word. */
static void check_output(int status, void *unused)
{
    (void)unused;
    const char *why = output_error();
    if (!why && !ferror(stderr))
        return;
    if (why && strcmp(why, strerror(EPIPE)) != 0)
        fprintf(stderr, "%s: standard output: %s\n", program, why);
    _exit(status ? status : EXIT_FAILURE);
}

/* ---- calling Lua ---- */

static lua_State *target; /* what SIGINT interrupts */
static volatile sig_atomic_t interrupted;

static void interrupt_hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "interrupted!");
}

static void on_interrupt(int number)
{
    if (interrupted) {
        mk_tty_restore();
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    interrupted = 1;
    lua_sethook(target, interrupt_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                1);
}

/* No SA_RESTART: calls of the module that wait shall return and see the hook. */
static void handle_interrupts(void (*handler)(int))
{
    struct sigaction action = { .sa_handler = handler };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

static int add_traceback(lua_State *L)
{
    const char *message = lua_tostring(L, 1);
    if (!message) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING)
            return 1;
        message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, message, 1);
    return 1;
}

static void move(lua_State *from, lua_State *to, int count)
{
    if (!lua_checkstack(to, count))
        luaL_error(from, "stack overflow (too many values)");
    lua_xmove(from, to, count);
}

/* Calls the function below `count` - 1 arguments on top of `front`. Leaves there what came of it,
 * and returns how many: true and the results; false, a message with traceback, was it SIGINT. */
static int call(lua_State *L, lua_State *front, int count)
{
    int handler = lua_gettop(L) + 1;
    lua_pushcfunction(L, add_traceback);
    move(front, L, count);
    target = L;
    interrupted = 0;
    handle_interrupts(on_interrupt);
    int status = lua_pcall(L, count - 1, LUA_MULTRET, handler);
    handle_interrupts(SIG_DFL);
    lua_pushboolean(L, status == LUA_OK);
    lua_replace(L, handler);
    if (status == LUA_ERRMEM && mk_safe_refusal()) {
        lua_pop(L, 1); /* it says less */
        lua_pushstring(L, mk_safe_refusal());
    }
    if (status != LUA_OK)
        lua_pushboolean(L, interrupted);
    count = lua_gettop(L) - handler + 1;
    move(L, front, count);
    return count;
}

/* ---- what interpreter.lua gets ---- */

/* say([program,] message): as C prints it, whatever a script did to io.stderr */
static int say(lua_State *L)
{
    if (lua_gettop(L) > 1)
        fprintf(stderr, "%s: ", lua_tostring(L, 1));
    fprintf(stderr, "%s\n", luaL_checkstring(L, -1));
    fflush(stderr);
    return 0;
}

/* part(name) -> the chunk of a part, which needs no module */
static int part(lua_State *L)
{
    mk_lua_part(L, luaL_checkstring(L, 1));
    return 1;
}

/* ignore_environment(): the paths of `require` are then those built in */
static int ignore_environment(lua_State *L)
{
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushnil(L);
    lua_setfield(L, -2, LUA_LOADLIBNAME);
    luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
    return 0;
}

static void push_host(lua_State *L, int argc, char **argv)
{
    static const luaL_Reg functions[] = { { "say", say },
                                          { "part", part },
                                          { "ignore_environment", ignore_environment },
                                          { "open_editor", mk_line_open },
                                          { "read_line", mk_line_read },
                                          { "remember", mk_line_add_history },
                                          { "complete_with", mk_line_complete_with },
                                          { NULL, NULL } };
    luaL_newlib(L, functions);
    lua_createtable(L, argc, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_setfield(L, -2, "argv");
    mk_set_string(L, "program", program);
    mk_set_string(L, "copyright", LUA_COPYRIGHT);
    mk_set_string(L, "version", MK_VERSION);
    mk_set_boolean(L, "terminal", isatty(STDIN_FILENO));
}

/* ---- the whole ---- */

/* What is allocated before the collector first looks for garbage, in KiB: as a start loads parts of
 * the module, it would find none. */
#define GARBAGE_KIB 1024

static void put_collection_off(lua_State *L)
{
    lua_gc(L, LUA_GCSTEP, -GARBAGE_KIB);
}

static int open_module(lua_State *L)
{
    mk_coroutine_open(L); /* this interpreter is our own */
    luaopen_minikvm(L);
    put_collection_off(L); /* starting the collector anew has made it due */
    return 1;
}

static void open_libraries(lua_State *L)
{
    luaL_checkversion(L);
    lua_gc(L, LUA_GCSTOP); /* nothing of this is garbage */
    lua_gc(L, LUA_GCGEN, 0, 0);
    luaL_openlibs(L);
    mk_lua_offer(L, open_module);
}

/* Runs in protected mode, so that running out of memory is a message too. */
static int protected_main(lua_State *L)
{
    int status, count = 1;
    open_libraries(L);
    lua_State *front = lua_newthread(L);
    mk_lua_part(L, "cli.interpreter");
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "main");
    lua_xmove(L, front, 1);
    push_host(front, (int)lua_tointeger(L, 1), lua_touserdata(L, 2));
    lua_gc(L, LUA_GCRESTART);
    put_collection_off(L);
    while ((status = lua_resume(front, L, count, &count)) == LUA_YIELD)
        count = call(L, front, count);
    lua_xmove(front, L, 1);
    return status == LUA_OK ? 1 : lua_error(L);
}

/* A standard descriptor that is closed would be that of the next file that is opened: a guest's
 * output would go into guest RAM, or to KVM. So all three are there; what needs a closed one fails.
 */
static bool open_standard_fds(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* What gcc 12's sanitizers note of the thread-local storage of libraries that are loaded later,
 * such as libdw and libnbd, can be wrong: LeakSanitizer would follow it, ThreadSanitizer clear it,
 * at the end. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZER_OPTIONS __asan_default_options
#else
#define SANITIZER_OPTIONS __tsan_default_options
#endif
__attribute__((visibility("default"), used)) const char *SANITIZER_OPTIONS(void);
const char *SANITIZER_OPTIONS(void)
{
    return "intercept_tls_get_addr=0";
}
#endif

#ifdef __SANITIZE_ADDRESS__ /* which would find leaks */
#define close_state lua_close
#else
/* The process ends: what finalizers still allocate is given to them, memory that is freed goes with
 * the rest. */
struct last_allocator {
    lua_Alloc below;
    void *ud;
};

static void *allocate_last(void *ud, void *block, size_t old_size, size_t new_size)
{
    const struct last_allocator *a = ud;
    return new_size ? a->below(a->ud, block, old_size, new_size) : NULL;
}

/* Runs finalizers, as lua_close() does. */
static void close_state(lua_State *L)
{
    static struct last_allocator last;
    last.below = lua_getallocf(L, &last.ud);
    lua_setallocf(L, allocate_last, &last);
    lua_close(L);
}
#endif

/* minikvm run wants KVM at once, unless there is to be a jail before that, or no image. */
static bool wants_kvm(int argc, char **argv)
{
    bool wants = argc > 2 && strcmp(argv[1], "run") == 0;
    for (int i = 2; wants && i < argc; i++)
        wants = strncmp(argv[i], "--jail", 6) != 0 && strncmp(argv[i], "--policy", 8) != 0 &&
                strcmp(argv[i], "--help") != 0;
    return wants;
}

int main(int argc, char **argv)
{
    if (argc > 0 && argv[0][0])
        program = argv[0];
    if (!open_standard_fds())
        return EXIT_FAILURE;
    on_exit(check_output, NULL);
    if (wants_kvm(argc, argv))
        mk_kvm_open_early();
    lua_State *L = luaL_newstate();
    if (!L) {
        print_error("not enough memory for a Lua state");
        return EXIT_FAILURE;
    }
    lua_pushcfunction(L, protected_main);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int status = EXIT_FAILURE;
    if (lua_pcall(L, 2, 1, 0) == LUA_OK)
        status = (int)lua_tointeger(L, -1);
    else
        print_error(lua_isstring(L, -1) ? lua_tostring(L, -1) : "(error message is not a string)");
    mk_io_keep();
    close_state(L);
    return status;
}
