/* console.c - vm.console: what goes into a guest's console and what comes out. */
#include "io/tty.h"
#include "lua/core.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Core side: one whole line, on the printing vCPU's thread. */
void mk_lua_line(void *ctx, struct mk_cpu *cpu, const char *text, size_t length, bool more)
{
    struct mk_lua_vm *v = ctx;
    mk_lua_notify(v, cpu->index, "the line handler", &v->line_ref, "sib", text, length,
                  (uint64_t)cpu->index, more);
}

static struct mk_lua_vm *check_console(lua_State *L)
{
    return mk_check_child(L, 1, MK_CONSOLE);
}

/* console:send(bytes) -> console: queues input; it may be called before and while the guest
 * runs. */
static int console_send(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    struct mk_err err;
    mk_lua_flush_output(); /* before the answer of a guest that runs */
    return mk_push_self(L, mk_console_send(&v->vm.console, bytes, length, &err), &err);
}

/* console:eof() -> console: nothing follows what is queued. */
static int console_eof(lua_State *L)
{
    mk_console_eof(&check_console(L)->vm.console);
    lua_settop(L, 1);
    return 1;
}

struct reader {
    struct mk_console *con;
    int next; /* byte, or MK_INPUT_EOF */
};

static bool has_input(void *ctx)
{
    struct reader *r = ctx;
    r->next = mk_console_next(r->con, false);
    return r->next != MK_INPUT_NONE;
}

/* console:read([count [, seconds]]) -> bytes | nil, text, name: takes input from the guest, one
 * byte at least and `count` (1) at most; waits for it. */
static int console_read(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    lua_Integer count = luaL_optinteger(L, 2, 1);
    uint64_t ns = mk_opt_seconds(L, 3);
    luaL_argcheck(L, count >= 1 && count <= MK_CONSOLE_INPUT, 2, "1 byte to 16 MiB can be read");
    struct reader r = { &v->vm.console, MK_INPUT_NONE };
    struct mk_err err;
    const struct mk_lua_cpu *handler = v->lua->handler;
    bool foreign = !handler || handler->v != v; /* closing a VM waits for its own handlers */
    v->busy += foreign;
    bool idle = mk_vm_wait(&v->vm, 0); /* else the run reads what is attached */
    if (idle)
        mk_console_begin(r.con);
    bool any = mk_lua_wait(
        L, ns,
        &(struct mk_wait){
            .lock = &r.con->lock, .done = has_input, .ctx = &r, .waiters = &r.con->readers });
    if (idle)
        mk_console_end(r.con);
    v->busy -= foreign;
    if (!any || r.next == MK_INPUT_EOF) {
        any ? mk_fail(&err, ENODATA, "read: the console's input has ended")
            : mk_fail(&err, ETIMEDOUT, "read: no input came in time");
        return mk_push_err(L, &err);
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int c; count-- > 0 && (c = mk_console_take(r.con)) >= 0;)
        luaL_addchar(&b, (char)c);
    luaL_pushresult(&b);
    return 1;
}

/* console:text([cpu]) -> what was printed (the newest MiB of it) and how many bytes in all. */
static int console_text(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    struct mk_console *con = &v->vm.console;
    struct mk_stream *s = &con->stream[mk_check_stream(L, v, 2)];
    luaL_Buffer b;
    pthread_mutex_lock(&con->lock);
    size_t length = s->history.length;
    pthread_mutex_unlock(&con->lock);
    char *to = luaL_buffinitsize(L, &b, length ? length : 1); /* may raise: not under the lock */
    pthread_mutex_lock(&con->lock);
    if (length > s->history.length)
        length = s->history.length;
    if (length)
        memcpy(to, s->history.data + s->history.start, length);
    lua_Integer total = (lua_Integer)s->total;
    pthread_mutex_unlock(&con->lock);
    luaL_pushresultsize(&b, length);
    lua_pushinteger(L, total);
    return 2;
}

