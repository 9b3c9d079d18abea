/* paging.c - the kernel's own page tables (Intel SDM volume 3, 4.3).
 *
 *   0x01000000  user window, 64 pages of 4 KiB, one page table; mapped as a program needs them
 *   0x80000000  kernel: the first 4 MiB of physical memory as one large page, supervisor only
 *   the rest    not present, address 0 included
 *
 * The VMM has already set CR0.PG, CR0.WP and CR4.PSE; we only exchange the directory. Under a
 * paravirtual KVM the VMM stands in for the paging hardware: it looks at these tables when an
 * access misses what it has set up, and at some exits. It cannot take away rights, and it does not
 * see every change at once. Therefore a page of the window always has the same frame behind it:
 * what it has seen before is never wrong. */
#include "io.h"
#include "kernel.h"

#define PRESENT 0x01
#define WRITABLE 0x02
#define USER 0x04
#define LARGE 0x80

#define PAGES __attribute__((aligned(PAGE_SIZE)))

static uint32_t page_dir[1024] PAGES;
static uint32_t user_table[1024] PAGES;

static void load_cr3(void)
{
    __asm__ volatile("mov cr3, %0" : : "r"(VIRT_TO_PHYS(page_dir)) : "memory");
}

void paging_init(void)
{
    page_dir[KERNEL_BASE >> 22] = 0 | PRESENT | WRITABLE | LARGE;
    page_dir[USER_BASE >> 22] = VIRT_TO_PHYS(user_table) | PRESENT | WRITABLE | USER;
    load_cr3();
}

void user_map(uint32_t first, uint32_t count, bool writable)
{
    for (uint32_t i = first; i < first + count; i++)
        user_table[i] = (USER_FRAMES + i * PAGE_SIZE) | PRESENT | USER | (writable ? WRITABLE : 0);
}

void user_unmap_all(void)
{
    for (uint32_t i = 0; i < USER_PAGES; i++)
        user_table[i] = 0;
}

/* The CPU caches translations: loading CR3 makes it forget them. Then a byte of each page is read,
 * which only matters under a paravirtual KVM: there a page is set up when the kernel first misses
 * it, but a program that jumps to a missing one would get an invalid opcode instead. */
void user_map_done(void)
{
    load_cr3();
    for (uint32_t i = 0; i < USER_PAGES; i++)
        if (user_table[i] & PRESENT)
            (void)*(volatile uint8_t *)(USER_BASE + i * PAGE_SIZE);
}

/* Every byte that a program hands to a system call must be one that it could touch itself. */
bool user_ok(uint32_t address, uint32_t length, bool write)
{
    uint32_t wanted = PRESENT | USER | (write ? WRITABLE : 0);

    if (address < USER_BASE || address > USER_TOP || length > USER_TOP - address)
        return false;
    for (uint32_t end = address + length; address < end; address = (address | 0xfff) + 1)
        if ((user_table[(address - USER_BASE) / PAGE_SIZE] & wanted) != wanted)
            return false;
    return true;
}

uint32_t user_mapped_bytes(void)
{
    uint32_t bytes = 0;

    for (uint32_t i = 0; i < USER_PAGES; i++)
        bytes += user_table[i] & PRESENT ? PAGE_SIZE : 0;
    return bytes;
}
