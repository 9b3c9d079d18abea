/* stage2.c - the second stage: from a guest's physical addresses to this machine's.
 *
 * Sv39x4 (priv., "Guest Physical Address Translation"): three levels as in Sv39, but the root has
 * 2048 entries, four pages in a row, because guest physical addresses have two bits more. A guest's
 * own tables are the first stage, of which nothing needs to be known here.
 *
 * RAM gets its pages when it is touched first: large ones, or small ones where an image is loaded
 * and when no large one is left. */
#include "hyper.h"

#define VALID 0x01ul
#define LEAF 0xdeul /* readable, writable, executable, user (all guests are), accessed, dirty */
#define ROOT_ENTRIES 2048

bool in_guest(uint64_t gpa)
{
    return gpa >= GUEST_BASE && gpa - GUEST_BASE < GUEST_RAM;
}

static void *target(uint64_t entry)
{
    return (void *)(entry >> 10 << 12);
}

static void set(uint64_t *entry, void *page, uint64_t flags)
{
    *entry = (uint64_t)page >> 12 << 10 | flags | VALID;
}

/* Puts a table, or the memory itself, behind an entry that has nothing yet. */
static bool fill(uint64_t *entry, int level, bool small)
{
    void *page = level == 1 && !small ? page_alloc(LARGE_PAGE) : NULL;

    if (page) {
        set(entry, page, LEAF);
        return true;
    }
    page = page_alloc(PAGE);
    if (page)
        set(entry, page, level == 0 ? LEAF : 0);
    return page;
}

/* Where the byte at a guest's address is, which must be one of its RAM. */
void *guest_memory(struct guest *guest, uint64_t gpa, bool small)
{
    uint64_t *table = guest->root;

    for (int level = 2;; level--) {
        unsigned shift = 12 + 9 * (unsigned)level;
        uint64_t *entry = &table[gpa >> shift & (level == 2 ? ROOT_ENTRIES - 1 : 511)];

        if (!(*entry & VALID) && !fill(entry, level, small))
            return NULL;
        if (*entry & LEAF)
            return (char *)target(*entry) + (gpa & ((1ul << shift) - 1));
        table = target(*entry);
    }
}

static void free_entries(uint64_t *table, int level)
{
    for (size_t i = 0; i < (level == 2 ? ROOT_ENTRIES : 512); i++) {
        if (!(table[i] & VALID))
            continue;
        if (!(table[i] & LEAF))
            free_entries(target(table[i]), level - 1);
        page_free(target(table[i]), level == 1 && table[i] & LEAF ? LARGE_PAGE : PAGE);
        table[i] = 0;
    }
}

void stage2_free(struct guest *guest)
{
    free_entries(guest->root, 2);
}
