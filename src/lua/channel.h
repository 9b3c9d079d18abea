/* channel.h - messages between two Lua states: bytes in two queues.
 *
 * A channel has two ends, each used by the thread that runs the Lua state of its side; the lock is
 * held for moments, never while Lua runs. What the bytes mean is lua/minikvm/copy.lua's. */
#ifndef MK_LUA_CHANNEL_H
#define MK_LUA_CHANNEL_H

#include "kvm/wait.h"

#include <lua.h>
#include <pthread.h>
#include <stdatomic.h>

#define MK_CHANNEL_MAX (64u << 20) /* bytes that may wait in a queue */

struct mk_message {
    struct mk_message *next;
    size_t length;
    uint8_t bytes[];
};

struct mk_queue {
    struct mk_message *first, *last;
    size_t bytes;
};

struct mk_channel {
    pthread_mutex_t lock;
    struct mk_waiter *waiters; /* for a message, or one of the flags */
    struct mk_queue to[2];     /* messages on their way to end 0 and end 1 */
    bool ended;                /* end 1 will not send or receive any more */
    _Atomic bool stop;         /* it shall not */
};

void mk_channel_init(struct mk_channel *c);
void mk_channel_free(struct mk_channel *c);

/* The methods of both ends; `end` is whose call it is, 0 or 1, arguments begin at stack index 2.
 *   send(bytes)       -> true | nil, text, name
 *   receive(timeout)  -> bytes | nil, text, name */
int mk_channel_send(lua_State *L, struct mk_channel *c, int end);
int mk_channel_receive(lua_State *L, struct mk_channel *c, int end);

#endif
