/* main.c - the minikvm program: an interpreter like lua 5.4 with the module built in.
 *
 * Options, the arg table, LUA_INIT, exit statuses and messages are those of lua (Lua 5.4 manual,
 * section 7), except that a wrong option exits with 2, a failing script on stdin with 1. When the
 * first argument is the name of a sub-command, the arguments go to lua/minikvm/cli/init.lua, which
 * also says what is wrong with an option; a script of such a name runs as ./run. Output that cannot
 * be written is an error at the end. Everything here belongs to the main thread. SIGINT raises "interrupted!"
 * in the running code at the next instruction, a second one ends the process; its handler needs the
 * static variables `target` and `interrupted`. */
#include "lua/alloc.h"
#include "lua/core.h"
#include "minikvm.h"
#include "repl.h"
#include "io/tty.h"

#include <lauxlib.h>
#include <lualib.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef MK_VERSION
#error "MK_VERSION comes from the Makefile: -DMK_VERSION='\"1.2.3\"'"
#endif

enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_INTERRUPTED = 130 };

struct options {
    int script; /* index of the script in argv, argc when there is none */
    const char *memory; /* the cap on it, NULL: none */
    bool interactive, version, execute, no_env;
};

static const char *program = "minikvm";

/* ---- messages ---- */

static void complain(const char *message)
{
    fprintf(stderr, "%s: %s\n", program, message);
    fflush(stderr);
}

/* Reports and pops the message of a failed call. */
static bool succeeded(lua_State *L, int status)
{
    if (status == LUA_OK)
        return true;
    const char *message = lua_tostring(L, -1);
    complain(message ? message : "(error message is not a string)");
    lua_pop(L, 1);
    return false;
}

static void print_version(void)
{
    printf("%s\nminikvm %s\n", LUA_COPYRIGHT, MK_VERSION);
    fflush(stdout);
}

/* ---- the end ---- */

/* Why what was printed did not all reach its file; NULL: it did. stdio keeps that something failed,
 * not what. */
static const char *output_error(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    bool lost = ferror(stdout) != 0;
    if (fflush(stdout) != 0)
        return strerror(errno);
    int copy = dup(STDOUT_FILENO); /* VMs that still run may write to descriptor 1 itself */
    if (copy >= 0 && close(copy) < 0) /* some file systems tell only now */
        return strerror(errno);
    if (lost && poll(&out, 1, 0) > 0 && out.revents & POLLERR)
        return strerror(EPIPE); /* a pipe's reader is gone */
    return lost ? "not all could be written" : NULL;
}

/* Runs at exit, whoever called for it: output that is lost must not end with status 0 (POSIX XCU
 * 1.4, "Consequences of Errors"), that on stderr, such as --trace's, included. A reader that has gone
 * away is not worth a word. */
static void check_output(int status, void *unused)
{
    (void)unused;
    const char *why = output_error();
    if (!why && !ferror(stderr))
        return;
    if (why && strcmp(why, strerror(EPIPE)) != 0)
        fprintf(stderr, "%s: standard output: %s\n", program, why);
    _exit(status ? status : STATUS_FAILED);
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
    struct sigaction action = {.sa_handler = handler};
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

static int call(lua_State *L, int nargs, int nresults)
{
    int handler = lua_gettop(L) - nargs;
    lua_pushcfunction(L, add_traceback);
    lua_insert(L, handler);
    target = L;
    interrupted = 0;
    handle_interrupts(on_interrupt);
    int status = lua_pcall(L, nargs, nresults, handler);
    handle_interrupts(SIG_DFL);
    lua_remove(L, handler);
    if (status == LUA_ERRMEM && mk_alloc_refusal(L)) {
        lua_pop(L, 1); /* it says less */
        lua_pushstring(L, mk_alloc_refusal(L));
    }
    return status;
}

static int require_module(lua_State *L, const char *name)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    return call(L, 1, 1);
}

static bool run_chunk(lua_State *L, int load_status)
{
    return succeeded(L, load_status == LUA_OK ? call(L, 0, 0) : load_status);
}

static bool run_string(lua_State *L, const char *code, const char *name)
{
    return run_chunk(L, luaL_loadbuffer(L, code, strlen(code), name));
}

/* ---- options ---- */

/* True when argv[*i] is a valid option; *i moves over its argument. */
static bool read_option(struct options *o, char **argv, int *i)
{
    const char *option = argv[*i];
    bool exact = option[2] == '\0';
    switch (option[1]) {
    case '-':
        if (strcmp(option, "--memory-limit") != 0 || !argv[*i + 1])
            return false;
        o->memory = argv[++*i];
        return true;
    case 'i':
        o->interactive = o->version = true;
        return exact;
    case 'v':
        o->version = true;
        return exact;
    case 'E':
        o->no_env = true;
        return exact;
    case 'W':
        return exact;
    case 'e':
        o->execute = true;
        /* fall through */
    case 'l':
        if (exact)
            ++*i;
        return argv[*i] && !(exact && argv[*i][0] == '-');
    default:
        return false;
    }
}

