/* repl.c - the interactive prompt: behaves like lua's (Lua 5.4 manual, section 7), with history.
 *
 * A line is tried as an expression first, its values are printed; else it is a statement, which
 * continues on further lines while Lua finds it incomplete. On a terminal libedit edits the lines,
 * loaded when the first one is read; without it they are read as they are. History is kept in
 * $MINIKVM_HISTORY or ~/.minikvm_history, best effort, and not at all when MINIKVM_HISTORY is empty.
 * While it waits for a line, handlers of started VMs run. Ctrl-C at the prompt drops the line. Runs on
 * the main thread only; the static variables exist because a signal handler and libedit have nowhere
 * else to look. */
#include "lua/core.h"
#include "repl.h"

#include <lauxlib.h>

#include <dlfcn.h>
#include <editline/readline.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HISTORY_LINES 1000

enum reading { READ_LINE, READ_END, READ_DROPPED };

static volatile sig_atomic_t dropped;

static void on_interrupt(int number)
{
    (void)number;
    dropped = 1;
}

/* ---- libedit: few runs of the program come to a prompt ---- */

static struct {
    __typeof__(readline) *readline;
    __typeof__(add_history) *add_history;
    __typeof__(write_history) *write_history;
    __typeof__(read_history) *read_history;
    __typeof__(using_history) *using_history;
    __typeof__(stifle_history) *stifle_history;
    __typeof__(rl_bind_key) *bind_key;
    __typeof__(rl_insert) *insert;
    const char **name;
} edit;

/* False when there is no libedit, or nobody at a terminal. */
static bool load_editor(void)
{
    const struct { const char *name; void *to; } symbols[] = {
        { "readline", &edit.readline }, { "add_history", &edit.add_history },
        { "write_history", &edit.write_history }, { "read_history", &edit.read_history },
        { "using_history", &edit.using_history }, { "stifle_history", &edit.stifle_history },
        { "rl_bind_key", &edit.bind_key }, { "rl_insert", &edit.insert },
        { "rl_readline_name", &edit.name } };
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return false;
    void *library = dlopen("libedit.so.2", RTLD_LAZY);
    bool all = library != NULL;
    for (size_t i = 0; all && i < MK_COUNT(symbols); i++)
        all = (*(void **)symbols[i].to = dlsym(library, symbols[i].name)) != NULL;
    return all;
}

/* ---- lines ---- */

static const char *history_path(void)
{
    static char path[4096];
    const char *chosen = getenv("MINIKVM_HISTORY");
    const char *home = getenv("HOME");
    if (chosen)
        return *chosen ? chosen : NULL;
    if (!home || snprintf(path, sizeof(path), "%s/.minikvm_history", home) >= (int)sizeof(path))
        return NULL;
    return path;
}

/* libedit takes the letters of Latin-1 for keys pressed with Meta; those come as ESC and a letter. */
static void take_letters(void)
{
    for (int letter = 0xa0; letter <= 0xff; letter++)
        edit.bind_key(letter, edit.insert);
}

static void open_history(void)
{
    *edit.name = "minikvm";
    edit.using_history();
    take_letters();
    edit.stifle_history(HISTORY_LINES);
    if (history_path())
        edit.read_history(history_path());
}

/* Written after each line: an os.exit or a crash loses nothing. */
static void remember(const char *line)
{
    static char *last;
    if (!*line || (last && strcmp(last, line) == 0))
        return;
    free(last);
    last = strdup(line);
    edit.add_history(line);
    if (history_path())
        edit.write_history(history_path());
}

/* libedit drops bytes that the thread's locale does not know: for the time of a line that is the
 * user's, or UTF-8 where none is set. Lua's own stays "C". */
static locale_t typing_locale(void)
{
    static locale_t typing;
    if (!typing) {
        typing = newlocale(LC_CTYPE_MASK, "", NULL);
        if (!typing || strcmp(nl_langinfo_l(CODESET, typing), "ANSI_X3.4-1968") == 0)
            typing = newlocale(LC_CTYPE_MASK, "C.UTF-8", typing);
    }
    return typing ? typing : LC_GLOBAL_LOCALE;
}

static char *edit_line(const char *prompt)
{
    struct sigaction drop = {.sa_handler = on_interrupt}, old;
    sigemptyset(&drop.sa_mask);
    dropped = 0;
    sigaction(SIGINT, &drop, &old);
    locale_t before = uselocale(typing_locale());
    char *line = edit.readline(prompt);
    uselocale(before);
    sigaction(SIGINT, &old, NULL);
    if (dropped)
        putchar('\n');
    return line;
}

