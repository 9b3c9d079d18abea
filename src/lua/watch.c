/* watch.c - watches on a console for lua/minikvm/console/expect.lua, which knows what to do with
 * them: arming, waiting on a started VM, what was found, and what a failed wait has to tell. */
#include "debug/profile.h"
#include "lua/core.h"

#include <errno.h>
#include <string.h>

#define SCREEN_AT 0xb8000
#define SCREEN_SIZE (80 * 25 * 2)
#define SEARCH_STEPS MK_WATCH_STEPS

struct box {
    struct mk_watch *w; /* NULL when it is off; gone with its VM when that is closed */
};

static const char *const states[] = { "armed", "match", "undecidable", "budget", "changed" };

/* --- life --- */

static struct mk_lua_vm *check_watch(lua_State *L, struct box **box)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_WATCH);
    *box = lua_touserdata(L, 1);
    if (!(*box)->w)
        mk_lua_error(L, "the wait is over");
    return v;
}

static int watch_close(lua_State *L)
{
    struct box *box = luaL_checkudata(L, 1, MK_WATCH);
    lua_getiuservalue(L, 1, 1);
    struct mk_lua_vm *v = lua_touserdata(L, -1);
    if (box->w && v->open) {
        mk_watch_disarm(&v->vm.console, box->w);
        mk_watch_free(box->w);
    }
    box->w = NULL;
    return 0;
}

static uint64_t budget_field(lua_State *L, int index, const char *key)
{
    return (uint64_t)mk_integer_field(L, index, key, -1);
}

/* Patterns are strings: checked in Lua. The message of a wrong one is the error. */
static bool add_patterns(lua_State *L, struct mk_watch *w, int list, bool plain, struct mk_err *err)
{
    int rc = 0;
    lua_Integer count = luaL_len(L, list);
    for (lua_Integer i = 1; rc == 0 && i <= count; i++) {
        size_t length;
        lua_rawgeti(L, list, i);
        const char *pattern = lua_tolstring(L, -1, &length);
        rc = mk_watch_add(w, pattern, length, plain, err);
        lua_pop(L, 1);
    }
    return rc == 0;
}

static struct mk_lua_vm *check_stream(lua_State *L, unsigned *cpu)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_CONSOLE);
    *cpu = mk_check_stream(L, v, 2);
    return v;
}

/* watch(console, cpu, patterns, { plain=, stops=, exact=, forbids=, exits=, ticks=, screen=, looks=
 * }) -> watch, which is off when it is garbage */
static int watch(lua_State *L)
{
    unsigned cpu;
    struct mk_lua_vm *v = check_stream(L, &cpu);
    struct mk_err err = { .code = ENOMEM, .text = "out of memory" };
    luaL_checktype(L, 3, LUA_TTABLE);
    luaL_checktype(L, 4, LUA_TTABLE);
    bool forbids = mk_true_field(L, 4, "forbids");
    if (!forbids)
        mk_check_outside_handler(L, "expect()");
    bool plain = mk_true_field(L, 4, "plain"), screen = mk_true_field(L, 4, "screen");
    struct mk_watch setup = { .stops = mk_true_field(L, 4, "stops"),
                              .exact = mk_true_field(L, 4, "exact"),
                              .exits = budget_field(L, 4, "exits"),
                              .ticks = budget_field(L, 4, "ticks") };
    if (lua_getfield(L, 4, "ticks") != LUA_TNIL && !v->vm.has_pic)
        return mk_lua_error(L,
                            "a budget of ticks: vm \"%s\" has no timer that ticks: create it with "
                            "irqchip = \"pic\", or count exits",
                            v->vm.name);
    lua_getiuservalue(L, 1, 1);
    struct box *box = mk_new_child(L, -1, sizeof(*box), MK_WATCH);
    struct mk_watch *w = mk_watch_new(cpu);
    if (!w || !add_patterns(L, w, 3, plain, &err)) {
        if (w)
            mk_watch_free(w);
        return mk_lua_error(L, "%s", err.text);
    }
    w->forbids = forbids;
    w->stops = setup.stops;
    w->exact = setup.exact;
    w->exits = setup.exits;
    w->ticks = setup.ticks;
    w->screen = screen ? mk_mem_at(&v->vm.mem, SCREEN_AT, SCREEN_SIZE) : NULL;
    w->screen_size = SCREEN_SIZE;
    w->polls = mk_true_field(L, 4, "looks");
    mk_vm_watch(&v->vm, w);
    box->w = w;
    return 1;
}

/* watch_hits(watch) -> how often one that forbids has matched */
static int watch_hits(lua_State *L)
{
    struct box *box;
    struct mk_lua_vm *v = check_watch(L, &box);
    pthread_mutex_lock(&v->vm.console.lock);
    uint64_t hits = box->w->hits;
    pthread_mutex_unlock(&v->vm.console.lock);
    lua_pushinteger(L, (lua_Integer)hits);
    return 1;
}

