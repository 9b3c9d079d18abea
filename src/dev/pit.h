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
#include "io/clock.h"

#include <pthread.h>

#define MK_PIT_HZ 1193182u

struct mk_pit_channel {
    int64_t start;    /* when the running count was loaded */
    uint64_t held;    /* input clocks counted when the gate stopped it */
    uint64_t next_at; /* clocks after start at which `next` is loaded */
    uint64_t ticked;  /* interrupts since start */
    uint32_t reload;  /* 1..65536 */
    uint32_t next;    /* a count that waits for the period's end or the trigger; 0: none */
    uint16_t latch;
    uint8_t control; /* control word as written, without the counter */
    uint8_t mode;    /* 0..5 */
    uint8_t access;  /* 1 low byte, 2 high byte, 3 low then high */
    uint8_t write_low, status;
    uint8_t write_high, read_high; /* flags from here on: the high byte is due */
    uint8_t count_latched, status_latched;
    uint8_t loaded;  /* a whole count followed the control word */
    uint8_t running; /* counting: loaded, not held by the gate, triggered where that is needed */
    uint8_t gate;
};

/* All that a guest can see. */
struct mk_pit_state {
    struct mk_pit_channel channel[3];
    uint32_t owed;      /* ticks not yet acknowledged */
    uint8_t speaker;    /* port 0x61, bits 3..0: gate, speaker, two checks that are stored only */
    uint8_t line;       /* level of the interrupt line */
    uint8_t was_masked; /* at the last tick */
};

struct mk_pit {
    struct mk_dev dev;
    struct mk_pit_state state;
    struct mk_irq irq;
    struct mk_clock *clock;
    struct mk_timer timer;
    uint64_t want_at, armed_at; /* 0: not armed */
    bool updating, drop;
    bool lose_ticks; /* that the guest did not take in time; not of the state: as it was wired */
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