static char *plain_line(const char *prompt)
{
    char *line = NULL;
    size_t room = 0;
    fputs(prompt, stdout);
    fflush(stdout);
    ssize_t length = getline(&line, &room, stdin);
    if (length <= 0) {
        free(line);
        return NULL;
    }
    if (line[length - 1] == '\n')
        line[length - 1] = '\0';
    return line;
}

/* Leaves the prompt's text on the stack: it lives as long as the caller needs it. */
static const char *push_prompt(lua_State *L, bool first)
{
    if (lua_getglobal(L, first ? "_PROMPT" : "_PROMPT2") == LUA_TNIL) {
        lua_pop(L, 1);
        return lua_pushstring(L, first ? "> " : ">> ");
    }
    const char *text = luaL_tolstring(L, -1, NULL);
    lua_remove(L, -2);
    return text;
}

/* Pushes a line when it returns READ_LINE. A leading "=" is an old spelling of "return ". */
static enum reading read_line(lua_State *L, bool first)
{
    const char *prompt = push_prompt(L, first);
    bool terminal = edit.name != NULL;
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_turn turn;
    mk_lua_release(lua, &turn); /* handlers of started VMs run meanwhile */
    char *line = terminal ? edit_line(prompt) : plain_line(prompt);
    mk_lua_acquire(lua, &turn);
    lua_pop(L, 1);
    if (terminal && dropped) {
        free(line);
        return READ_DROPPED;
    }
    if (!line)
        return READ_END;
    if (terminal)
        remember(line);
    if (first && line[0] == '=')
        lua_pushfstring(L, "return %s", line + 1);
    else
        lua_pushstring(L, line);
    free(line);
    return READ_LINE;
}

/* ---- statements ---- */

static int compile(lua_State *L, int text)
{
    size_t length;
    const char *code = lua_tolstring(L, text, &length);
    return luaL_loadbuffer(L, code, length, "=stdin");
}

/* With the line at the top: pushes its function when "return <line>" compiles. */
static bool compile_expression(lua_State *L)
{
    int line = lua_gettop(L);
    lua_pushfstring(L, "return %s", lua_tostring(L, line));
    if (compile(L, line + 1) == LUA_OK) {
        lua_remove(L, line + 1);
        return true;
    }
    lua_settop(L, line);
    return false;
}

static bool is_incomplete(lua_State *L, int status)
{
    static const char mark[] = "<eof>";
    size_t length, tail = sizeof(mark) - 1;
    if (status != LUA_ERRSYNTAX)
        return false;
    const char *message = lua_tolstring(L, -1, &length);
    return length >= tail && strcmp(message + length - tail, mark) == 0;
}

/* With the first line at the top: pushes its function or, with a status, a message. */
static int compile_statement(lua_State *L, enum reading *reading)
{
    int text = lua_gettop(L);
    for (;;) {
        int status = compile(L, text);
        if (!is_incomplete(L, status))
            return status;
        *reading = read_line(L, false);
        if (*reading != READ_LINE)
            return status;
        lua_remove(L, -2); /* the message */
        lua_pushliteral(L, "\n");
        lua_insert(L, -2);
        lua_concat(L, 3);
    }
}

/* Leaves a function (LUA_OK) or a message. */
static int read_statement(lua_State *L, enum reading *reading)
{
    int status = LUA_OK;
    lua_settop(L, 0);
    *reading = read_line(L, true);
    if (*reading != READ_LINE)
        return LUA_OK;
    if (!compile_expression(L))
        status = compile_statement(L, reading);
    lua_remove(L, 1);
    if (*reading == READ_END)
        *reading = READ_LINE; /* the message about the unfinished statement is due */
    return status;
}

static void report(lua_State *L)
{
    const char *message = lua_tostring(L, -1);
    fprintf(stderr, "%s\n", message ? message : "(no message)");
    fflush(stderr);
}

static void print_results(lua_State *L, mk_call_fn *call)
{
    int count = lua_gettop(L);
    if (count == 0)
        return;
    luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
    lua_getglobal(L, "print");
    lua_insert(L, 1);
    if (call(L, count, 0) != LUA_OK)
        report(L);
}

void mk_repl(lua_State *L, mk_call_fn *call)
{
    enum reading reading;
    if (load_editor())
        open_history();
    else
        edit.name = NULL;
    for (;;) {
        int status = read_statement(L, &reading);
        if (reading == READ_END)
            break;
        if (reading == READ_DROPPED)
            continue;
        if (status == LUA_OK)
            status = call(L, 0, LUA_MULTRET);
        if (status == LUA_OK)
            print_results(L, call);
        else
            report(L);
    }
    lua_settop(L, 0);
    putchar('\n');
    fflush(stdout);
}
