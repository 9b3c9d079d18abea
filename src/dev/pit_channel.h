/* pit_channel.h - one of the three counters of an 8254. Times are nanoseconds of the VM's clock. */
#ifndef MK_DEV_PIT_CHANNEL_H
#define MK_DEV_PIT_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#define MK_PIT_HZ 1193182u
#define MK_PIT_CLOCK_NS 839 /* one input clock: a written count is loaded at the next one */

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

/* Input clocks in that time. */
uint64_t mk_pit_clocks(uint64_t ns);
/* Clocks from one interrupt to the next in a periodic mode. */
uint64_t mk_pit_tick_clocks(const struct mk_pit_channel *ch);
/* Modes 2 and 3. */
bool mk_pit_periodic(const struct mk_pit_channel *ch);
/* Input clocks since the count was loaded. */
uint64_t mk_pit_elapsed(const struct mk_pit_channel *ch, uint64_t now);
/* The level of OUT. */
bool mk_pit_output(const struct mk_pit_channel *ch, uint64_t now);
/* When it interrupts next, or a waiting count is loaded; 0: never. */
uint64_t mk_pit_next_event(const struct mk_pit_channel *ch);
/* Interrupts up to `e` clocks after the load that were not counted yet. */
uint64_t mk_pit_new_ticks(struct mk_pit_channel *ch, uint64_t e);
/* Brings a channel up to `now`. Returns the interrupts. */
uint64_t mk_pit_advance(struct mk_pit_channel *ch, uint64_t now);
/* A control word, but of the latch commands. */
void mk_pit_program(struct mk_pit_channel *ch, uint8_t control);
/* A byte to or from its port. */
void mk_pit_write_count(struct mk_pit_channel *ch, uint8_t value, uint64_t now);
uint8_t mk_pit_read_count(struct mk_pit_channel *ch, uint64_t now);
/* A second latch before the first was read is ignored. */
void mk_pit_latch_count(struct mk_pit_channel *ch, uint64_t now);
void mk_pit_latch_status(struct mk_pit_channel *ch, uint64_t now);
void mk_pit_set_gate(struct mk_pit_channel *ch, bool gate, uint64_t now);

#endif