/* Returns the wrong option, NULL when all are right. */
static const char *read_options(struct options *o, int argc, char **argv)
{
    int i = 1;
    while (i < argc && argv[i][0] == '-' && argv[i][1] != '\0') {
        const char *option = argv[i];
        if (strcmp(option, "--") == 0) {
            i++;
            break;
        }
        if (!read_option(o, argv, &i))
            return option;
        i++;
    }
    o->script = i < argc ? i : argc;
    return NULL;
}

/* -l mod, -l global=mod */
static bool require_into_global(lua_State *L, const char *spec)
{
    const char *equals = strchr(spec, '=');
    if (!succeeded(L, require_module(L, equals ? equals + 1 : spec)))
        return false;
    lua_pushglobaltable(L);
    lua_pushlstring(L, spec, equals ? (size_t)(equals - spec) : strlen(spec));
    lua_pushvalue(L, -3);
    lua_settable(L, -3);
    lua_pop(L, 2);
    return true;
}

/* The module in the global "kvm", unless that is taken: for the prompt, and for -e that speaks of it. */
static bool offer_module(lua_State *L)
{
    bool taken = lua_getglobal(L, "kvm") != LUA_TNIL;
    lua_pop(L, 1);
    return taken || require_into_global(L, "kvm=minikvm");
}

/* The options that act: -e, -l and -W, in the order given. */
static bool act_on_options(lua_State *L, const struct options *o, char **argv)
{
    for (int i = 1; i < o->script; i++) {
        char letter = argv[i][1];
        bool fine = true;
        if (letter == '-')
            i++; /* the value of --memory-limit */
        if (letter == 'W')
            lua_warning(L, "@on", 0);
        if (letter != 'e' && letter != 'l')
            continue;
        const char *value = argv[i][2] ? argv[i] + 2 : argv[++i];
        if (letter == 'e')
            fine = (!strstr(value, "kvm") || offer_module(L)) &&
                   run_string(L, value, "=(command line)");
        else
            fine = require_into_global(L, value);
        if (!fine)
            return false;
    }
    return true;
}

static bool run_init(lua_State *L)
{
    static const char *const names[] = {"=LUA_INIT_" LUA_VERSION_MAJOR "_" LUA_VERSION_MINOR,
                                        "=LUA_INIT"};
    for (size_t i = 0; i < MK_COUNT(names); i++) {
        const char *code = getenv(names[i] + 1);
        if (code && code[0] == '@')
            return run_chunk(L, luaL_loadfile(L, code + 1));
        if (code)
            return run_string(L, code, names[i]);
    }
    return true;
}

/* ---- scripts ---- */

/* arg[0] is the script (the program when there is none), options have negative indices. */
static void set_arg_table(lua_State *L, int argc, char **argv, int script)
{
    int origin = script == argc ? 0 : script;
    lua_createtable(L, argc, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - origin);
    }
    lua_setglobal(L, "arg");
}

static int push_args(lua_State *L)
{
    if (lua_getglobal(L, "arg") != LUA_TTABLE)
        luaL_error(L, "'arg' is not a table");
    int count = (int)luaL_len(L, -1);
    luaL_checkstack(L, count + 3, "too many arguments to script");
    for (int i = 1; i <= count; i++)
        lua_rawgeti(L, -i, i);
    lua_remove(L, -count - 1);
    return count;
}

/* cli.NAME(program, word): what a newcomer may have meant is told in Lua. */
static int advise(lua_State *L, const char *name, const char *word)
{
    int status = require_module(L, "minikvm");
    if (status == LUA_OK)
        status = require_module(L, "minikvm.cli");
    if (status == LUA_OK) {
        lua_getfield(L, -1, name);
        lua_pushstring(L, program);
        lua_pushstring(L, word);
        status = call(L, 2, 1);
    }
    return succeeded(L, status) ? (int)lua_tointeger(L, -1) : STATUS_FAILED;
}

static bool run_script(lua_State *L, char **argv)
{
    bool from_stdin = strcmp(argv[0], "-") == 0 && strcmp(argv[-1], "--") != 0;
    int status = luaL_loadfile(L, from_stdin ? NULL : argv[0]);
    if (status != LUA_OK) {
        succeeded(L, status);
        if (!from_stdin)
            advise(L, "hint", argv[0]);
        return false;
    }
    return succeeded(L, call(L, push_args(L), LUA_MULTRET));
}

static void run_prompt(lua_State *L)
{
    offer_module(L);
    lua_settop(L, 0);
    mk_repl(L, call);
}

/* ---- sub-commands ---- */

static bool is_command(const char *word)
{
    static const char *const commands[] = {"run", "test", "doctor", "completion", "--safe",
                                           "--help", "-h", "--version"};
    for (size_t i = 0; word && i < MK_COUNT(commands); i++)
        if (strcmp(word, commands[i]) == 0)
            return true;
    return false;
}

