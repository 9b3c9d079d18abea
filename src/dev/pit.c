/* pit.c - see pit.h. Three channels (pit_channel.h) and the interrupt of the first; port 0x61 as in
 * the IBM PC/AT Technical Reference. The host's timer runs for channel 0's interrupts alone.
 *
 * Thread: any; every entry takes the lock, and ends in finish(), which moves line and timer.
 *
 * Limits and deliberate differences:
 * - Interrupts come every 100 us at the most: of a faster channel 0 only every n-th rising edge
 *   interrupts. The count itself still runs at the programmed rate.
 * - The data sheet forbids a count of 1 in modes 2 and 3; here it means "no low phase".
 * - A control word that makes OUT rise does not interrupt: OUT is undefined after power-up. */
#include "dev/pit.h"

#include "base/abi.h"

#include <limits.h>

#define REFRESH_CLOCKS 18u      /* a PC refreshes memory every 15 us */
#define MAX_AGE (INT64_MAX / 4) /* of a count, in ns: sums of two cannot overflow */

/* --- the chip; the caller of these holds the lock --- */

/* Ticks kept for a guest that was not given the time to take them. */
static uint32_t owed_limit(const struct mk_pit_channel *ch)
{
    uint64_t ticks = mk_pit_periodic(ch) ? MK_PIT_HZ / mk_pit_tick_clocks(ch) : 1;
    return ticks ? (uint32_t)ticks : 1;
}

static void owe(struct mk_pit_state *s, uint64_t ticks)
{
    uint32_t limit = owed_limit(&s->channel[0]);
    if (ticks)
        s->owed = ticks < limit && s->owed < limit - ticks ? s->owed + (uint32_t)ticks : limit;
}

static void catch_up(struct mk_pit *pit, uint64_t now)
{
    struct mk_pit_state *s = &pit->state;
    owe(s, mk_pit_advance(&s->channel[0], now));
    mk_pit_advance(&s->channel[1], now);
    mk_pit_advance(&s->channel[2], now);
    if (pit->lose_ticks && s->owed > 1)
        s->owed = 1;
}

/* The guest took a tick late: it is not given the next one at once, too. */
static void lose_near_tick(struct mk_pit_channel *ch, uint64_t now)
{
    if (mk_pit_periodic(ch) && ch->running && !ch->next)
        mk_pit_new_ticks(ch, mk_pit_elapsed(ch, now) + mk_pit_tick_clocks(ch) / 2);
}

/* OUT falls when mode 0 begins, and a request that was not yet taken falls with it. What other
 * modes owed was a matter of the old rate: one tick may still be pending, as on the chip. */
static void clear_owed(struct mk_pit_state *s, bool control_word)
{
    if (s->channel[0].mode == 0)
        s->owed = 0;
    else if (control_word && s->owed > 1)
        s->owed = 1;
}

static void read_back(struct mk_pit_state *s, uint8_t command, uint64_t now)
{
    for (unsigned i = 0; i < 3; i++) {
        if (!(command & 2u << i))
            continue;
        if (!(command & 0x20))
            mk_pit_latch_count(&s->channel[i], now);
        if (!(command & 0x10))
            mk_pit_latch_status(&s->channel[i], now);
    }
}

static void write_control(struct mk_pit_state *s, uint8_t value, uint64_t now)
{
    unsigned which = value >> 6;
    if (which == 3) {
        read_back(s, value, now);
    } else if (!(value & 0x30)) {
        mk_pit_latch_count(&s->channel[which], now);
    } else {
        mk_pit_program(&s->channel[which], value);
        if (which == 0)
            clear_owed(s, true);
    }
}

/* Ends a locked section: brings line and timer to what the state asks for. */
static void finish(struct mk_pit *pit)
{
    uint64_t at = mk_pit_next_event(&pit->state.channel[0]);
    mk_irq_set(&pit->irq, pit->state.owed > 0);
    if (at && at != pit->armed_at)
        mk_clock_arm(pit->clock, &pit->timer, at);
    else if (!at && pit->armed_at)
        mk_clock_disarm(pit->clock, &pit->timer);
    pit->armed_at = at;
    pthread_mutex_unlock(&pit->dev.lock);
}

/* Locks and catches up; returns the time. */
static uint64_t enter(struct mk_pit *pit)
{
    uint64_t now = mk_clock_now(pit->clock);
    pthread_mutex_lock(&pit->dev.lock);
    catch_up(pit, now);
    return now;
}

static void fire(void *ctx, uint64_t now)
{
    struct mk_pit *pit = ctx;
    struct mk_pit_state *s = &pit->state;
    bool masked = pit->masked && pit->masked(pit->masked_ctx, pit->irq.line);
    pthread_mutex_lock(&pit->dev.lock);
    pit->armed_at = 0;
    catch_up(pit, now);
    /* A handler may mask its own line for a moment; only what stays masked was not wanted. */
    if (masked && s->was_masked && s->owed > 1)
        s->owed = 1;
    s->was_masked = masked;
    finish(pit);
}

void mk_pit_on_ack(void *self, unsigned line)
{
    struct mk_pit *pit = self;
    if (line != pit->irq.line)
        return;
    pthread_mutex_lock(&pit->dev.lock);
    if (pit->state.owed)
        pit->state.owed--;
    if (pit->lose_ticks)
        lose_near_tick(&pit->state.channel[0], mk_clock_now(pit->clock));
    pit->state.was_masked = false; /* or the guest would not have got it */
    mk_irq_set(&pit->irq, false);  /* for a moment, so that the next one is an edge */
    finish(pit);
}

/* --- ports --- */

