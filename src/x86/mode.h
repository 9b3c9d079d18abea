/* mode.h - what a vCPU holds when its first instruction runs, as data.
 *
 * Pure functions: they fill in structures and guest memory, make no ioctl, and can be tested
 * without KVM. Segment and control-register values follow the Intel SDM, volume 3. */
#ifndef MK_CPU_MODE_H
#define MK_CPU_MODE_H

#include "base/abi.h"
#include "kvm/mem.h"

#include <linux/kvm.h>

enum mk_mode { MK_MODE_REAL, MK_MODE_PROTECTED, MK_MODE_PAGED, MK_MODE_LONG, MK_MODES };

#define MK_CR0_PE 0x00000001u
#define MK_CR0_ET 0x00000010u
#define MK_CR0_NE 0x00000020u
#define MK_CR0_WP 0x00010000u
#define MK_CR0_PG 0x80000000u
#define MK_CR4_PSE 0x10u
#define MK_CR4_PAE 0x20u
#define MK_EFER_LME 0x100u
#define MK_EFER_LMA 0x400u
#define MK_TSS_SIZE 104u
#define MK_RFLAGS_IF 0x200u

struct mk_start {
    struct kvm_regs regs;
    struct kvm_sregs sregs; /* in: what KVM created the vCPU with */
};

/* What the boot-information block tells a kernel (docs/abi.md); bits MK_BOOT_* of abi.h. */
struct mk_boot {
    uint32_t features;
    const char *command_line; /* NULL: none */
};

/* Where in RAM the tables of a mode lie; moved away when an image wants their place. */
struct mk_places {
    uint64_t
        low; /* a page: MK_GDT_BASE to MK_COMMAND_LINE of abi.h are relative to it; below 4 GiB */
    uint64_t tables; /* paged mode: the page directory; long mode: where the page tables begin, */
    uint64_t end;    /* and where they end: a page */
};

/* Real mode: bytes of a vCPU's window, of `cpus` in the first MiB. */
static inline uint32_t mk_real_window(unsigned cpus)
{
    uint32_t window = MK_REAL_WINDOW;
    while (cpus * window > 0x100000)
        window /= 2;
    return window;
}

/* Real mode at segment:ip, all segments alike, SP = 0xfff0 (SDM 20.1). */
void mk_real_start(struct mk_start *start, uint16_t segment, uint16_t ip);

/* Flat 32-bit protected mode at `entry` with the GDT, TSS and IDT that mk_prot_tables() writes;
 * with `paged`, CR3 at its page directory and paging on (SDM 3.2.1, 4.3). */
void mk_prot_start(struct mk_start *start, const struct mk_mem *mem, const struct mk_places *places,
                   uint32_t entry, bool paged);
/* Writes the tables and the boot information into the page places->low and, with `paged`, a page
 * directory of 4 MiB pages. False when they are not all in RAM. */
bool mk_prot_tables(struct mk_mem *mem, const struct mk_places *places, bool paged,
                    const struct mk_boot *boot);

/* After that, the 4 MiB page around `address` appears at itself, for devices. */
void mk_prot_map_io(struct mk_mem *mem, const struct mk_places *places, uint32_t address);

/* How RAM appears in long mode: at its own addresses, all of it or the first `size` bytes (0: all);
 * and, when `base` is not 0, all of it once more from there, for high-half kernels. */
struct mk_mapping {
    bool large; /* pages of 2 MiB instead of 4 KiB */
    uint64_t size, base;
    uint64_t io; /* not 0: the large page with this address appears at itself, for devices */
};

/* Writes GDT, TSS, IDT space and boot information into the page places->low and the page tables
 * below places->end; sets places->tables, where they begin. False when they are not all in RAM. */
bool mk_long_tables(struct mk_mem *mem, const struct mk_mapping *mapping, struct mk_places *places,
                    const struct mk_boot *boot);
/* 64-bit mode at `entry` with those tables, SSE enabled. */
void mk_long_start(struct mk_start *start, const struct mk_mapping *mapping,
                   const struct mk_places *places, uint64_t entry);

/* For all modes but real, of 32 or 64 bits (`wide`). Whether the page for GDT, TSS, IDT and boot
 * information may be here. */