/* console:write(text) -> console: inside a handler of the VM, prints what its guest would have: the
 * output of a port that the script serves. Counts against the limit of output. */
static int console_write(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    size_t length;
    const char *text = luaL_checklstring(L, 2, &length);
    int cpu = mk_lua_handler_cpu(v);
    if (cpu < 0)
        return mk_lua_error(
            L, "console:write: only a handler of the vm prints for its guest: a script "
               "has print and io.write");
    mk_lua_flush_output(); /* what the handler printed before */
    mk_console_write(&v->vm.console, &v->vm.cpu[cpu]->c.cpu, text, length);
    mk_console_flush(&v->vm.console); /* before what it prints next */
    lua_settop(L, 1);
    return 1;
}

/* Output goes to `fd` from now on. `owned`: a file that output() opened, closed when it is
 * replaced. */
static void set_output(struct mk_lua_vm *v, int fd, bool owned)
{
    mk_console_set_output(&v->vm.console, fd);
    v->echo_before = fd;
    if (v->output_file)
        close(v->output_file);
    v->output_file = owned ? fd : 0;
}

/* console:echo(on) -> console: whether output goes to the process's stdout. */
static int console_echo(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    set_output(v, lua_toboolean(L, 2) ? STDOUT_FILENO : -1, false);
    lua_settop(L, 1);
    return 1;
}

/* listen(console, fn(line, cpu) | nil): the one line listener, which on_line (in Lua) shares out.
 * While there is one, output does not go to stdout by itself. */
static int console_listen(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    bool had = v->line_ref != 0;
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, 1);
    if (v->line_ref)
        mk_lua_unref(L, 3, v->line_ref);
    v->line_ref = 0;
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TFUNCTION);
        v->line_ref = mk_lua_ref(L, 3, 2);
    }
    struct mk_console *con = &v->vm.console;
    bool has = v->line_ref != 0;
    if (has && !had)
        v->echo_before = mk_console_set_output(con, -1);
    else if (had && !has && con->out_fd < 0)
        mk_console_set_output(con, v->echo_before);
    pthread_mutex_lock(&con->lock);
    con->lines = has;
    pthread_mutex_unlock(&con->lock);
    return 0;
}

/* Input comes from `fd` from now on; returns from where it came. */
static struct mk_console_input change_input(struct mk_lua_vm *v, int fd, bool terminal)
{
    struct mk_console *con = &v->vm.console;
    struct mk_console_input in = {
        .fd = fd, .pipe = fd >= 0 && !terminal, .escape = terminal, .eof = con->in.eof
    };
    v->terminal = terminal;
    return mk_console_set_input(con, &in);
}

static void set_input(struct mk_lua_vm *v, int fd, bool terminal)
{
    int before = change_input(v, fd, terminal).fd;
    if (before > STDERR_FILENO)
        close(before);
}

static int attach(lua_State *L, bool on)
{
    set_input(check_console(L), on ? STDIN_FILENO : -1, on && isatty(STDIN_FILENO));
    lua_settop(L, 1);
    lua_pushboolean(L, on);
    return console_echo(L);
}

/* console:attach() -> console: input from stdin, output to stdout. When stdin is a terminal it is
 * raw while the guest runs, and Ctrl-A x leaves. */
static int console_attach(lua_State *L)
{
    return attach(L, true);
}

/* console:detach() -> console: input only by send(), output only by text() and on_line(). */
static int console_detach(lua_State *L)
{
    return attach(L, false);
}

/* console:input(path) -> console: input from a file, to its end. */
static int console_input(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    const char *path = mk_check_cstring(L, 2);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    struct mk_err err = { 0 };
    if (fd < 0 || fstat(fd, &st) < 0)
        mk_fail_errno(&err, errno, "%s", path);
    else if (S_ISDIR(st.st_mode))
        mk_fail_errno(&err, EISDIR, "%s", path);
    if (err.code) {
        if (fd >= 0)
            close(fd);
        return mk_push_err(L, &err);
    }
    set_input(v, fd, false);
    lua_settop(L, 1);
    return 1;
}

