/* pit.c - see pit.h. Follows the Intel 8254 data sheet (order 231164), "Programming the
 * 8254" and "Mode Definitions"; port 0x61 as in the IBM PC/AT Technical Reference.
 *
 * Nothing ticks here: a channel is the time at which its count was loaded, and what a guest reads
 * is computed from the time that passed. The host's timer runs for channel 0's interrupts alone.
 *
 * Thread: any; every entry takes the lock. Line and timer are moved by update_irq(), without it.
 *
 * Limits and deliberate differences:
 * - Interrupts come every 100 us at the most: of a faster channel 0 only every n-th rising edge
 *   interrupts. The count itself still runs at the programmed rate.
 * - The data sheet forbids a count of 1 in modes 2 and 3; here it means "no low phase".
 * - A control word that makes OUT rise does not interrupt: OUT is undefined after power-up. */
#include "dev/pit.h"

#include "base/abi.h"

#include <limits.h>

#define NS 1000000000u
#define CLOCK_NS 839            /* one input clock: a written count is loaded at the next one */
#define MIN_TICK_CLOCKS 120u    /* the least with 100 us or more */
#define REFRESH_CLOCKS 18u      /* a PC refreshes memory every 15 us */
#define MAX_AGE (INT64_MAX / 4) /* of a count, in ns: sums of two cannot overflow */

#define ACCESS_LOW 1
#define ACCESS_HIGH 2
#define ACCESS_BOTH 3

#define STATUS_OUT 0x80
#define STATUS_NULL 0x40

/* --- arithmetic --- */

static uint64_t clocks_of(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * MK_PIT_HZ / NS);
}

/* Rounded up: clocks_of() of the result is at least `clocks`. */
static uint64_t ns_of(uint64_t clocks)
{
    return (uint64_t)(((unsigned __int128)clocks * NS + MK_PIT_HZ - 1) / MK_PIT_HZ);
}

