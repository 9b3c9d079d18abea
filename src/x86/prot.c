/* prot.c - 32-bit protected mode, flat or paged (Intel SDM volume 3, chapters 3, 4 and 8). */
#include "x86/mode.h"

#include "base/abi.h"

#include <string.h>

#define PAGE_4M (UINT64_C(4) << 20)
#define PDE_LARGE 0x87 /* present, writable, user, 4 MiB */
#define STACK_GAP 16
#define MAPPED_PAGES 256 /* of 4 MiB, in paged mode */

struct kvm_segment mk_descriptor_decode(uint16_t selector, uint64_t d)
{
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    bool pages = d >> 55 & 1;
    return (struct kvm_segment){ .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000),
                                 .limit = pages ? limit << 12 | 0xfff : limit,
                                 .selector = selector,
                                 .type = d >> 40 & 0xf,
                                 .s = d >> 44 & 1,
                                 .dpl = d >> 45 & 3,
                                 .present = d >> 47 & 1,
                                 .avl = d >> 52 & 1,
                                 .l = d >> 53 & 1,
                                 .db = d >> 54 & 1,
                                 .g = pages };
}

/* --- what 32 and 64 bits have in common --- */

/* The 8 bytes of a segment descriptor (SDM 3.4.5); `flags` are its bits 52 to 55. */
static uint64_t encode(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(flags & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

/* Limits in pages; 64-bit code has 32-bit data. Returns the bytes of the table: the descriptor of a
 * TSS is twice as long there. */
static unsigned make_gdt(uint64_t table[7], uint64_t low, bool wide)
{
    const uint8_t code = wide ? 0xa : 0xc, data = 0xc;
    memset(table, 0, 7 * sizeof(*table));
    table[MK_SEL_KCODE / 8] = encode(0, 0xfffff, 0x9b, code);
    table[MK_SEL_KDATA / 8] = encode(0, 0xfffff, 0x93, data);
    table[MK_SEL_UCODE / 8] = encode(0, 0xfffff, 0xfb, code);
    table[MK_SEL_UDATA / 8] = encode(0, 0xfffff, 0xf3, data);
    table[MK_SEL_TSS / 8] = encode((uint32_t)low + MK_TSS_BASE, MK_TSS_SIZE - 1, 0x8b, 0);
    return (wide ? 7 : 6) * sizeof(*table);
}

static unsigned idt_size(bool wide)
{
    return wide ? MK_IDT_LONG_GATES * 16 : 256 * 8;
}

void mk_start_flat(struct mk_start *start, uint64_t low, bool wide, uint64_t entry, uint64_t stack)
{
    uint64_t table[7];
    struct kvm_sregs *s = &start->sregs;
    unsigned size = make_gdt(table, low, wide);
    s->cs = mk_descriptor_decode(MK_SEL_KCODE, table[MK_SEL_KCODE / 8]);
    s->ds = s->es = s->fs = s->gs = s->ss =
        mk_descriptor_decode(MK_SEL_KDATA, table[MK_SEL_KDATA / 8]);
    s->tr = mk_descriptor_decode(MK_SEL_TSS, table[MK_SEL_TSS / 8]);
    s->gdt = (struct kvm_dtable){ .base = low + MK_GDT_BASE, .limit = (uint16_t)(size - 1) };
    s->idt =
        (struct kvm_dtable){ .base = low + MK_IDT_BASE, .limit = (uint16_t)(idt_size(wide) - 1) };
    start->regs =
        (struct kvm_regs){ .rip = entry, .rsp = stack, .rflags = 2, .rbx = low + MK_BOOT_INFO };
}

/* With no open ports; alike in 32 and 64 bits (SDM 8.2.1, 8.7) but for the stack of CPL 0. */
static void write_tss(struct mk_mem *mem, uint64_t low, bool wide, uint64_t stack)
{
    uint8_t tss[MK_TSS_SIZE] = { 0 };
    uint16_t io_map = MK_TSS_SIZE, ss0 = MK_SEL_KDATA; /* beyond the limit */
    memcpy(tss + 4, &stack, wide ? 8 : 4);
    if (!wide)
        memcpy(tss + 8, &ss0, sizeof(ss0));
    memcpy(tss + 102, &io_map, sizeof(io_map));
    mk_mem_write(mem, low + MK_TSS_BASE, tss, sizeof(tss));
}

bool mk_low_fits(const struct mk_mem *mem, uint64_t low)
{
    return low % MK_PAGE == 0 && low <= UINT32_MAX && mk_mem_at(mem, low, MK_PAGE);
}

/* The VM's own RAM as a list of ranges, in the form of a PC's e820 map; returns their number. */
static uint32_t write_ranges(struct mk_mem *mem, uint64_t at)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        struct {
            uint64_t gpa, size;
            uint32_t type;
        } range = { r->gpa, r->size, MK_RAM_TYPE };
        if (!r->mapped)
            mk_mem_write(mem, at + MK_RAM_ENTRY * count++, &range, MK_RAM_ENTRY);
    }
    return count;
}

