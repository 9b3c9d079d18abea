/* test_walk.c - the walk of page tables, as data: no KVM, no Lua. Expected values are written out
 * from the Intel SDM, volume 3, chapter 4. */
#include "memory.h"

static struct mk_mem tables;

static struct kvm_sregs paging(uint64_t cr3, uint64_t cr4, uint64_t efer)
{
    return (struct kvm_sregs){ .cr0 = MK_CR0_PG | MK_CR0_PE, .cr3 = cr3, .cr4 = cr4, .efer = efer };
}

static void walks_to(const struct kvm_sregs *s, uint64_t linear, uint64_t address, uint64_t size,
                     unsigned levels, const char *rights, const char *name)
{
    struct mk_walk w = mk_walk(&tables, s, linear);
    char have[3] = { w.writable ? 'w' : '-', w.user ? 'u' : '-', 0 };
    bool right = w.present && w.address == address && w.page_size == size && w.levels == levels &&
                 strcmp(have, rights) == 0;
    if (!tap_ok(right, name))
        printf("# present %d, 0x%llx, page of 0x%llx, %u levels, %s\n", w.present,
               (unsigned long long)w.address, (unsigned long long)w.page_size, w.levels, have);
}

static void walks_nowhere(const struct kvm_sregs *s, uint64_t linear, unsigned levels,
                          const char *name)
{
    struct mk_walk w = mk_walk(&tables, s, linear);
    if (!tap_ok(!w.present && w.levels == levels, name))
        printf("# present %d, 0x%llx, %u levels\n", w.present, (unsigned long long)w.address,
               w.levels);
}

static void test_walk_off(void)
{
    struct kvm_sregs s = { .cr0 = MK_CR0_PE, .cr3 = 0x1000 };
    walks_to(&s, 0x12345678, 0x12345678, 4096, 0, "wu", "no paging: addresses are their own");
    s.cr0 = MK_CR0_PG | MK_CR0_PE;
    s.cr3 = 0xfff00000;
    walks_nowhere(&s, 0x1000, 0, "directory outside RAM: nothing is present");
}

/* Directory at 0x1000, a table at 0x2000. */
static void test_walk_32(void)
{
    struct kvm_sregs s = paging(0x1000, MK_CR4_PSE, 0);
    put32(&tables, 0x1000, 0x2000 | U | W | P);
    put32(&tables, 0x2000 + 5 * 4, 0x7000 | U | W | P);
    put32(&tables, 0x2000 + 6 * 4, 0x8000 | U | P);
    put32(&tables, 0x2000 + 7 * 4, 0x9000 | W | P);
    put32(&tables, 0x2000 + 8 * 4, 0xa000 | U | W);
    put32(&tables, 0x2000 + 1023 * 4, 0xfffff000 | L | W | P);
    walks_to(&s, 0x5abc, 0x7abc, 4096, 2, "wu", "4K: a page");
    walks_to(&s, 0x6000, 0x8000, 4096, 2, "-u", "4K: read-only by its entry");
    walks_to(&s, 0x7fff, 0x9fff, 4096, 2, "w-", "4K: the supervisor's by its entry");
    walks_nowhere(&s, 0x8000, 2, "4K: absent, whatever its other bits say");
    walks_nowhere(&s, 0x400000, 1, "4K: absent table");
    walks_to(&s, 0x3fffff, 0xffffffff, 4096, 2, "w-",
             "4K: a page outside RAM is still mapped; bit 7 is no size there");
    put32(&tables, 0x1000, 0x2000 | P);
    walks_to(&s, 0x5abc, 0x7abc, 4096, 2, "--", "4K: rights are those of both levels");
    s.cr3 = 0x1018;
    walks_to(&s, 0x5abc, 0x7abc, 4096, 2, "--", "4K: the low bits of CR3 are no address");
    struct mk_walk w = mk_walk(&tables, &s, 0x6000);
    tap_is((long long)w.entry[0], 0x2001, "4K: the directory's entry is told");
    tap_is((long long)w.entry[1], 0x8005, "4K: and the table's");
}

static void test_walk_32_large(void)
{
    struct kvm_sregs s = paging(0x1000, MK_CR4_PSE, 0);
    put32(&tables, 0x1000 + 0x200 * 4, 0x00400000 | L | W | U | P);
    put32(&tables, 0x1000 + 0x201 * 4, 0x00800000 | 3 << 13 | L | P);
    put32(&tables, 0x1000 + 0x202 * 4, 0x00003000 | L | W | U | P);
    walks_to(&s, 0x80123456, 0x523456, 4 * MIB, 1, "wu", "4M: a page");
    walks_to(&s, 0x80400000, 0x300800000, 4 * MIB, 1, "--", "4M: PSE-36, above 4 GiB");
    s.cr4 = 0;
    put32(&tables, 0x3000, 0x5000 | W | U | P);
    walks_to(&s, 0x80800123, 0x5123, 4096, 2, "wu", "without CR4.PSE bit 7 means nothing");
}