/* prompt(): for the command line's --prompt */
static int prompt(lua_State *L)
{
    run_prompt(L);
    return 0;
}

/* cli.main(arguments, host): what Lua cannot find out about the host by itself is in `host`. */
static void push_command(lua_State *L, int argc, char **argv)
{
    lua_getfield(L, -1, "main");
    lua_createtable(L, argc - 1, 0);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_createtable(L, 0, 3);
    lua_pushcfunction(L, prompt);
    lua_setfield(L, -2, "prompt");
    lua_pushboolean(L, isatty(STDIN_FILENO));
    lua_setfield(L, -2, "terminal");
    lua_pushliteral(L, MK_VERSION);
    lua_setfield(L, -2, "version");
}

static int run_command(lua_State *L, int argc, char **argv)
{
    int status = require_module(L, "minikvm"); /* brings the parts written in Lua */
    if (status == LUA_OK)
        status = require_module(L, "minikvm.cli");
    if (status == LUA_OK) {
        push_command(L, argc, argv);
        status = call(L, 2, 1);
        mk_script_free(mk_lua_get(L)); /* the time of a script that ran with --safe: its hook */
        lua_sethook(L, NULL, 0, 0);    /* would raise in what we do now, too */
    }
    if (status != LUA_OK && interrupted)
        return STATUS_INTERRUPTED; /* the user knows: no traceback */
    if (!succeeded(L, status))
        return STATUS_FAILED;
    return (int)lua_tointeger(L, -1);
}

/* ---- the whole ---- */

static int open_module(lua_State *L)
{
    mk_coroutine_open(L); /* this interpreter is our own */
    return luaopen_minikvm(L);
}

static void open_libraries(lua_State *L, const struct options *o)
{
    if (o->no_env) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    luaL_checkversion(L);
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, open_module);
    lua_setfield(L, -2, "minikvm");
    lua_pushcfunction(L, luaopen_minikvm_test);
    lua_setfield(L, -2, "minikvm.test");
    lua_settop(L, 0);
    lua_gc(L, LUA_GCGEN, 0, 0);
}

static bool limit_memory(lua_State *L, const char *size)
{
    if (!succeeded(L, require_module(L, "minikvm")))
        return false;
    lua_getfield(L, -1, "limit");
    lua_createtable(L, 0, 1);
    lua_pushstring(L, size);
    lua_setfield(L, -2, "memory");
    bool done = succeeded(L, lua_pcall(L, 1, 0, 0));
    lua_settop(L, 0);
    return done;
}

static int interpret(lua_State *L, const struct options *o, int argc, char **argv)
{
    if (o->memory && !limit_memory(L, o->memory))
        return STATUS_USAGE;
    if (!o->no_env && !run_init(L))
        return STATUS_FAILED;
    if (!act_on_options(L, o, argv))
        return STATUS_FAILED;
    if (o->script < argc && !run_script(L, argv + o->script))
        return STATUS_FAILED;
    lua_settop(L, 0);
    if (o->interactive) {
        run_prompt(L);
    } else if (o->script == argc && !o->execute && !o->version) {
        if (!isatty(STDIN_FILENO))
            return run_chunk(L, luaL_loadfile(L, NULL)) ? STATUS_OK : STATUS_FAILED;
        print_version();
        run_prompt(L);
    }
    return STATUS_OK;
}

/* Runs in protected mode, so that running out of memory is a message too. */
static int protected_main(lua_State *L)
{
    int argc = (int)lua_tointeger(L, 1), status;
    char **argv = lua_touserdata(L, 2);
    struct options o = {.script = argc};
    bool command = argc > 1 && is_command(argv[1]);
    const char *wrong = command ? NULL : read_options(&o, argc, argv);
    lua_settop(L, 0);
    if (o.version && !wrong)
        print_version();
    open_libraries(L, &o);
    set_arg_table(L, argc, argv, o.script);
    if (wrong)
        status = advise(L, "usage_error", wrong);
    else
        status = command ? run_command(L, argc, argv) : interpret(L, &o, argc, argv);
    lua_pushinteger(L, status);
    return 1;
}

/* A standard descriptor that is closed would be that of the next file that is opened: a guest's output
 * would go into guest RAM, or to KVM. So all three are there; what needs a closed one fails. */
static bool occupy_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    if (argc > 0 && argv[0][0])
        program = argv[0];
    if (!occupy_standard())
        return STATUS_FAILED;
    on_exit(check_output, NULL);
    lua_State *L = luaL_newstate();
    if (!L) {
        complain("not enough memory for a Lua state");
        return STATUS_FAILED;
    }
    lua_pushcfunction(L, protected_main);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int status = STATUS_FAILED;
    if (succeeded(L, lua_pcall(L, 2, 1, 0)))
        status = (int)lua_tointeger(L, -1);
    lua_close(L);
    return status;
}
