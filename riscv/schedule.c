/* schedule.c - guests take turns on the hart, and it sleeps when all of them do.
 *
 * A turn ends with its time slice, or when the guest sleeps or ends. There is one timer below, the
 * firmware's; it is set to whatever comes first, the end of the slice or the guest's own timer. */
#include "hyper.h"

#define SLICE (10 * TICKS_PER_MS)

static uint64_t now(void)
{
    return csr_read(time);
}

/* Calls of the firmware take their time: only what changes is told. */
static void set_timer(uint64_t time)
{
    static uint64_t set = NEVER;

    if (time != set)
        firmware_set_timer(time);
    set = time;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The next one that can run, behind the one that ran last; waits for it. NULL: all have ended. */
static struct guest *next(void)
{
    static size_t last = MAX_GUESTS - 1;

    for (;;) {
        uint64_t wake = NEVER;

        for (size_t i = 0; i < MAX_GUESTS; i++) {
            size_t index = (last + 1 + i) % MAX_GUESTS;
            struct guest *guest = guest_at(index);

            if (!guest || guest->state == ENDED)
                continue;
            if (guest->state == READY || guest->timer <= now()) {
                last = index;
                guest->state = READY;
                return guest;
            }
            wake = earlier(wake, guest->timer);
        }
        if (wake == NEVER) /* who sleeps has a timer: exit.c */
            return NULL;
        set_timer(wake);
        __asm__ volatile("wfi"); /* ends with the timer's interrupt, though interrupts are off */
    }
}

static void take_turn(struct guest *guest)
{
    uint64_t end = now() + SLICE;

    do {
        if (guest->timer <= now()) {
            guest->timer = NEVER;
            vcpu_set_timer_interrupt(true);
        }
        set_timer(earlier(end, guest->timer));
        vcpu_enter(&guest->vcpu);
        handle_exit(guest);
    } while (guest->state == READY && now() < end);
    if (guest->state == READY)
        guest->slices++;
}

void schedule(uint64_t most_slices)
{
    struct guest *guest;

    while ((guest = next())) {
        vcpu_load(guest);
        take_turn(guest);
        vcpu_put(guest);
        if (guest->state == READY && guest->slices == most_slices)
            guest_end(guest, "is ended at 0x%lx: it used all of its %lu time slices",
                      guest->vcpu.pc, most_slices);
    }
}
