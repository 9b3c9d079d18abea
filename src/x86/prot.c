/* prot.c - 32-bit protected mode, flat or paged (Intel SDM volume 3, chapters 3, 4 and 8). */
#include "x86/mode.h"

#include "base/abi.h"

#include <string.h>

#define PAGE_4M (UINT64_C(4) << 20)
#define PDE_LARGE 0x87 /* present, writable, user, 4 MiB */
#define STACK_GAP 16
#define MAPPED_PAGES 256 /* of 4 MiB, in paged mode */

uint64_t mk_descriptor_encode(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(flags & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

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

void mk_start_set_tables(struct kvm_sregs *s, const uint64_t *table, size_t size, uint64_t low,
                         unsigned idt_size)
{
    s->cs = mk_descriptor_decode(MK_SEL_KCODE, table[MK_SEL_KCODE / 8]);
    s->ds = s->es = s->fs = s->gs = s->ss =
        mk_descriptor_decode(MK_SEL_KDATA, table[MK_SEL_KDATA / 8]);
    s->tr = mk_descriptor_decode(MK_SEL_TSS, table[MK_SEL_TSS / 8]);
    s->gdt = (struct kvm_dtable){ .base = low + MK_GDT_BASE, .limit = (uint16_t)(size - 1) };
    s->idt = (struct kvm_dtable){ .base = low + MK_IDT_BASE, .limit = (uint16_t)(idt_size - 1) };
}

static void gdt(uint64_t table[6], uint64_t low)
{
    table[0] = 0;
    table[MK_SEL_KCODE / 8] = mk_descriptor_encode(0, 0xfffff, 0x9b, 0xc);
    table[MK_SEL_KDATA / 8] = mk_descriptor_encode(0, 0xfffff, 0x93, 0xc);
    table[MK_SEL_UCODE / 8] = mk_descriptor_encode(0, 0xfffff, 0xfb, 0xc);
    table[MK_SEL_UDATA / 8] = mk_descriptor_encode(0, 0xfffff, 0xf3, 0xc);
    table[MK_SEL_TSS / 8] =
        mk_descriptor_encode((uint32_t)low + MK_TSS_BASE, MK_TSS_SIZE - 1, 0x8b, 0);
}

/* Below the end of RAM, and of what the page directory maps. */
static uint32_t stack_top(const struct mk_mem *mem)
{
    uint64_t mapped = MAPPED_PAGES * PAGE_4M;
    return (uint32_t)(mem->size < mapped ? mem->size : mapped) - STACK_GAP;
}

bool mk_low_fits(const struct mk_mem *mem, uint64_t low)
{
    return low % MK_PAGE == 0 && low <= UINT32_MAX && mk_mem_at(mem, low, MK_PAGE);
}

void mk_empty_tss(struct mk_mem *mem, uint64_t low)
{
    uint16_t io_map = MK_TSS_SIZE; /* beyond the limit: no port is open to CPL 3 */
    memset(mk_mem_writable(mem, low + MK_TSS_BASE, MK_TSS_SIZE), 0, MK_TSS_SIZE);
    mk_mem_write(mem, low + MK_TSS_BASE + 102, &io_map, sizeof(io_map));
}

static void write_tss(struct mk_mem *mem, uint64_t low)
{
    struct {
        uint32_t back, esp0, ss0;
    } head = { 0, stack_top(mem), MK_SEL_KDATA };
    mk_empty_tss(mem, low);
    mk_mem_write(mem, low + MK_TSS_BASE, &head, sizeof(head));
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

void mk_boot_write(struct mk_mem *mem, uint64_t low, const struct mk_boot *boot)
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

bool mk_prot_tables(struct mk_mem *mem, const struct mk_places *places, bool paged,
                    const struct mk_boot *boot)
{
    uint64_t table[6], low = places->low;
    bool fits = mem->size >= 2 * MK_PAGE && mk_low_fits(mem, low);
    if (!fits || (paged && (places->tables % MK_PAGE || !mk_mem_at(mem, places->tables, MK_PAGE))))
        return false;
    gdt(table, low);
    mk_mem_write(mem, low + MK_GDT_BASE, table, sizeof(table));
    write_tss(mem, low);
    memset(mk_mem_writable(mem, low + MK_IDT_BASE, 256 * 8), 0, 256 * 8);
    if (paged)
        write_directory(mem, places->tables);
    mk_boot_write(mem, low, boot);
    return true;
}

void mk_prot_start(struct mk_start *start, const struct mk_mem *mem, const struct mk_places *places,
                   uint32_t entry, bool paged)
{
    uint64_t table[6];
    struct kvm_sregs *s = &start->sregs;
    gdt(table, places->low);
    mk_start_set_tables(s, table, sizeof(table), places->low, 256 * 8);
    s->cr0 = MK_CR0_PE | MK_CR0_ET | MK_CR0_NE;
    if (paged) {
        s->cr0 |= MK_CR0_PG | MK_CR0_WP;
        s->cr3 = places->tables;
        s->cr4 |= MK_CR4_PSE;
    }
    start->regs = (struct kvm_regs){
        .rip = entry, .rsp = stack_top(mem), .rflags = 2, .rbx = places->low + MK_BOOT_INFO
    };
}
