/* pit_channel.c - one channel of the 8254: its modes, count and status. See pit_channel.h. Intel
 * 8254 data sheet (order 231164), "Programming the 8254" and "Mode Definitions". The caller holds
 * the chip's lock.
 *
 * Nothing ticks here: a channel is the time at which its count was loaded, and what a guest reads
 * is computed from the time that passed. */
#include "dev/pit_channel.h"

#define NS 1000000000u
#define MIN_TICK_CLOCKS 120u /* the least with 100 us or more */
#define ACCESS_LOW 1
#define ACCESS_HIGH 2
#define ACCESS_BOTH 3
#define STATUS_OUT 0x80
#define STATUS_NULL 0x40

/* --- arithmetic --- */

uint64_t mk_pit_clocks(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * MK_PIT_HZ / NS);
}

/* Rounded up: mk_pit_clocks() of the result is at least `clocks`. */
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

bool mk_pit_periodic(const struct mk_pit_channel *ch)
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
uint64_t mk_pit_elapsed(const struct mk_pit_channel *ch, uint64_t now)
{
    if (!ch->running)
        return ch->held;
    int64_t ns = (int64_t)now - ch->start;
    return ns > 0 ? mk_pit_clocks((uint64_t)ns) : 0;
}

/* Clocks of the first half of a square wave. */
static uint32_t high_half(const struct mk_pit_channel *ch)
{
    return (ch->reload + 1) / 2;
}

bool mk_pit_output(const struct mk_pit_channel *ch, uint64_t now)
{
    uint64_t e = mk_pit_elapsed(ch, now);
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
    uint64_t e = mk_pit_elapsed(ch, now);
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
    return (uint8_t)((mk_pit_output(ch, now) ? STATUS_OUT : 0) | (waits ? STATUS_NULL : 0) |
                     ch->control);
}

/* Clocks from one interrupt to the next in a periodic mode. */
uint64_t mk_pit_tick_clocks(const struct mk_pit_channel *ch)
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
    case 3: return e / mk_pit_tick_clocks(ch);
    case 4: return e > ch->reload;
    default: return 0;
    }
}

/* When ticks_at() next grows, or a waiting count is loaded; 0: never. */
uint64_t mk_pit_next_event(const struct mk_pit_channel *ch)
{
    uint64_t e = 0;
    if (!ch->running)
        return 0;
    if (mk_pit_periodic(ch) && ch->next)
        e = ch->next_at;
    else if (mk_pit_periodic(ch))
        e = (ch->ticked + 1) * mk_pit_tick_clocks(ch);
    else if (!ch->ticked && !triggered(ch))
        e = ch->reload + (ch->mode == 4);
    return e ? (uint64_t)(ch->start + (int64_t)ns_of(e)) : 0;
}

uint64_t mk_pit_new_ticks(struct mk_pit_channel *ch, uint64_t e)
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
    uint64_t n = mk_pit_new_ticks(ch, ch->next_at);
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
uint64_t mk_pit_advance(struct mk_pit_channel *ch, uint64_t now)
{
    uint64_t n = 0;
    if (ch->next && ch->running && mk_pit_periodic(ch) && mk_pit_elapsed(ch, now) >= ch->next_at)
        n = load_next(ch);
    return n + mk_pit_new_ticks(ch, mk_pit_elapsed(ch, now));
}

static void restart(struct mk_pit_channel *ch, uint64_t now, bool run)
{
    if (ch->next)
        ch->reload = ch->next;
    ch->next = 0;
    ch->start = (int64_t)now + MK_PIT_CLOCK_NS;
    ch->held = ch->ticked = 0;
    ch->running = run;
}

static void load_count(struct mk_pit_channel *ch, uint16_t value, uint64_t now)
{
    uint32_t n = is_bcd(ch) ? from_bcd(value) : value;
    ch->next = n ? n : modulus(ch);
    if (mk_pit_periodic(ch) && ch->loaded && ch->running) {
        uint64_t e = mk_pit_elapsed(ch, now), period = e - e % ch->reload;
        bool high = ch->mode == 3 && e - period < high_half(ch);
        ch->next_at = period + (high ? high_half(ch) : ch->reload);
    } else if (!triggered(ch) || !ch->loaded) {
        restart(ch, now, ch->gate && !triggered(ch));
        ch->loaded = true;
    }
}

void mk_pit_program(struct mk_pit_channel *ch, uint8_t control)
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

void mk_pit_write_count(struct mk_pit_channel *ch, uint8_t value, uint64_t now)
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
            ch->held = mk_pit_elapsed(ch, now);
            ch->running = false;
        }
    }
}

uint8_t mk_pit_read_count(struct mk_pit_channel *ch, uint64_t now)
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
void mk_pit_latch_count(struct mk_pit_channel *ch, uint64_t now)
{
    if (ch->count_latched)
        return;
    ch->latch = counter(ch, now);
    ch->count_latched = true;
}

void mk_pit_latch_status(struct mk_pit_channel *ch, uint64_t now)
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
    if (mk_pit_periodic(ch) || triggered(ch)) {
        restart(ch, now, true);
    } else if (ch->mode != 0 || !ch->write_high) {
        ch->start = (int64_t)(now - ns_of(ch->held));
        ch->running = true;
    }
}

void mk_pit_set_gate(struct mk_pit_channel *ch, bool gate, uint64_t now)
{
    if (gate == (bool)ch->gate)
        return;
    ch->gate = gate;
    if (gate) {
        gate_rises(ch, now);
    } else if (!triggered(ch)) {
        ch->held = mk_pit_elapsed(ch, now);
        ch->running = false;
    }
}