/* streams(console) -> how many streams of output it has: that of vCPU 0, and so on */
static int streams(lua_State *L)
{
    lua_pushinteger(L, mk_check_child(L, 1, MK_CONSOLE)->vm.console.streams);
    return 1;
}

/* --- waiting --- */

/* watch_wait(watch, seconds): on a VM that was started, until the watch is decided, the VM does not
 * run any more, or the time is up. */
static int watch_wait(lua_State *L)
{
    struct box *box;
    struct mk_lua_vm *v = check_watch(L, &box);
    uint64_t ns = mk_check_seconds(L, 2);
    struct mk_vm_watched watched = { &v->vm, box->w };
    mk_lua_wait_vm(L, v, ns, mk_vm_watch_decided, &watched);
    return 0;
}

/* watch_again(watch): one on a screen that has changed waits for the next change. */
static int watch_again(lua_State *L)
{
    struct box *box;
    struct mk_lua_vm *v = check_watch(L, &box);
    mk_watch_rearm(&v->vm.console, box->w);
    return 0;
}

/* The captures, or the whole match when the pattern has none. */
static int push_captures(lua_State *L, const char *text, const struct mk_match *m)
{
    luaL_checkstack(L, (int)m->captures + 1, "too many captures");
    for (unsigned i = 0; i < m->captures; i++) {
        if (m->capture[i].length == MK_CAPTURE_POSITION)
            lua_pushinteger(L, (lua_Integer)m->capture[i].start + 1);
        else
            lua_pushlstring(L, text + m->capture[i].start, m->capture[i].length);
    }
    if (m->captures > 0)
        return (int)m->captures;
    lua_pushlstring(L, text + m->start, m->end - m->start);
    return 1;
}

/* watch_result(watch) -> state, index of the pattern, captures. Decided, it does not change any
 * more. */
static int watch_result(lua_State *L)
{
    struct box *box;
    struct mk_lua_vm *v = check_watch(L, &box);
    pthread_mutex_lock(&v->vm.console.lock);
    enum mk_watch_state state = box->w->state;
    pthread_mutex_unlock(&v->vm.console.lock);
    if (state != MK_WATCH_ARMED)
        mk_console_flush(&v->vm.console); /* before what the script prints about it */
    lua_pushstring(L, states[state]);
    if (state != MK_WATCH_MATCHED && state != MK_WATCH_UNDECIDABLE)
        return 1;
    lua_pushinteger(L, box->w->which + 1);
    return state == MK_WATCH_MATCHED ? 2 + push_captures(L, box->w->text, &box->w->match) : 2;
}

/* watch_place(watch) -> where what it matched begins and ends: bytes of all that was printed */
static int watch_place(lua_State *L)
{
    struct box *box;
    struct mk_lua_vm *v = check_watch(L, &box);
    pthread_mutex_lock(&v->vm.console.lock);
    uint64_t end = box->w->match_end, length = box->w->text_length;
    pthread_mutex_unlock(&v->vm.console.lock);
    lua_pushinteger(L, (lua_Integer)(end - length));
    lua_pushinteger(L, (lua_Integer)end);
    return 2;
}

/* consumed(console, cpu) -> bytes of what was printed that have been waited for */
static int consumed(lua_State *L)
{
    unsigned cpu;
    struct mk_console *con = &check_stream(L, &cpu)->vm.console;
    pthread_mutex_lock(&con->lock);
    uint64_t bytes = con->stream[mk_console_stream(con, cpu)].consumed;
    pthread_mutex_unlock(&con->lock);
    lua_pushinteger(L, (lua_Integer)bytes);
    return 1;
}

/* forbidden(watch) -> what was printed although it is forbidden, or nil; why it cannot be told
 * whether the watch itself matches, or nil */
static int forbidden(lua_State *L)
{
    struct box *box;
    struct mk_lua_vm *v = check_watch(L, &box);
    char text[400];
    bool found = mk_watch_forbidden(&v->vm.console, box->w, text, sizeof(text));
    lua_pushstring(L, found ? text : NULL);
    bool undecidable = mk_watch_undecidable(&v->vm.console, box->w, text, sizeof(text));
    lua_pushstring(L, undecidable ? text : NULL);
    return 2;
}

/* --- matching text --- */

