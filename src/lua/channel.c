/* channel.c - see channel.h. */
#include "lua/channel.h"

#include "lua/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void mk_channel_init(struct mk_channel *c)
{
    *c = (struct mk_channel){ 0 };
    pthread_mutex_init(&c->lock, NULL);
}

static struct mk_message *pop(struct mk_queue *q)
{
    struct mk_message *m = q->first;
    if (m) {
        q->first = m->next;
        q->bytes -= m->length;
    }
    return m;
}

void mk_channel_free(struct mk_channel *c)
{
    for (int i = 0; i < 2; i++)
        for (struct mk_message *m; (m = pop(&c->to[i]));)
            free(m);
    pthread_mutex_destroy(&c->lock);
}

/* --- sending --- */

/* False when the queue is full or nobody will receive it any more. */
static bool put(struct mk_channel *c, int end, struct mk_message *m, struct mk_err *err)
{
    struct mk_queue *q = &c->to[!end];
    pthread_mutex_lock(&c->lock);
    bool ended = c->ended, full = q->bytes + m->length > MK_CHANNEL_MAX;
    if (!ended && !full) {
        if (q->first)
            q->last->next = m;
        else
            q->first = m;
        q->last = m;
        q->bytes += m->length;
        mk_wake(c->waiters);
    }
    pthread_mutex_unlock(&c->lock);
    if (ended)
        mk_fail(err, EPIPE, "send: the worker has ended");
    else if (full)
        mk_fail(err, ENOBUFS, "send: 64 MiB wait to be received already");
    return !ended && !full;
}

int mk_channel_send(lua_State *L, struct mk_channel *c, int end)
{
    struct mk_err err;
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    struct mk_message *m = malloc(sizeof(*m) + length);
    if (!m)
        return mk_lua_error(L, "send: out of memory");
    m->next = NULL;
    m->length = length;
    memcpy(m->bytes, bytes, length);
    if (!put(c, end, m, &err)) {
        free(m);
        return mk_push_err(L, &err);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* --- receiving --- */

struct receiver {
    struct mk_channel *c;
    int end;
    struct mk_message *message;
};

/* Will there be no message any more? Caller holds the lock. */
static bool is_over(const struct receiver *r)
{
    return r->c->ended || (r->end == 1 && atomic_load(&r->c->stop));
}

/* Takes it when there is one. Under the lock. */
static bool received(void *ctx)
{
    struct receiver *r = ctx;
    if (!r->message)
        r->message = pop(&r->c->to[r->end]);
    return r->message || is_over(r);
}

static int push_none(lua_State *L, const struct receiver *r)
{
    struct mk_err err;
    if (r->c->ended)
        mk_fail(&err, EPIPE, "receive: the worker has ended");
    else if (is_over(r))
        mk_fail(&err, ECANCELED, "receive: the worker is being closed");
    else
        mk_fail(&err, ETIMEDOUT, "receive: no message came in time");
    return mk_push_err(L, &err);
}

/* The string is made in protected mode: the message is ours to free. */
static int push_message(lua_State *L)
{
    const struct mk_message *m = lua_touserdata(L, 1);
    lua_pushlstring(L, (const char *)m->bytes, m->length);
    return 1;
}

int mk_channel_receive(lua_State *L, struct mk_channel *c, int end)
{
    uint64_t ns = mk_opt_seconds(L, 2);
    struct receiver r = { c, end, NULL };
    luaL_checkstack(L, 10, NULL);
    lua_pushcfunction(L, push_message);
    mk_lua_wait(
        L, ns,
        &(struct mk_wait){ .lock = &c->lock, .waiters = &c->waiters, .done = received, .ctx = &r });
    if (!r.message)
        return push_none(L, &r);
    lua_pushlightuserdata(L, r.message);
    int status = lua_pcall(L, 1, 1, 0);
    free(r.message);
    return status == LUA_OK ? 1 : lua_error(L);
}