static uint32_t from_bcd(uint16_t v)
{
    return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static uint16_t to_bcd(uint32_t v)
{
    v %= 10000;
    return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

/* --- one channel --- */

static bool is_bcd(const struct mk_pit_channel *ch)
{
    return ch->control & 1;
}

static bool periodic(const struct mk_pit_channel *ch)
{
    return ch->mode == 2 || ch->mode == 3;
}

/* Modes in which a rising gate, not the count, starts the counting. */
static bool triggered(const struct mk_pit_channel *ch)
{
    return ch->mode == 1 || ch->mode == 5;
}

static uint32_t modulus(const struct mk_pit_channel *ch)
{
    return is_bcd(ch) ? 10000 : 65536;
}

/* Input clocks since the count was loaded. */
static uint64_t elapsed(const struct mk_pit_channel *ch, uint64_t now)
{
    if (!ch->running)
        return ch->held;
    int64_t ns = (int64_t)now - ch->start;
    return ns > 0 ? clocks_of((uint64_t)ns) : 0;
}

/* Clocks of the first half of a square wave. */
static uint32_t high_half(const struct mk_pit_channel *ch)
{
    return (ch->reload + 1) / 2;
}

static bool output(const struct mk_pit_channel *ch, uint64_t now)
{
    uint64_t e = elapsed(ch, now);
    uint32_t n = ch->reload;
    if (!ch->loaded)
        return ch->mode != 0;
    switch (ch->mode) {
    case 0: return e >= n && !ch->write_high;
    case 1: return !ch->running || e >= n;
    case 2: return !ch->gate || n == 1 || e % n != n - 1;
    case 3: return !ch->gate || e % n < high_half(ch);
    case 4: return e != n;
    default: return !ch->running || e != n;
    }
}

/* Square wave: counts down by two, once for each half; an odd count starts at one less. */
static uint32_t square_count(const struct mk_pit_channel *ch, uint64_t e)
{
    uint32_t phase = (uint32_t)(e % ch->reload), high = high_half(ch);
    return (ch->reload & ~1u) - 2 * (phase < high ? phase : phase - high);
}

static uint16_t counter(const struct mk_pit_channel *ch, uint64_t now)
{
    uint64_t e = elapsed(ch, now);
    uint32_t n = ch->reload, m = modulus(ch), value;
    if (!ch->loaded)
        return 0;
    if (ch->mode == 2)
        value = n - (uint32_t)(e % n);
    else if (ch->mode == 3)
        value = square_count(ch, e);
    else
        value = (n % m + m - (uint32_t)(e % m)) % m;
    return is_bcd(ch) ? to_bcd(value) : (uint16_t)value;
}

static uint8_t status(const struct mk_pit_channel *ch, uint64_t now)
{
    bool waits =
        !ch->loaded || ch->next || (int64_t)now < ch->start || (triggered(ch) && !ch->running);
    return (uint8_t)((output(ch, now) ? STATUS_OUT : 0) | (waits ? STATUS_NULL : 0) | ch->control);
}

/* Clocks from one interrupt to the next in a periodic mode. */
static uint64_t tick_clocks(const struct mk_pit_channel *ch)
{
    uint64_t n = ch->reload;
    return n * ((MIN_TICK_CLOCKS + n - 1) / n);
}

/* Rising edges of OUT that interrupt, up to `e` clocks after the load. */
static uint64_t ticks_at(const struct mk_pit_channel *ch, uint64_t e)
{
    switch (ch->mode) {
    case 0: return e >= ch->reload;
    case 2:
    case 3: return e / tick_clocks(ch);
    case 4: return e > ch->reload;
    default: return 0;
    }
}

/* When ticks_at() next grows, or a waiting count is loaded; 0: never. */
static uint64_t next_event(const struct mk_pit_channel *ch)
{
    uint64_t e = 0;
    if (!ch->running)
        return 0;
    if (periodic(ch) && ch->next)
        e = ch->next_at;
    else if (periodic(ch))
        e = (ch->ticked + 1) * tick_clocks(ch);
    else if (!ch->ticked && !triggered(ch))
        e = ch->reload + (ch->mode == 4);
    return e ? (uint64_t)(ch->start + (int64_t)ns_of(e)) : 0;
}

static uint64_t new_ticks(struct mk_pit_channel *ch, uint64_t e)
{
    uint64_t ticks = ticks_at(ch, e), before = ch->ticked;
    if (ticks <= before) /* another vCPU's `now` may be a little older than ours */
        return 0;
    ch->ticked = ticks;
    return ticks - before;
}

/* Loads the waiting count: at the end of a period, or of the first half of a square wave's. Returns
 * the interrupts until then. */
static uint64_t load_next(struct mk_pit_channel *ch)
{
    uint64_t n = new_ticks(ch, ch->next_at);
    bool half = ch->next_at % ch->reload != 0;
    ch->start += (int64_t)ns_of(ch->next_at);
    ch->reload = ch->next;
    ch->next = 0;
    ch->ticked = 0;
    if (half)
        ch->start -= (int64_t)ns_of(high_half(ch));
    return n;
}

/* Brings a channel up to `now`. Returns the interrupts. */
static uint64_t advance(struct mk_pit_channel *ch, uint64_t now)
{
    uint64_t n = 0;
    if (ch->next && ch->running && periodic(ch) && elapsed(ch, now) >= ch->next_at)
        n = load_next(ch);
    return n + new_ticks(ch, elapsed(ch, now));
}

static void restart(struct mk_pit_channel *ch, uint64_t now, bool run)
{
    if (ch->next)
        ch->reload = ch->next;
    ch->next = 0;
    ch->start = (int64_t)now + CLOCK_NS;
    ch->held = ch->ticked = 0;
    ch->running = run;
}

static void load_count(struct mk_pit_channel *ch, uint16_t value, uint64_t now)
{
    uint32_t n = is_bcd(ch) ? from_bcd(value) : value;
    ch->next = n ? n : modulus(ch);
    if (periodic(ch) && ch->loaded && ch->running) {
        uint64_t e = elapsed(ch, now), period = e - e % ch->reload;
        bool high = ch->mode == 3 && e - period < high_half(ch);
        ch->next_at = period + (high ? high_half(ch) : ch->reload);
    } else if (!triggered(ch) || !ch->loaded) {
        restart(ch, now, ch->gate && !triggered(ch));
        ch->loaded = true;
    }
}

static void program(struct mk_pit_channel *ch, uint8_t control)
{
    uint8_t mode = control >> 1 & 7;
    *ch = (struct mk_pit_channel){
        .control = control & 0x3f,
        .mode = mode > 5 ? mode - 4 : mode, /* 6 and 7 are 2 and 3 */
        .access = control >> 4 & 3,
        .reload = 1,
        .gate = ch->gate,
    };
}

static void write_count(struct mk_pit_channel *ch, uint8_t value, uint64_t now)
{
    if (ch->access == ACCESS_LOW) {
        load_count(ch, value, now);
    } else if (ch->access == ACCESS_HIGH) {
        load_count(ch, (uint16_t)(value << 8), now);
    } else if (ch->write_high) {
        ch->write_high = false;
        load_count(ch, (uint16_t)(value << 8 | ch->write_low), now);
    } else {
        ch->write_low = value;
        ch->write_high = true;
        if (ch->mode == 0 && ch->running) { /* the first byte stops the count and lowers OUT */
            ch->held = elapsed(ch, now);
            ch->running = false;
        }
    }
}

static uint8_t read_count(struct mk_pit_channel *ch, uint64_t now)
{
    if (ch->status_latched) {
        ch->status_latched = false;
        return ch->status;
    }
    uint16_t value = ch->count_latched ? ch->latch : counter(ch, now);
    bool high = ch->access == ACCESS_HIGH || (ch->access == ACCESS_BOTH && ch->read_high);
    if (ch->access == ACCESS_BOTH)
        ch->read_high = !high;
    if (high || ch->access == ACCESS_LOW)
        ch->count_latched = false;
    return (uint8_t)(high ? value >> 8 : value);
}

/* A second latch before the first was read is ignored. */
static void latch_count(struct mk_pit_channel *ch, uint64_t now)
{
    if (ch->count_latched)
        return;
    ch->latch = counter(ch, now);
    ch->count_latched = true;
}

static void latch_status(struct mk_pit_channel *ch, uint64_t now)
{
    if (ch->status_latched)
        return;
    ch->status = status(ch, now);
    ch->status_latched = true;
}

static void gate_rises(struct mk_pit_channel *ch, uint64_t now)
{
    if (!ch->loaded)
        return;
    if (periodic(ch) || triggered(ch)) {
        restart(ch, now, true);
    } else if (ch->mode != 0 || !ch->write_high) {
        ch->start = (int64_t)(now - ns_of(ch->held));
        ch->running = true;
    }
}

static void set_gate(struct mk_pit_channel *ch, bool gate, uint64_t now)
{
    if (gate == (bool)ch->gate)
        return;
    ch->gate = gate;
    if (gate) {
        gate_rises(ch, now);
    } else if (!triggered(ch)) {
        ch->held = elapsed(ch, now);
        ch->running = false;
    }
}

/* --- the chip; the caller of these holds the lock --- */

/* Ticks kept for a guest that was not given the time to take them. */
static uint32_t owed_limit(const struct mk_pit_channel *ch)
{
    uint64_t ticks = periodic(ch) ? MK_PIT_HZ / tick_clocks(ch) : 1;
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
    owe(s, advance(&s->channel[0], now));
    advance(&s->channel[1], now);
    advance(&s->channel[2], now);
    if (pit->lose_ticks && s->owed > 1)
        s->owed = 1;
}

/* The guest took a tick late: it is not given the next one at once, too. */
static void lose_near_tick(struct mk_pit_channel *ch, uint64_t now)
{
    if (periodic(ch) && ch->running && !ch->next)
        new_ticks(ch, elapsed(ch, now) + tick_clocks(ch) / 2);
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
            latch_count(&s->channel[i], now);
        if (!(command & 0x10))
            latch_status(&s->channel[i], now);
    }
}

static void write_control(struct mk_pit_state *s, uint8_t value, uint64_t now)
{
    unsigned which = value >> 6;
    if (which == 3) {
        read_back(s, value, now);
    } else if (!(value & 0x30)) {
        latch_count(&s->channel[which], now);
    } else {
        program(&s->channel[which], value);
        if (which == 0)
            clear_owed(s, true);
    }
}

/* What the line should do next; false: nothing. */
static bool line_step(struct mk_pit *pit)
{
    struct mk_pit_state *s = &pit->state;
    bool want = s->owed > 0, drop = pit->drop;
    pit->drop = false;
    if (s->line ? want && !drop : !want)
        return false;
    s->line = !s->line;
    bool level = s->line;
    pthread_mutex_unlock(&pit->dev.lock);
    mk_irq_set(&pit->irq, level);
    pthread_mutex_lock(&pit->dev.lock);
    return true;
}

static bool timer_step(struct mk_pit *pit)
{
    uint64_t at = pit->want_at;
    if (at == pit->armed_at)
        return false;
    pit->armed_at = at;
    pthread_mutex_unlock(&pit->dev.lock);
    if (at)
        mk_clock_arm(pit->clock, &pit->timer, at);
    else
        mk_clock_disarm(pit->clock, &pit->timer);
    pthread_mutex_lock(&pit->dev.lock);
    return true;
}

/* Ends a locked section: brings line and timer to what the state asks for. Both call out, so it is
 * done unlocked, and by one thread at a time, or a stale level could arrive last: who comes second
 * leaves the work to the first. */
static void update_irq(struct mk_pit *pit)
{
    pit->want_at = next_event(&pit->state.channel[0]);
    if (!pit->updating) {
        pit->updating = true;
        while (line_step(pit) || timer_step(pit))
            ;
        pit->updating = false;
    }
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
    update_irq(pit);
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
    pit->drop = true;
    update_irq(pit);
}

/* --- ports --- */

static uint64_t pit_in(void *self, struct mk_io *io)
{
    struct mk_pit *pit = self;
    unsigned which = io->address & 3;
    if (which == 3)
        return 0xff; /* the control word cannot be read */
    uint64_t now = enter(pit);
    uint8_t value = read_count(&pit->state.channel[which], now);
    update_irq(pit);
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
        write_count(&pit->state.channel[which], (uint8_t)value, now);
    if (which == 0)
        clear_owed(&pit->state, false);
    update_irq(pit);
}

static uint64_t sysb_in(void *self, struct mk_io *io)
{
    struct mk_pit *pit = self;
    (void)io;
    uint64_t now = enter(pit);
    uint32_t refresh = clocks_of(now) / REFRESH_CLOCKS & 1;
    uint32_t out2 = output(&pit->state.channel[2], now);
    uint32_t value = pit->state.speaker | refresh << 4 | out2 << 5;
    update_irq(pit);
    return value;
}

static void sysb_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pit *pit = self;
    (void)io;
    uint64_t now = enter(pit);
    pit->state.speaker = value & 0x0f;
    set_gate(&pit->state.channel[2], value & 1, now);
    update_irq(pit);
}