/* console:output(path) -> console: output to a file, which is emptied first, instead of stdout. */
static int console_output(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    const char *path = mk_check_cstring(L, 2);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        struct mk_err err;
        mk_fail_errno(&err, errno, "%s", path);
        return mk_push_err(L, &err);
    }
    set_output(v, fd, true);
    lua_settop(L, 1);
    return 1;
}

static int open_log(const char *path, struct mk_err *err)
{
    struct stat st;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode))
        return fd;
    if (fd < 0)
        return mk_fail_errno(err, errno, "%s", path);
    close(fd);
    return mk_fail(err, EINVAL,
                   "%s: a log is a file: a pipe whose reader waits would stop the guest", path);
}

/* console:log(path | nil) -> console: all that is printed from now on goes to a file, too, which is
 * emptied first. Fails also when the log so far could not be written. */
static int console_log(lua_State *L)
{
    struct mk_console *con = &check_console(L)->vm.console;
    const char *path = lua_isnoneornil(L, 2) ? NULL : mk_check_cstring(L, 2);
    struct mk_err err = { 0 };
    int fd = path ? open_log(path, &err) : -1;
    if (path && fd < 0)
        return mk_push_err(L, &err);
    return mk_push_self(L, mk_console_log(con, fd, &err), &err);
}

/* hand_over(console): input from stdin, output to stdout for a while. */
static int hand_over(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    v->input_before = change_input(v, STDIN_FILENO, isatty(STDIN_FILENO));
    v->output_before = mk_console_set_output(&v->vm.console, STDOUT_FILENO);
    return 0;
}

/* take_back(console): the user's turn is over. */
static int take_back(lua_State *L)
{
    struct mk_lua_vm *v = check_console(L);
    struct mk_console *con = &v->vm.console;
    struct mk_console_input *in = &v->input_before;
    v->terminal = in->escape = in->fd == STDIN_FILENO && isatty(STDIN_FILENO);
    mk_console_set_input(con, in);
    in->fd = -1;
    mk_console_set_output(con, v->output_before);
    return 0;
}

/* keys_to_script(console, on): what comes from its input is for console:read() alone. */
static int keys_to_script(lua_State *L)
{
    struct mk_console *con = &check_console(L)->vm.console;
    pthread_mutex_lock(&con->lock);
    con->in.keys = lua_toboolean(L, 2);
    pthread_mutex_unlock(&con->lock);
    return 0;
}

/* terminal_size() -> rows, columns of standard output's terminal, or nothing */
static int terminal_size(lua_State *L)
{
    unsigned rows, columns;
    if (!mk_tty_size(&rows, &columns))
        return 0;
    lua_pushinteger(L, rows);
    lua_pushinteger(L, columns);
    return 2;
}

/* terminal_farewell(text): what is written when the terminal is no longer raw */
static int terminal_farewell(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    luaL_argcheck(L, length <= MK_TTY_FAREWELL, 1, "too long");
    mk_tty_set_farewell(text, length);
    return 0;
}

static const luaL_Reg methods[] = { { "send", console_send },     { "read", console_read },
                                    { "write", console_write },   { "eof", console_eof },
                                    { "text", console_text },     { "echo", console_echo },
                                    { "attach", console_attach }, { "detach", console_detach },
                                    { "input", console_input },   { "output", console_output },
                                    { "log", console_log },       MK_END };
static const luaL_Reg core[] = { { "listen", console_listen },
                                 MK_FN(hand_over),
                                 MK_FN(take_back),
                                 MK_FN(keys_to_script),
                                 MK_FN(terminal_size),
                                 MK_FN(terminal_farewell),
                                 MK_END };

MK_EXPORTS = { { .type = MK_CONSOLE, .methods = methods, .core = core } };
