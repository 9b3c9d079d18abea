/* test_shadow.c - paging by memory slots against a KVM that refuses a slot at any moment:
 * afterwards no slot is there that nobody knows, and the next attempt is whole. Prints TAP.
 *
 * ioctl() is replaced by a model of KVM_SET_USER_MEMORY_REGION (Documentation/virt/kvm/api.rst,
 * 4.35): slots must not overlap, one that is not there cannot be removed. */
#include "tap.h"
#include "x86/weak/shadow.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#define SLOTS 16384
#define RAM (8u << 20)
#define PAGES 40 /* that the tables map, each on its own */

static struct kvm_userspace_memory_region slot[SLOTS];
static unsigned slots, calls, fail_at;
static uint32_t *changing; /* an entry that another vCPU writes while slots are made; NULL: none */

static bool overlaps(const struct kvm_userspace_memory_region *a)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (slot[i].memory_size && i != a->slot &&
            a->guest_phys_addr < slot[i].guest_phys_addr + slot[i].memory_size &&
            slot[i].guest_phys_addr < a->guest_phys_addr + a->memory_size)
            return true;
    return false;
}

static int set_region(const struct kvm_userspace_memory_region *region)
{
    bool there = slot[region->slot].memory_size, wanted = region->memory_size;
    if (changing && wanted)
        *changing = 0;
    if (++calls == fail_at)
        return ENOMEM;
    if (!wanted && !there)
        return EINVAL;
    if (wanted && overlaps(region))
        return EEXIST;
    slots += wanted - there;
    slot[region->slot] = *region;
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    const void *argument = va_arg(ap, const void *);
    va_end(ap);
    (void)fd;
    errno = request == KVM_SET_USER_MEMORY_REGION ? set_region(argument) : ENOTTY;
    return errno ? -1 : 0;
}

/* A directory at `at`, whose one table maps every other page from `first` on, backwards in RAM. */
static void make_tables(struct mk_mem *mem, uint32_t at, uint32_t first)
{
    memset(mem->regions[0].host + at, 0, 2 * MK_PAGE);
    uint32_t pde = (at + MK_PAGE) | 3, pte;
    memcpy(mem->regions[0].host + at, &pde, sizeof(pde));
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t page = first + 2 * i;
        pte = (RAM - (page + 1) * MK_PAGE) | 3;
        memcpy(mem->regions[0].host + at + MK_PAGE + page * sizeof(pte), &pte, sizeof(pte));
    }
}

/* From paging with one set of tables to paging with another, half of which is the same. */
static bool switch_tables(struct mk_mem *mem, unsigned failing, bool *whole)
{
    struct mk_shadow s = { .next_slot = MK_REGIONS };
    struct mk_err err;
    memset(slot, 0, sizeof(slot));
    slots = calls = fail_at = 0;
    bool good = mk_mem_register(mem, 0, &err) == 0 &&
                mk_shadow_set_cr3(&s, mem, 0, 0x1000, false, &err) == 0 && slots == PAGES;
    calls = 0;
    fail_at = failing;
    *whole = mk_shadow_set_cr3(&s, mem, 0, 0x4000, false, &err) == 0;
    good &= slots == (*whole ? PAGES : 0) && s.run_count == slots;
    fail_at = 0;
    good &= mk_shadow_set_cr3(&s, mem, 0, 0x4000, false, &err) == 0 && slots == PAGES &&
            mk_shadow_disable(&s, mem, 0, &err) == 0 && slots == 1;
    mk_shadow_reset(&s);
    return good;
}

/* A table that changes after it was walked, and before the walk is over, is seen to have changed.
 */
static void test_changing_table(struct mk_mem *mem)
{
    struct mk_shadow s = { .next_slot = MK_REGIONS };
    struct mk_err err;
    memset(slot, 0, sizeof(slot));
    slots = fail_at = 0;
    make_tables(mem, 0x1000, 16);
    mk_mem_register(mem, 0, &err);
    changing = (uint32_t *)(void *)(mem->regions[0].host + 0x2000 + 16 * sizeof(uint32_t));
    bool made = mk_shadow_set_cr3(&s, mem, 0, 0x1000, false, &err) == 0;
    changing = NULL;
    tap_ok(made && slots == PAGES, "slots are those of the tables as they were walked");
    tap_ok(mk_shadow_stale(&s, mem, 0x1000, false), "and what changed meanwhile is noticed");
    mk_shadow_disable(&s, mem, 0, &err);
    mk_shadow_reset(&s);
}

int main(void)
{
    struct mk_mem mem;
    struct mk_err err;
    bool good = true, whole = false;
    unsigned n = 0;
    if (mk_mem_open(&mem, RAM, &err) < 0)
        return 1;
    make_tables(&mem, 0x1000, 16);
    make_tables(&mem, 0x4000, 16 + PAGES);
    while (good && !whole)
        good = switch_tables(&mem, ++n, &whole);
    tap_ok(good, "no slot is left over, whichever call fails");
    tap_ok(n > PAGES, "every call was made to fail once");
    test_changing_table(&mem);
    mk_mem_close(&mem);
    return tap_done();
}
