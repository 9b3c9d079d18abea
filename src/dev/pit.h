/* pit.h - 8254 interval timer (ports 0x40-0x43) and system control port B (0x61).
 *
 * Channel 0 interrupts through `irq`, channel 1 only counts, channel 2 has its gate and output at
 * port 0x61. Ports may be used from any vCPU thread; the timer fires on whichever runs the clock.
 *
 * The interrupt line is not the OUT pin but "the guest is owed a tick": it is up while ticks are
 * owed, and drops for a moment after each acknowledgement so that the next one is an edge. So the
 * ticks a late VMM missed are delivered one after another, up to a second's worth; or they are
 * lost, as on a PC, for a guest that has its time from elsewhere. For that,
 * mk_pit_on_ack() must be told of acknowledged interrupts: pic->on_ack = mk_pit_on_ack,
 * pic->ack_ctx = pit. */
#ifndef MK_DEV_PIT_H
#define MK_DEV_PIT_H

#include "base/err.h"
#include "dev/dev.h"
#include "dev/pit_channel.h"
#include "io/clock.h"

#include <pthread.h>

/* All that a guest can see. */
struct mk_pit_state {
    struct mk_pit_channel channel[3];
    uint32_t owed;      /* ticks not yet acknowledged */
    uint8_t speaker;    /* port 0x61, bits 3..0: gate, speaker, two checks that are stored only */
    uint8_t was_masked; /* at the last tick */
};

struct mk_pit {
    struct mk_dev dev;
    struct mk_pit_state state;
    struct mk_irq irq;
    struct mk_clock *clock;
    struct mk_timer timer;
    uint64_t armed_at; /* 0: not armed */
    bool lose_ticks;   /* that the guest did not take in time; not of the state: as it was wired */
    /* May be NULL. While the line is masked from one tick to the next, ticks are lost as on a PC,
     * and no burst follows the unmasking. Fits mk_pic_masked(). */
    bool (*masked)(void *ctx, unsigned line);
    void *masked_ctx;
};

/* At power-up no channel counts until the guest programs it. */
struct mk_dev *mk_pit_init(struct mk_pit *pit, struct mk_clock *clock, struct mk_irq irq);
extern const struct mk_dev_ops mk_pit_dev;

/* The interrupt on `line` was acknowledged; other lines than ours are ignored. */
void mk_pit_on_ack(void *pit, unsigned line);

#endif
