/* guest.c - a guest comes with its image, and goes with a sentence. */
#include "hyper.h"

static struct guest guests[MAX_GUESTS];
static uint64_t roots[MAX_GUESTS][2048] __attribute__((aligned(4 * PAGE)));
static size_t count;

struct guest *guest_at(size_t index)
{
    return index < count ? &guests[index] : NULL;
}

static bool load(struct guest *guest, const char *image, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += PAGE) {
        char *page = guest_memory(guest, GUEST_BASE + at, true);

        for (uint64_t i = 0; page && i < PAGE && at + i < size; i++)
            page[i] = image[at + i];
        if (!page)
            return false;
    }
    return true;
}

void guest_add(const char *name, const void *image, uint64_t size)
{
    struct guest *guest = &guests[count];

    if (size == 0) {
        say("%s is not started: its image is empty", name);
    } else if (size > GUEST_RAM) {
        say("%s is not started: its image has %lu bytes, a guest's memory %lu", name, size,
            GUEST_RAM);
    } else if (count == MAX_GUESTS) {
        say("%s is not started: there are %lu guests already", name, MAX_GUESTS);
    } else {
        guest->name = name;
        guest->root = roots[count];
        guest->timer = NEVER;
        vcpu_init(&guest->vcpu);
        count++;
        if (!load(guest, image, size))
            guest_end(guest, "is not started: no page is left for its image");
    }
}

void guest_end(struct guest *guest, const char *format, ...)
{
    va_list ap;

    guest_flush(guest);
    va_start(ap, format);
    vsay(guest->name, format, ap);
    va_end(ap);
    guest->state = ENDED;
    stage2_free(guest);
}
