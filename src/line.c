/* line.c - lines that a user types at the prompt, edited by libedit on a terminal.
 *
 * libedit is loaded by the first prompt: few runs of the program come to one. Without it lines are
 * read as they are. Runs on the main thread only; the static variables exist because a signal
 * handler and libedit have nowhere else to look. */
#include "line.h"
#include "lua/core.h"

#include <dlfcn.h>
#include <editline/readline.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HISTORY_LINES 1000

static volatile sig_atomic_t dropped;

static void on_interrupt(int number)
{
    (void)number;
    dropped = 1;
}

static struct {
    __typeof__(readline) *readline;
    __typeof__(add_history) *add_history;
    __typeof__(write_history) *write_history;
    __typeof__(read_history) *read_history;
    __typeof__(using_history) *using_history;
    __typeof__(stifle_history) *stifle_history;
    __typeof__(rl_bind_key) *bind_key;
    __typeof__(rl_insert) *insert;
    __typeof__(&rl_attempted_completion_function) complete;
    int *complete_over, *append;
    char **buffer;
    const char **name; /* NULL: lines are not edited */
    char *history;     /* the file; NULL: none */
} edit;

/* False when there is no libedit, or nobody at a terminal. */
static bool load_editor(void)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = { { "readline", &edit.readline },
                    { "add_history", &edit.add_history },
                    { "write_history", &edit.write_history },
                    { "read_history", &edit.read_history },
                    { "using_history", &edit.using_history },
                    { "stifle_history", &edit.stifle_history },
                    { "rl_bind_key", &edit.bind_key },
                    { "rl_insert", &edit.insert },
                    { "rl_attempted_completion_function", &edit.complete },
                    { "rl_attempted_completion_over", &edit.complete_over },
                    { "rl_completion_append_character", &edit.append },
                    { "rl_line_buffer", &edit.buffer },
                    { "rl_readline_name", &edit.name } };
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return false;
    void *library = dlopen("libedit.so.2", RTLD_LAZY);
    bool all = library != NULL;
    for (size_t i = 0; all && i < MK_COUNT(symbols); i++)
        all = (*(void **)symbols[i].to = dlsym(library, symbols[i].name)) != NULL;
    if (!all)
        edit.name = NULL;
    return all;
}

/* --- completion --- */

static struct { /* for the time of a line */
    lua_State *L;
    struct mk_lua_context *context;
} current;

static const char completer; /* its address is the registry's key of the function */

struct word {
    const char *text;
    int end; /* the cursor, in characters */
};

/* Protected: calls it with the line, the word and where that ends; leaves its list of words. */
static int call_completer(lua_State *L)
{
    const struct word *word = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &completer);
    lua_pushstring(L, *edit.buffer);
    lua_pushstring(L, word->text);
    lua_pushinteger(L, word->end);
    lua_call(L, 3, 1);
    luaL_checktype(L, -1, LUA_TTABLE);
    return 1;
}

/* What the words begin with, all of them: for the first place of libedit's list. */
static char *common_start(char **words)
{
    size_t length = strlen(words[0]);
    for (size_t i = 1; words[i]; i++)
        for (size_t k = 0; k < length; k++)
            if (words[i][k] != words[0][k])
                length = k;
    while (length && ((unsigned char)words[0][length] & 0xc0) == 0x80)
        length--; /* not in the middle of a letter */
    return strndup(words[0], length);
}

/* The list on top of the stack as libedit wants it, which frees it; NULL: there are none. */
static char **words_of(lua_State *L)
{
    size_t count = (size_t)luaL_len(L, -1), found = 0;
    char **words = count ? calloc(count + 2, sizeof(*words)) : NULL;
    for (size_t i = 1; words && i <= count; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i);
        const char *word = lua_tostring(L, -1);
        if (word && (words[found + 1] = strdup(word)))
            found++;
        lua_pop(L, 1);
    }
    if (found && (words[0] = common_start(words + 1)))
        return words;
    free(words);
    return NULL;
}

/* Called by libedit in the middle of readline(): Lua's lock is given up there. */
static char **complete(const char *text, int start, int end)
{
    lua_State *L = current.L;
    struct word word = { text, end };
    char **words = NULL;
    (void)start;
    *edit.complete_over = 1; /* no names of files beside ours */
    *edit.append = '\0';
    mk_lua_end_blocking(mk_lua_get(L), current.context);
    int top = lua_gettop(L);
    if (lua_checkstack(L, 8)) {
        lua_pushcfunction(L, call_completer);
        lua_pushlightuserdata(L, &word);
        if (lua_pcall(L, 1, 1, 0) == LUA_OK)
            words = words_of(L);
    }
    lua_settop(L, top);
    mk_lua_begin_blocking(mk_lua_get(L), current.context);
    return words;
}

int mk_line_complete_with(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_pushvalue(L, 1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &completer);
    if (edit.name)
        *edit.complete = complete;
    return 0;
}

int mk_line_open(lua_State *L)
{
    const char *history = luaL_optstring(L, 1, NULL);
    if (edit.name || !load_editor())
        return 0;
    *edit.name = "minikvm";
    edit.using_history();
    edit.stifle_history(HISTORY_LINES);
    /* libedit takes the letters of Latin-1 for keys pressed with Meta; those come as ESC and one.
     */
    for (int letter = 0xa0; letter <= 0xff; letter++)
        edit.bind_key(letter, edit.insert);
    struct stat st; /* a FIFO would wait for who writes it */
    if (history && (stat(history, &st) < 0 || S_ISREG(st.st_mode)))
        edit.history = strdup(history);
    if (edit.history)
        edit.read_history(edit.history);
    return 0;
}

/* Written after each line: an os.exit or a crash loses nothing. */
int mk_line_add_history(lua_State *L)
{
    const char *line = luaL_checkstring(L, 1);
    if (!edit.name)
        return 0;
    edit.add_history(line);
    if (edit.history)
        edit.write_history(edit.history);
    return 0;
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
    struct sigaction drop = { .sa_handler = on_interrupt }, old;
    sigemptyset(&drop.sa_mask);
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

int mk_line_read(lua_State *L)
{
    const char *prompt = luaL_checkstring(L, 1);
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_lua_context context;
    dropped = 0;
    current.L = L;
    current.context = &context;
    mk_lua_begin_blocking(lua, &context); /* handlers of started VMs run meanwhile */
    char *line = edit.name ? edit_line(prompt) : plain_line(prompt);
    mk_lua_end_blocking(lua, &context);
    if (dropped)
        lua_pushboolean(L, 0);
    else
        lua_pushstring(L, line);
    free(line);
    return 1;
}