static void write_boot(struct mk_mem *mem, uint64_t low, const struct mk_boot *boot)
{
    uint32_t info[7] = { MK_BOOT_MAGIC,
                         sizeof(info),
                         (uint32_t)(mem->size > UINT32_MAX ? UINT32_MAX : mem->size),
                         boot->features,
                         0,
                         write_ranges(mem, low + MK_RAM_LIST),
                         (uint32_t)low + MK_RAM_LIST };
    if (boot->command_line) {
        size_t room = MK_LOAD_BASE - MK_COMMAND_LINE - 1;
        size_t length = strnlen(boot->command_line, room);
        mk_mem_write(mem, low + MK_COMMAND_LINE, boot->command_line, length);
        *(uint8_t *)mk_mem_writable(mem, low + MK_COMMAND_LINE + length, 1) = 0;
        info[4] = (uint32_t)low + MK_COMMAND_LINE;
    }
    mk_mem_write(mem, low + MK_BOOT_INFO, info, sizeof(info));
}

void mk_low_write(struct mk_mem *mem, uint64_t low, bool wide, uint64_t stack,
                  const struct mk_boot *boot)
{
    uint64_t table[7];
    unsigned size = make_gdt(table, low, wide);
    mk_mem_write(mem, low + MK_GDT_BASE, table, size);
    memset(mk_mem_writable(mem, low + MK_IDT_BASE, idt_size(wide)), 0, idt_size(wide));
    write_tss(mem, low, wide, stack);
    write_boot(mem, low, boot);
}

/* --- 32 bits --- */

/* Below the end of RAM, and of what the page directory maps. */
static uint32_t stack_top(const struct mk_mem *mem)
{
    uint64_t mapped = MAPPED_PAGES * PAGE_4M;
    return (uint32_t)(mem->size < mapped ? mem->size : mapped) - STACK_GAP;
}

/* RAM (1 GiB of it at the most), at its own address and once more at 0x80000000; other memory, and
 * what else is in its 4 MiB, at its own. */
static void write_directory(struct mk_mem *mem, uint64_t at)
{
    uint32_t *directory = mk_mem_writable(mem, at, MK_PAGE);
    memset(directory, 0, MK_PAGE);
    for (uint32_t i = 0; i < MAPPED_PAGES && i * PAGE_4M < mem->size; i++) {
        directory[i] = i << 22 | PDE_LARGE;
        directory[(MK_HIGH_BASE >> 22) + i] = i << 22 | PDE_LARGE;
    }
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        for (uint64_t page = r->gpa / PAGE_4M; page <= (r->gpa + r->size - 1) / PAGE_4M; page++)
            if (r->mapped && r->in_tables && page < 1024 && !directory[page])
                directory[page] = (uint32_t)page << 22 | PDE_LARGE;
    }
}

void mk_prot_map_io(struct mk_mem *mem, const struct mk_places *places, uint32_t address)
{
    uint32_t *directory = mk_mem_writable(mem, places->tables, MK_PAGE);
    directory[address >> 22] = (address >> 22 << 22) | PDE_LARGE;
}

bool mk_prot_tables(struct mk_mem *mem, const struct mk_places *places, bool paged,
                    const struct mk_boot *boot)
{
    uint64_t low = places->low;
    bool fits = mem->size >= 2 * MK_PAGE && mk_low_fits(mem, low);
    if (!fits || (paged && (places->tables % MK_PAGE || !mk_mem_at(mem, places->tables, MK_PAGE))))
        return false;
    mk_low_write(mem, low, false, stack_top(mem), boot);
    if (paged)
        write_directory(mem, places->tables);
    return true;
}

void mk_prot_start(struct mk_start *start, const struct mk_mem *mem, const struct mk_places *places,
                   uint32_t entry, bool paged)
{
    struct kvm_sregs *s = &start->sregs;
    mk_start_flat(start, places->low, false, entry, stack_top(mem));
    s->cr0 = MK_CR0_PE | MK_CR0_ET | MK_CR0_NE;
    if (paged) {
        s->cr0 |= MK_CR0_PG | MK_CR0_WP;
        s->cr3 = places->tables;
        s->cr4 |= MK_CR4_PSE;
    }
}