static uint64_t pit_in(void *self, struct mk_io *io)
{
    struct mk_pit *pit = self;
    unsigned which = io->address & 3;
    if (which == 3)
        return 0xff; /* the control word cannot be read */
    uint64_t now = enter(pit);
    uint8_t value = mk_pit_read_count(&pit->state.channel[which], now);
    finish(pit);
    return value;
}

static void pit_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pit *pit = self;
    unsigned which = io->address & 3;
    uint64_t now = enter(pit);
    if (which == 3)
        write_control(&pit->state, (uint8_t)value, now);
    else
        mk_pit_write_count(&pit->state.channel[which], (uint8_t)value, now);
    if (which == 0)
        clear_owed(&pit->state, false);
    finish(pit);
}

static uint64_t sysb_in(void *self, struct mk_io *io)
{
    struct mk_pit *pit = self;
    (void)io;
    uint64_t now = enter(pit);
    uint32_t refresh = mk_pit_clocks(now) / REFRESH_CLOCKS & 1;
    uint32_t out2 = mk_pit_output(&pit->state.channel[2], now);
    uint32_t value = pit->state.speaker | refresh << 4 | out2 << 5;
    finish(pit);
    return value;
}

static void sysb_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pit *pit = self;
    (void)io;
    uint64_t now = enter(pit);
    pit->state.speaker = value & 0x0f;
    mk_pit_set_gate(&pit->state.channel[2], value & 1, now);
    finish(pit);
}

/* --- as a device --- */

static void power_up(struct mk_pit_state *s)
{
    *s = (struct mk_pit_state){ 0 };
    s->channel[0].gate = s->channel[1].gate = true;
    for (unsigned i = 0; i < 3; i++)
        mk_pit_program(&s->channel[i], 0x36);
}

struct mk_dev *mk_pit_init(struct mk_pit *pit, struct mk_clock *clock, struct mk_irq irq)
{
    *pit = (struct mk_pit){
        .irq = irq,
        .clock = clock,
        .timer = { .fire = fire, .ctx = pit },
    };
    power_up(&pit->state);
    return &pit->dev;
}

static void pit_free(void *self)
{
    struct mk_pit *pit = self;
    mk_clock_disarm(pit->clock, &pit->timer);
}

static void pit_reset(void *self)
{
    struct mk_pit *pit = self;
    pthread_mutex_lock(&pit->dev.lock);
    power_up(&pit->state);
    finish(pit);
}

static void pit_before_save(void *self)
{
    enter(self);
    finish(self);
}

static bool pit_valid(const void *self)
{
    const struct mk_pit *pit = self;
    for (unsigned i = 0; i < 3; i++) {
        const struct mk_pit_channel *ch = &pit->state.channel[i];
        if (ch->ticked > mk_pit_clocks(MAX_AGE) / mk_pit_tick_clocks(ch))
            return false;
    }
    return true;
}

static void pit_after_load(void *self)
{
    struct mk_pit *pit = self;
    pthread_mutex_lock(&pit->dev.lock);
    uint32_t limit = owed_limit(&pit->state.channel[0]);
    if (pit->state.owed > limit)
        pit->state.owed = limit;
    finish(pit);
}

static const struct mk_io_ops pit_ops = { .name = "pit", .in = pit_in, .out = pit_out, .width = 1 };
static const struct mk_io_ops sysb_ops = {
    .name = "pit", .in = sysb_in, .out = sysb_out, .width = 1
};

#define CHANNEL struct mk_pit_channel
#define CLOCKS_MAX (MAX_AGE / 1000000000 * MK_PIT_HZ)
static const struct mk_field channel_fields[] = {
    MK_TIME(CHANNEL, start, -MAX_AGE, MK_PIT_CLOCK_NS),
    MK_RANGE(CHANNEL, held, 0, CLOCKS_MAX),
    MK_RANGE(CHANNEL, next_at, 0, CLOCKS_MAX),
    MK_RAW(CHANNEL, ticked),
    MK_RANGE(CHANNEL, reload, 1, 65536),
    MK_RANGE(CHANNEL, next, 0, 65536),
    MK_RAW(CHANNEL, latch),
    MK_RAW(CHANNEL, control),
    MK_RANGE(CHANNEL, mode, 0, 5),
    MK_RANGE(CHANNEL, access, 1, 3),
    MK_RAW(CHANNEL, write_low),
    MK_RAW(CHANNEL, status),
    MK_RAW(CHANNEL, write_high),
    MK_RAW(CHANNEL, read_high),
    MK_RAW(CHANNEL, count_latched),
    MK_RAW(CHANNEL, status_latched),
    MK_RAW(CHANNEL, loaded),
    MK_RAW(CHANNEL, running),
    MK_RAW(CHANNEL, gate),
    { 0 },
};

static const struct mk_field fields[] = {
    MK_LIST(struct mk_pit, state.channel, channel_fields),
    MK_RAW(struct mk_pit, state.owed),
    MK_BITS(struct mk_pit, state.speaker, 0x0f),
    MK_RAW(struct mk_pit, state.was_masked),
    { 0 },
};

const struct mk_dev_ops mk_pit_dev = {
    .name = "pit",
    .ranges = { { MK_SPACE_PORTS, MK_PORT_PIT, MK_PORT_PIT + 3, &pit_ops },
                { MK_SPACE_PORTS, MK_PORT_SYSB, MK_PORT_SYSB, &sysb_ops } },
    .fields = fields,
    .valid = pit_valid,
    .before_save = pit_before_save,
    .after_load = pit_after_load,
    .reset = pit_reset,
    .free = pit_free,
};