static void test_walk_bad_tables(void)
{
    struct kvm_sregs s = paging(0x1000, MK_CR4_PSE, 0);
    put32(&tables, 0x1000 + 0x300 * 4, 0x7ffff000 | W | U | P);
    walks_nowhere(&s, 0xc0000000, 1, "a table outside RAM: not present");
    put32(&tables, 0x1000 + 0x3ff * 4, 0x1000 | W | P);
    walks_to(&s, 0xfffffabc, 0x1abc, 4096, 2, "w-", "a directory that maps itself");
    walks_to(&s, 0xffc00010, 0x2010, 4096, 2, "--", "through itself to its tables");
    s.cr3 = tables.size - MK_PAGE;
    put32(&tables, s.cr3 + 1023 * 4, (uint32_t)s.cr3 | W | P);
    walks_to(&s, 0xffffffff, tables.size - 1, 4096, 2, "w-", "tables in the last page of RAM");
}

/* Pointers at 0x10020, directory at 0x11000, table at 0x12000. */
static void test_walk_pae(void)
{
    struct kvm_sregs s = paging(0x10020, MK_CR4_PAE, 0);
    put64(&tables, 0x10020, 0x11000 | P);
    put64(&tables, 0x10020 + 3 * 8, 0x11000 | P);
    put64(&tables, 0x11000, 0x12000 | U | W | P);
    put64(&tables, 0x11000 + 511 * 8, UINT64_C(0x3ffe00000) | L | U | W | P);
    put64(&tables, 0x12000 + 511 * 8, UINT64_C(1) << 63 | 0x77000 | U | P);
    walks_to(&s, 0x1ff123, 0x77123, 4096, 3, "-u", "PAE: a page; NX is no address");
    walks_to(&s, 0xffe12345, 0x3ffe12345, 2 * MIB, 2, "wu", "PAE: 2 MiB, above 4 GiB");
    walks_nowhere(&s, 0x40000000, 1, "PAE: absent pointer");
    walks_nowhere(&s, 0x200000, 2, "PAE: absent directory entry");
    s.cr3 = 0x1003f;
    walks_to(&s, 0x1ff123, 0x77123, 4096, 3, "-u", "PAE: CR3 is aligned to 32 bytes");
    put64(&tables, 0x10020, UINT64_C(1) << 40 | P);
    walks_nowhere(&s, 0x1ff123, 1, "PAE: directory outside RAM");
}

/* Levels at 0x20000, 0x21000, 0x22000, 0x23000. */
static void test_walk_4_level(void)
{
    struct kvm_sregs s = paging(0x20000, MK_CR4_PAE, MK_EFER_LME | MK_EFER_LMA);
    put64(&tables, 0x20000 + 256 * 8, 0x21000 | U | W | P);
    put64(&tables, 0x21000, 0x22000 | U | W | P);
    put64(&tables, 0x21000 + 8, UINT64_C(0x80000000) | L | W | P);
    put64(&tables, 0x22000, 0x23000 | U | W | P);
    put64(&tables, 0x22000 + 8, 0x400000 | L | U | P);
    put64(&tables, 0x23000 + 3 * 8, 0x99000 | U | W | P);
    walks_to(&s, 0xffff800000003456, 0x99456, 4096, 4, "wu", "4-level: a page");
    walks_to(&s, 0xffff800000212345, 0x412345, 2 * MIB, 3, "-u", "4-level: 2 MiB");
    walks_to(&s, 0xffff800052345678, 0x92345678, 1024 * MIB, 2, "w-", "4-level: 1 GiB");
    walks_nowhere(&s, 0x3456, 1, "4-level: the other half is another entry");
    put64(&tables, 0x20000 + 256 * 8, 0x21000 | P);
    walks_to(&s, 0xffff800000003456, 0x99456, 4096, 4, "--",
             "4-level: the outermost level has rights too");
    put64(&tables, 0x20000 + 511 * 8, 0x20000 | W | P);
    walks_to(&s, 0xfffffffffffff800, 0x20800, 4096, 4, "w-", "4-level: a table that maps itself");
    put64(&tables, 0x22000 + 16, UINT64_C(0x000ffffffffff000) | W | P);
    walks_nowhere(&s, 0xffff800000400000, 3, "4-level: a table at the end of the address space");
    struct mk_walk w = mk_walk(&tables, &s, 0xffff800000003456);
    tap_is((long long)w.entry[3], 0x99007, "4-level: all four entries are told");
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Any bits at all: the walk ends, stays in RAM, and says what it looked at. */
static void test_walk_random(void)
{
    struct mk_mem small = open_memory(8 * MK_PAGE);
    uint64_t seed = 1;
    unsigned bad = 0;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t at = next_random(&seed) % (small.size - 8);
        uint64_t value = next_random(&seed);
        put64(&small, at, i & 1 ? value & 0xf0ff : value); /* half of them stay near RAM */
        struct kvm_sregs s =
            paging(next_random(&seed) & 0xffff, value >> 8 & MK_CR4_PAE, value >> 16 & MK_EFER_LMA);
        s.cr4 |= value >> 24 & MK_CR4_PSE;
        struct mk_walk w = mk_walk(&small, &s, next_random(&seed));
        bad += w.levels > 4 || (w.present && (w.levels == 0 || w.page_size < MK_PAGE));
    }
    tap_is(bad, 0, "random tables: every walk ends within four levels");
    mk_mem_close(&small);
}

int main(void)
{
    tables = open_memory(4 * MIB);
    test_walk_off();
    test_walk_32();
    test_walk_32_large();
    test_walk_bad_tables();
    test_walk_pae();
    test_walk_4_level();
    test_walk_random();
    mk_mem_close(&tables);
    return tap_done();
}