/* search(text, pattern, plain) -> captures, or nothing. A wrong pattern raises. */
static int search(lua_State *L)
{
    size_t length, plength;
    const char *text = luaL_checklstring(L, 1, &length);
    const char *pattern = luaL_checklstring(L, 2, &plength);
    bool plain = lua_toboolean(L, 3);
    struct mk_match m = { 0 };
    struct mk_scan scan;
    struct mk_err err;
    if (mk_scan_init(&scan, pattern, plength, plain, &err) < 0)
        return mk_lua_error(L, "%s", err.text);
    mk_scan_free(&scan);
    uint64_t steps = SEARCH_STEPS;
    const char *at = plain ? memmem(text, length, pattern, plength) : NULL;
    enum mk_pattern_result result = at ? MK_PATTERN_FOUND : MK_PATTERN_NONE;
    if (!plain)
        result = mk_pattern_match(text, length, 0, pattern, plength, &steps, &m);
    else if (at)
        m = (struct mk_match){ .start = (size_t)(at - text), .end = (size_t)(at - text) + plength };
    if (result == MK_PATTERN_EXHAUSTED)
        return mk_lua_error(L, "pattern \"%.80s\" needs more than %d steps", pattern, SEARCH_STEPS);
    return result == MK_PATTERN_FOUND ? push_captures(L, text, &m) : 0;
}

/* --- what a failed wait tells --- */

/* input_state(console) -> what was sent last, bytes that wait to be read, whether input has ended
 */
static int input_state(lua_State *L)
{
    struct mk_console *con = &mk_check_child(L, 1, MK_CONSOLE)->vm.console;
    char sent[MK_CONSOLE_SENT];
    pthread_mutex_lock(&con->lock);
    size_t length = con->sent.length, waiting = con->input.length;
    bool eof = con->in.eof;
    memcpy(sent, con->sent.bytes, length);
    pthread_mutex_unlock(&con->lock);
    lua_pushlstring(L, sent, length);
    lua_pushinteger(L, (lua_Integer)waiting);
    lua_pushboolean(L, eof);
    return 3;
}

/* where(vm, cpu) -> rip, or nothing when the vCPU does not say */
static int where(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    lua_Integer cpu = luaL_checkinteger(L, 2);
    luaL_argcheck(L, cpu >= 0 && cpu < v->vm.cpus, 2, "no such cpu");
    struct mk_lua_context context;
    uint64_t rip = 0;
    v->busy++;
    mk_lua_begin_blocking(v->lua, &context);
    bool known = mk_profile_where(&v->vm, (unsigned)cpu, &rip);
    mk_lua_end_blocking(v->lua, &context);
    v->busy--;
    lua_pushinteger(L, (lua_Integer)rip);
    return known;
}

/* consume(console): all that was printed so far has been waited for. */
static int consume(lua_State *L)
{
    struct mk_console *con = &mk_check_child(L, 1, MK_CONSOLE)->vm.console;
    pthread_mutex_lock(&con->lock);
    for (unsigned i = 0; i < con->streams; i++)
        con->stream[i].consumed = con->stream[i].total;
    pthread_mutex_unlock(&con->lock);
    return 0;
}

/* blame(text): raises it with the place in the script that called minikvm's Lua part, unless it
 * begins with that: an error that was caught on its way. */
static int blame(lua_State *L)
{
    const char *text = luaL_checkstring(L, 1);
    mk_push_where(L);
    const char *where = lua_tostring(L, -1);
    if (strncmp(text, where, strlen(where)) == 0)
        lua_pop(L, 1);
    else
        lua_insert(L, 1);
    lua_concat(L, lua_gettop(L));
    return lua_error(L);
}

/* exits_since(vm) -> exits of all vCPUs since it was called last, or since the beginning */
static int exits_since(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    mk_check_stopped(L, v, "expect_exits");
    uint64_t sum = 0;
    for (unsigned i = 0; i < v->vm.cpus; i++) {
        struct mk_vcpu *c = &v->vm.cpu[i]->c;
        if (c->exits_marked > c->counters.exits) /* set back by a snapshot */
            c->exits_marked = 0;
        sum += c->counters.exits - c->exits_marked;
        c->exits_marked = c->counters.exits;
    }
    lua_pushinteger(L, (lua_Integer)sum);
    return 1;
}

static const luaL_Reg meta[] = { { "__gc", watch_close }, { "__close", watch_close }, MK_END };
static const luaL_Reg core[] = { MK_FN(watch),
                                 MK_FN(watch_close),
                                 MK_FN(watch_hits),
                                 MK_FN(streams),
                                 MK_FN(watch_wait),
                                 MK_FN(watch_again),
                                 MK_FN(watch_place),
                                 MK_FN(consumed),
                                 MK_FN(watch_result),
                                 MK_FN(forbidden),
                                 MK_FN(search),
                                 MK_FN(input_state),
                                 MK_FN(where),
                                 MK_FN(consume),
                                 MK_FN(blame),
                                 MK_FN(exits_since),
                                 MK_END };

MK_EXPORTS = { { .type = MK_WATCH, .meta = meta, .core = core } };
