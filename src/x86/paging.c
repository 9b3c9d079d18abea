/* paging.c - walking page tables: 32-bit, PAE and 4-level (Intel SDM volume 3, chapter 4). */
#include "x86/mode.h"

#include <string.h>

#define PRESENT 1u
#define WRITABLE 2u
#define USER 4u
#define ACCESSED 0x20u
#define LARGE 0x80u
#define ADDRESS UINT64_C(0x000ffffffffff000)

struct shape {
    unsigned levels, entry_bytes, index_bits;
    bool large[4]; /* may the entry of this level map a page itself */
};

static struct shape shape_of(const struct kvm_sregs *s)
{
    if (s->efer & MK_EFER_LMA)
        return (struct shape){ 4, 8, 9, { false, true, true, false } };
    if (s->cr4 & MK_CR4_PAE)
        return (struct shape){ 3, 8, 9, { false, true, false } };
    return (struct shape){ 2, 4, 10, { s->cr4 & MK_CR4_PSE, false } };
}

static bool read_entry(const struct mk_mem *mem, uint64_t at, unsigned bytes, uint64_t *entry)
{
    *entry = 0;
    return mk_mem_read(mem, at, entry, bytes);
}

/* The address in an entry that maps a page of 2^bits bytes. */
static uint64_t page_base(uint64_t entry, unsigned entry_bytes, unsigned bits)
{
    uint64_t base = entry & ADDRESS & ~((UINT64_C(1) << bits) - 1);
    if (entry_bytes == 4 && bits == 22) /* PSE-36: bits 13..20 are address bits 32..39 */
        base = (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32;
    return base;
}

/* Intel SDM volume 1, 3.3.7.1: bits 63 to 47 are alike. */
static bool is_canonical(uint64_t linear)
{
    return linear >> 47 == 0 || linear >> 47 == 0x1ffff;
}

struct mk_walk mk_walk(const struct mk_mem *mem, const struct kvm_sregs *s, uint64_t linear)
{
    struct mk_walk w = { .writable = true, .user = true, .page_size = MK_PAGE };
    if (!(s->cr0 & MK_CR0_PG)) {
        w.present = true;
        w.address = linear;
        return w;
    }
    struct shape shape = shape_of(s);
    if (shape.levels == 4 && !is_canonical(linear))
        return w;
    bool pae = shape.levels == 3; /* its four outermost entries have no permission bits */
    uint64_t table = s->cr3 & (pae ? UINT64_C(0xffffffe0) : ADDRESS);
    unsigned bits = 12 + shape.levels * shape.index_bits;
    for (unsigned level = 0; level < shape.levels; level++) {
        bits -= shape.index_bits;
        uint64_t index = linear >> bits & ((1u << shape.index_bits) - 1);
        uint64_t entry, at = table + index * shape.entry_bytes;
        if (!read_entry(mem, at, shape.entry_bytes, &entry))
            return w;
        w.entry_at[w.levels] = at;
        w.entry[w.levels++] = entry;
        if (!(entry & PRESENT))
            return w;
        if (!pae || level > 0) {
            w.writable &= (entry & WRITABLE) != 0;
            w.user &= (entry & USER) != 0;
        }
        if (level + 1 == shape.levels || (shape.large[level] && entry & LARGE)) {
            w.present = true;
            w.page_size = UINT64_C(1) << bits;
            w.address = page_base(entry, shape.entry_bytes, bits) | (linear & (w.page_size - 1));
            return w;
        }
        table = entry & (shape.entry_bytes == 4 ? UINT64_C(0xfffff000) : ADDRESS);
    }
    return w;
}

size_t mk_linear_copy(const struct mk_mem *mem, const struct kvm_sregs *s, uint64_t linear,
                      void *data, size_t length, bool write)
{
    uint8_t *bytes = data;
    uint64_t top = s->efer & MK_EFER_LMA ? UINT64_MAX : UINT32_MAX;
    size_t done = 0;
    for (size_t n; done < length && linear <= top; done += n, linear += n) {
        struct mk_walk w = mk_walk(mem, s, linear);
        size_t room = MK_PAGE - linear % MK_PAGE, left = length - done;
        n = left < room ? left : room;
        if (!w.present || !(write ? mk_mem_write(mem, w.address, bytes + done, n)
                                  : mk_mem_read(mem, w.address, bytes + done, n)))
            break;
    }
    return done;
}

bool mk_descriptor_load(const struct mk_mem *mem, const struct kvm_sregs *s, uint16_t selector,
                        struct kvm_segment *segment)
{
    bool local = selector & 4;
    uint64_t bytes, base = local ? s->ldt.base : s->gdt.base;
    uint32_t limit = local ? s->ldt.limit : s->gdt.limit;
    if (!(selector & ~3u) || (selector | 7u) > limit ||
        mk_linear_copy(mem, s, base + (selector & ~7u), &bytes, 8, false) != 8)
        return false;
    *segment = mk_descriptor_decode(selector, bytes);
    return true;
}

/* Entries of 8 bytes, or two of 4. */
static bool was_used(uint64_t entry)
{
    const uint32_t used = PRESENT | ACCESSED;
    return (entry & used) == used || (entry >> 32 & used) == used;
}

bool mk_page_changes_tables(const uint8_t *page, const uint8_t *with)
{
    for (unsigned at = 0; at < MK_PAGE; at += sizeof(uint64_t)) {
        uint64_t old, new;
        memcpy(&old, page + at, sizeof(old));
        memcpy(&new, with + at, sizeof(new));
        if (old != new &&was_used(old))
            return true;
    }
    return false;
}
