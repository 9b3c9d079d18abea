/* segments.c - global descriptor table and task state segment (Intel SDM volume 3, 3.4 and 8.2).
 *
 * Segmentation is made invisible: every segment starts at 0 and spans 4 GiB. What remains is the
 * privilege level, 0 for the kernel and 3 for programs. The TSS is there for one reason only: it
 * tells the CPU which stack to use when a trap leaves level 3. */
#include "abi.h"
#include "kernel.h"

uint32_t tss[26]; /* [1] ESP0 and [2] SS0 matter; [25] holds the I/O bitmap's offset */

static uint64_t gdt[] = {
    [0] = 0,
    [MK_SEL_KCODE / 8] = 0x00cf9a000000ffff, /* present, level 0, code, readable */
    [MK_SEL_KDATA / 8] = 0x00cf92000000ffff, /* present, level 0, data, writable */
    [MK_SEL_UCODE / 8] = 0x00cffa000000ffff, /* the same two for level 3 */
    [MK_SEL_UDATA / 8] = 0x00cff2000000ffff,
    [MK_SEL_TSS / 8] = 0,                    /* filled in below */
};

static uint64_t tss_descriptor(uint32_t base, uint32_t limit)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
           0x89ull << 40 | /* present, level 0, 32-bit TSS, not busy */
           (uint64_t)(base >> 24) << 56;
}

void segments_init(void)
{
    struct {
        uint16_t limit;
        uint64_t *base;
    } __attribute__((packed)) gdtr = { sizeof gdt - 1, gdt };

    tss[2] = MK_SEL_KDATA;
    tss[25] = sizeof tss << 16; /* bitmap beyond the limit: no port is open to programs */
    gdt[MK_SEL_TSS / 8] = tss_descriptor((uint32_t)tss, sizeof tss - 1);

    __asm__ volatile("lgdt %0\n\t"
                     "push %2\n\t" /* a far return is how CS is loaded */
                     "push offset 1f\n\t"
                     "retf\n"
                     "1:\n\t"
                     "mov ds, %1\n\t"
                     "mov es, %1\n\t"
                     "mov ss, %1\n\t"
                     "ltr %w3"
                     : : "m"(gdtr), "r"(MK_SEL_KDATA), "i"(MK_SEL_KCODE), "r"(MK_SEL_TSS)
                     : "memory");
}
