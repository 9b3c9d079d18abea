/* long.c - 64-bit long mode with 4-level paging (Intel SDM volume 3, 4.5, 5.2.1, 8.7, 10.8.5).
 *
 * The page tables grow downwards from their end, at first the top of RAM; below them lies the
 * stack. */
#include "x86/mode.h"

#include "base/abi.h"

#include <string.h>

#define PRESENT_RW_USER 7u
#define LARGE 0x80u
#define ADDRESS UINT64_C(0x000ffffffffff000)
#define PAGE_2M (UINT64_C(2) << 20)
#define CR0_MP 0x2u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u
#define EFER_SCE 0x1u

struct builder {
    struct mk_mem *mem;
    uint64_t root, lowest; /* tables so far: [lowest, their end) */
    bool full;
};

static uint64_t new_table(struct builder *b)
{
    if (b->lowest < 3 * MK_PAGE) {
        b->full = true;
        return b->root;
    }
    b->lowest -= MK_PAGE;
    memset(mk_mem_writable(b->mem, b->lowest, MK_PAGE), 0, MK_PAGE);
    return b->lowest;
}

static uint64_t *entry_at(struct builder *b, uint64_t table, uint64_t linear, unsigned shift)
{
    return (uint64_t *)mk_mem_writable(b->mem, table, MK_PAGE) + (linear >> shift & 511);
}

/* The entry for `linear` of the table whose entries map 2^shift bytes, with the tables above it
 * made where there are none; NULL where a large page is, which maps the same. */
static uint64_t *entry_for(struct builder *b, uint64_t linear, unsigned shift)
{
    uint64_t table = b->root;
    for (unsigned at = 39; at > shift; at -= 9) {
        uint64_t *entry = entry_at(b, table, linear, at);
        if (*entry & LARGE)
            return NULL;
        if (!(*entry & 1))
            *entry = new_table(b) | PRESENT_RW_USER;
        table = *entry & ADDRESS;
    }
    return entry_at(b, table, linear, shift);
}

static void map_large(struct builder *b, uint64_t linear, uint64_t physical)
{
    *entry_for(b, linear, 21) = physical | PRESENT_RW_USER | LARGE;
}

/* [gpa, end), which lies in one large page. */
static void map_small(struct builder *b, uint64_t linear, uint64_t gpa, uint64_t end)
{
    uint64_t *entry = entry_for(b, linear, 12);
    for (; entry && !b->full && gpa < end; gpa += MK_PAGE)
        *entry++ = gpa | PRESENT_RW_USER;
}

/* [gpa, end) at its own address and `base`, a multiple of a page of either size, further up. */
static void map_range(struct builder *b, uint64_t base, uint64_t gpa, uint64_t end, bool large)
{
    for (uint64_t next; gpa < end && !b->full; gpa = next) {
        next = ((base + gpa) | (PAGE_2M - 1)) + 1 - base;
        next = next < end ? next : end;
        if (large && gpa % PAGE_2M == 0 && next - gpa == PAGE_2M && base % PAGE_2M == 0)
            map_large(b, base + gpa, gpa);
        else
            map_small(b, base + gpa, gpa, next);
    }
}

/* All memory; of own RAM what lies below `limit`. What scripts mapped may be much more than there
 * is RAM for tables: by large pages where that is possible. */
static void map_memory(struct builder *b, uint64_t base, uint64_t limit, bool large)
{
    for (unsigned i = 0; i < b->mem->count; i++) {
        const struct mk_region *r = &b->mem->regions[i];
        uint64_t end = r->gpa + r->size, most = base ? -base : UINT64_MAX; /* addresses end there */
        if (!r->mapped && limit < most)
            most = limit;
        if (r->in_tables)
            map_range(b, base, r->gpa, end < most ? end : most, large || r->mapped);
    }
}

/* The top of the stack: below the tables, or below the end of what is mapped. */
static uint64_t stack_top(const struct mk_mapping *mapping, uint64_t tables)
{
    return mapping->size && mapping->size < tables && !mapping->base ? mapping->size : tables;
}

bool mk_long_tables(struct mk_mem *mem, const struct mk_mapping *mapping, struct mk_places *places,
                    const struct mk_boot *boot)
{
    uint64_t low = places->low;
    struct builder b = { .mem = mem, .lowest = places->end };
    if (mem->size < 16 * MK_PAGE || !mk_mem_has(mem, 0, places->end, true) ||
        places->end % MK_PAGE || !mk_low_fits(mem, low))
        return false;
    b.root = new_table(&b);
    if (mapping->io)
        map_large(&b, mapping->io & ~(PAGE_2M - 1), mapping->io & ~(PAGE_2M - 1));
    map_memory(&b, 0, mapping->size ? mapping->size : UINT64_MAX, mapping->large);
    if (mapping->base)
        map_memory(&b, mapping->base, UINT64_MAX, mapping->large);
    if (b.full)
        return false;
    mk_low_write(mem, low, true, stack_top(mapping, b.lowest), boot);
    places->tables = b.lowest;
    return true;
}

void mk_long_start(struct mk_start *start, const struct mk_mapping *mapping,
                   const struct mk_places *places, uint64_t entry)
{
    struct kvm_sregs *s = &start->sregs;
    uint64_t stack = stack_top(mapping, places->tables);
    if (mapping->base && entry >= mapping->base)
        stack += mapping->base; /* one that a high-half kernel keeps without the low map */
    mk_start_flat(start, places->low, true, entry, stack);
    s->cr0 = MK_CR0_PE | CR0_MP | MK_CR0_ET | MK_CR0_NE | MK_CR0_WP | MK_CR0_PG;
    s->cr3 = places->end - MK_PAGE;
    s->cr4 = MK_CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = MK_EFER_LME | MK_EFER_LMA | EFER_SCE;
}

void mk_handoff_segments(struct kvm_sregs *s, const struct mk_handoff *h)
{
    s->cs = mk_descriptor_decode(h->cs, h->code);
    s->ds = s->es = s->fs = s->gs = s->ss = mk_descriptor_decode(h->ds, h->data);
    s->gdt = (struct kvm_dtable){ .base = h->gdt, .limit = h->gdt_limit };
}

void mk_handoff_start(struct mk_start *start, const struct mk_handoff *h, uint64_t entry)
{
    struct kvm_sregs *s = &start->sregs;
    mk_handoff_segments(s, h);
    /* What a processor needs in TR all the same (SDM 27.3.1.2): a busy TSS, which has no byte. */
    s->tr = (struct kvm_segment){ .type = 11, .present = 1 };
    s->ldt = (struct kvm_segment){ .type = 2, .unusable = 1 };
    s->idt = (struct kvm_dtable){ .limit = 0 };
    s->cr0 = h->cr0;
    s->cr3 = h->cr3;
    s->cr4 = h->cr4;
    s->efer = h->efer;
    start->regs = (struct kvm_regs){ .rip = entry, .rsp = h->rsp, .rflags = 2 };
}
