/* hub.c - a wire between network cards: what one sends, all others get. See net.h. Its lock is
 * taken before those of the cards. On any thread. */
#include "dev/net.h"

#include <stdlib.h>

struct mk_hub {
    pthread_mutex_t lock;
    struct mk_net *first; /* under it */
    _Atomic unsigned references;
};

struct mk_hub *mk_hub_new(void)
{
    struct mk_hub *hub = calloc(1, sizeof(*hub));
    if (!hub)
        return NULL;
    pthread_mutex_init(&hub->lock, NULL);
    atomic_store(&hub->references, 1);
    return hub;
}

struct mk_hub *mk_hub_ref(struct mk_hub *hub)
{
    atomic_fetch_add(&hub->references, 1);
    return hub;
}

void mk_hub_unref(struct mk_hub *hub)
{
    if (!hub || atomic_fetch_sub(&hub->references, 1) > 1)
        return;
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}

void mk_hub_plug(struct mk_hub *hub, struct mk_net *net)
{
    struct mk_net **at = &hub->first;
    mk_hub_ref(hub);
    pthread_mutex_lock(&hub->lock);
    while (*at)
        at = &(*at)->beside;
    *at = net;
    net->beside = NULL;
    pthread_mutex_unlock(&hub->lock);
    pthread_mutex_lock(&net->virtio.lock);
    net->hub = hub;
    pthread_mutex_unlock(&net->virtio.lock);
}

void mk_hub_unplug(struct mk_net *net)
{
    pthread_mutex_lock(&net->virtio.lock);
    struct mk_hub *hub = net->hub;
    net->hub = NULL;
    pthread_mutex_unlock(&net->virtio.lock);
    if (!hub)
        return;
    pthread_mutex_lock(&hub->lock);
    struct mk_net **at = &hub->first;
    while (*at != net)
        at = &(*at)->beside;
    *at = net->beside;
    pthread_mutex_unlock(&hub->lock);
    mk_hub_unref(hub);
}

unsigned mk_hub_send(struct mk_hub *hub, struct mk_packet *frame, const struct mk_net *from,
                     uint64_t after)
{
    unsigned taken = 0;
    pthread_mutex_lock(&hub->lock);
    for (struct mk_net *net = hub->first; net; net = net->beside)
        if (net != from)
            taken += mk_net_receive(net, frame, mk_clock_now(net->clock) + after);
    pthread_mutex_unlock(&hub->lock);
    return taken;
}
