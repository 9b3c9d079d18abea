/* hub.h - a wire between network cards, of any VMs: what one sends, all others get. Its lock is
 * taken before those of the cards. On any thread. */
#ifndef MK_HUB_H
#define MK_HUB_H

#include "dev/packet.h"

struct mk_hub;

/* A card's end of the wire. */
struct mk_hub_port {
    struct mk_hub_port *next; /* of the hub, under its lock */
    /* A frame comes, `after` nanoseconds from now by the clock of the card's VM; false: it is
     * dropped. The reference stays the hub's. */
    bool (*receive)(struct mk_hub_port *port, struct mk_packet *frame, uint64_t after);
};

/* Its maker has a reference; so has each port that is plugged in. NULL when memory ran out. */
struct mk_hub *mk_hub_new(void);
struct mk_hub *mk_hub_ref(struct mk_hub *hub);
void mk_hub_unref(struct mk_hub *hub);
void mk_hub_plug(struct mk_hub *hub, struct mk_hub_port *port);
void mk_hub_unplug(struct mk_hub *hub, struct mk_hub_port *port);
/* To each port but `from`; how many took it. */
unsigned mk_hub_send(struct mk_hub *hub, struct mk_packet *frame, const struct mk_hub_port *from,
                     uint64_t after);

#endif
