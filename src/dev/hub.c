/* hub.c - the cards on a wire, and what they send. See hub.h. */
#include "dev/hub.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct mk_hub {
    pthread_mutex_t lock;
    struct mk_hub_port *first; /* under it */
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

void mk_hub_plug(struct mk_hub *hub, struct mk_hub_port *port)
{
    struct mk_hub_port **at = &hub->first;
    mk_hub_ref(hub);
    pthread_mutex_lock(&hub->lock);
    while (*at)
        at = &(*at)->next;
    *at = port;
    port->next = NULL;
    pthread_mutex_unlock(&hub->lock);
}

void mk_hub_unplug(struct mk_hub *hub, struct mk_hub_port *port)
{
    pthread_mutex_lock(&hub->lock);
    struct mk_hub_port **at = &hub->first;
    while (*at != port)
        at = &(*at)->next;
    *at = port->next;
    pthread_mutex_unlock(&hub->lock);
    mk_hub_unref(hub);
}

unsigned mk_hub_send(struct mk_hub *hub, struct mk_packet *frame, const struct mk_hub_port *from,
                     uint64_t after)
{
    unsigned taken = 0;
    pthread_mutex_lock(&hub->lock);
    for (struct mk_hub_port *port = hub->first; port; port = port->next)
        if (port != from)
            taken += port->receive(port, frame, after);
    pthread_mutex_unlock(&hub->lock);
    return taken;
}