bool mk_low_fits(const struct mk_mem *mem, uint64_t low);
/* Writes these; the TSS has `stack` for CPL 0. */
void mk_low_write(struct mk_mem *mem, uint64_t low, bool wide, uint64_t stack,
                  const struct mk_boot *boot);
/* Flat kernel segments with these tables; the general registers at the first instruction. */
void mk_start_flat(struct mk_start *start, uint64_t low, bool wide, uint64_t entry, uint64_t stack);
/* A segment descriptor as the processor would load it from its 8 bytes in a table (SDM 3.4.5). */
struct kvm_segment mk_descriptor_decode(uint16_t selector, uint64_t bytes);

/* 64-bit mode as a boot protocol describes it, on tables that its loader wrote itself. With a CR3
 * of 0 the GDT and the segments alone are the protocol's. */
struct mk_handoff {
    uint64_t cr0, cr3, cr4, efer, rsp;
    uint64_t pat; /* IA32_PAT; 0: as it is */
    uint64_t gdt; /* linear */
    uint16_t gdt_limit, cs, ds;
    uint64_t code, data; /* the descriptors of CS, and of all other segments */
};

/* At `entry` with these registers: the others are 0, RFLAGS is 2; no IDT, no LDT, no TSS. */
void mk_handoff_start(struct mk_start *start, const struct mk_handoff *handoff, uint64_t entry);
/* GDTR and the segments alone. */
void mk_handoff_segments(struct kvm_sregs *sregs, const struct mk_handoff *handoff);

/* --- page tables (paging.c) --- */

struct mk_walk {
    bool present, writable, user;
    uint64_t address;     /* physical, when present */
    uint64_t page_size;   /* bytes of the page that maps it */
    unsigned levels;      /* entries looked at */
    uint64_t entry[4];    /* their values, outermost first */
    uint64_t entry_at[4]; /* and physical addresses */
};

/* Follows the guest's page tables for a linear address, in whatever mode CR0, CR4 and EFER say;
 * without paging the address is its own (SDM 4.3-4.5). Tables outside RAM count as not present. */
struct mk_walk mk_walk(const struct mk_mem *mem, const struct kvm_sregs *sregs, uint64_t linear);
/* Copies guest memory by its linear address: how many bytes, up to where nothing is mapped or no
 * memory is. */
size_t mk_linear_copy(const struct mk_mem *mem, const struct kvm_sregs *sregs, uint64_t linear,
                      void *data, size_t length, bool write);

/* Of the code that runs: bits of an address, 64, 32 or 16; where RIP points, linear; and RSP. */
static inline unsigned mk_code_bits(const struct kvm_sregs *s)
{
    return s->cs.l && s->efer & MK_EFER_LMA ? 64 : s->cs.db ? 32 : 16;
}

static inline uint64_t mk_code_address(const struct kvm_sregs *s, uint64_t rip)
{
    return mk_code_bits(s) == 64 ? rip : (uint32_t)(s->cs.base + rip);
}

static inline uint64_t mk_stack_address(const struct kvm_sregs *s, uint64_t rsp)
{
    uint64_t offset = s->ss.db ? (uint32_t)rsp : (uint16_t)rsp;
    return mk_code_bits(s) == 64 ? rsp : (uint32_t)(s->ss.base + offset);
}

#define MK_LONGEST_INSTRUCTION 15 /* bytes */

/* The bytes at RIP, as far as they are mapped to memory: returns how many. */
static inline unsigned mk_fetch_code(const struct mk_mem *mem, const struct kvm_sregs *s,
                                     uint64_t rip, uint8_t *bytes, unsigned length)
{
    return (unsigned)mk_linear_copy(mem, s, mk_code_address(s, rip), bytes, length, false);
}

/* The segment that a selector names in the guest's GDT or LDT; false when there is none. */
bool mk_descriptor_load(const struct mk_mem *mem, const struct kvm_sregs *sregs, uint16_t selector,
                        struct kvm_segment *segment);

/* A general register by its number in instructions, 0 to 15. */
static inline uint64_t mk_general_register(const struct kvm_regs *r, unsigned number)
{
    const __u64 *all[16] = {
        &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
        &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15
    };
    return *all[number & 15];
}

/* Whether a page of memory, which becomes `with`, may be a table of which the processor has used an
 * entry that changes: it has set the entry's accessed bit then (SDM 4.8). */
bool mk_page_changes_tables(const uint8_t *page, const uint8_t *with);

#endif