/* --- as a device --- */

static void power_up(struct mk_pit_state *s)
{
    uint8_t line = s->line; /* update_irq() lowers it */
    *s = (struct mk_pit_state){ .line = line };
    s->channel[0].gate = s->channel[1].gate = true;
    for (unsigned i = 0; i < 3; i++)
        program(&s->channel[i], 0x36);
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
    update_irq(pit);
}

static void pit_before_save(void *self)
{
    enter(self);
    update_irq(self);
}

static bool pit_valid(const void *self)
{
    const struct mk_pit *pit = self;
    for (unsigned i = 0; i < 3; i++) {
        const struct mk_pit_channel *ch = &pit->state.channel[i];
        if (ch->ticked > clocks_of(MAX_AGE) / tick_clocks(ch))
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
    update_irq(pit);
}

static const struct mk_io_ops pit_ops = { .name = "pit", .in = pit_in, .out = pit_out, .width = 1 };
static const struct mk_io_ops sysb_ops = {
    .name = "pit", .in = sysb_in, .out = sysb_out, .width = 1
};

#define CHANNEL struct mk_pit_channel
#define CLOCKS_MAX (MAX_AGE / 1000000000 * MK_PIT_HZ)
static const struct mk_field channel_fields[] = {
    MK_TIME(CHANNEL, start, -MAX_AGE, CLOCK_NS),
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

/* But the level of the line: it is as it is, and update_irq() moves it where the state wants it. */
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
