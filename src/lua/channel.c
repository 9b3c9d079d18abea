/* channel.c - see channel.h. */
#include "lua/channel.h"

#include "lua/core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mk_channel_init(struct mk_channel *c)
{
    *c = (struct mk_channel){ 0 };
    pthread_mutex_init(&c->lock, NULL);
}

static struct mk_message *take(struct mk_queue *q)
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
        for (struct mk_message *m; (m = take(&c->to[i]));)
            free(m);
    pthread_mutex_destroy(&c->lock);
}

/* --- rows of values --- */

bool mk_values_write(lua_State *L, int first, int count, const char *what, struct mk_bytes *out,
                     struct mk_err *err)
{
    char name[60];
    mk_bytes_u32(out, (uint32_t)count);
    for (int i = 0; i < count; i++) {
        size_t at = out->length;
        mk_bytes_u32(out, 0);
        snprintf(name, sizeof(name), "%s %d", what, i + 1);
        if (!mk_copy_write(L, first + i, name, out, err))
            return false;
        mk_bytes_put_u32(out, at, (uint32_t)(out->length - at - 4));
    }
    if (out->length > MK_CHANNEL_MAX) {
        mk_fail(err, E2BIG, "%ss of more than 64 MiB", what);
        return false;
    }
    return true;
}

int mk_values_read(lua_State *L, const void *bytes, size_t length, struct mk_err *err)
{
    struct mk_reader r = { .at = bytes, .left = length };
    int count = (int)mk_reader_u32(&r), top = lua_gettop(L);
    if (!lua_checkstack(L, count + 3)) {
        mk_fail(err, ENOMEM, "out of Lua stack");
        return -1;
    }
    for (int i = 0; i < count; i++) {
        uint32_t size = mk_reader_u32(&r);
        const uint8_t *at = mk_reader_take(&r, size);
        if (!at || !mk_copy_read(L, at, size, err)) {
            lua_settop(L, top);
            return -1;
        }
    }
    return count;
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
    struct mk_err err = { 0 };
    luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "the first value of a message is not nil");
    int count = lua_gettop(L) - 1;
    struct mk_bytes *b = mk_push_bytes(L);
    if (!mk_values_write(L, 2, count, "send: argument", b, &err))
        return err.code == EINVAL ? mk_lua_error(L, "%s", err.text) : mk_push_err(L, &err);
    struct mk_message *m = malloc(sizeof(*m) + b->length);
    if (!m)
        return mk_lua_error(L, "send: out of memory");
    m->next = NULL;
    m->length = b->length;
    memcpy(m->bytes, b->data, b->length);
    mk_bytes_free(b);
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
        r->message = take(&r->c->to[r->end]);
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

/* Reads a message in protected mode: upvalues would raise, and the message is ours to free. */
int mk_channel_receive(lua_State *L, struct mk_channel *c, int end)
{
    uint64_t ns = mk_opt_seconds(L, 2);
    struct receiver r = { c, end, NULL };
    struct mk_err err;
    luaL_checkstack(L, 10, NULL);
    mk_lua_wait(
        L, ns,
        &(struct mk_wait){ .lock = &c->lock, .waiters = &c->waiters, .done = received, .ctx = &r });
    if (!r.message)
        return push_none(L, &r);
    int count = mk_values_read(L, r.message->bytes, r.message->length, &err);
    free(r.message);
    return count >= 0 ? count : mk_push_err(L, &err);
}
