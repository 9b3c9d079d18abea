/* remap.c - one address at CPL 3, first over one page and then over another.
 *
 * Between the two it waits for input, so that a snapshot can be taken there: after going back, the
 * first page must be seen again, although the page tables were written to behind KVM's back. */
#include "minikvm.h"

#define ENTRIES 512
#define PRESENT_RW_USER 7u
#define ADDRESS 0x000ffffffffff000u
#define WINDOW ((volatile uint8_t *)(1ull << 39)) /* where nothing else is mapped */

struct page {
    uint64_t entry[ENTRIES];
} __attribute__((aligned(4096)));

static struct page pointers, directory, table, first, second;

static void map(const struct page *page)
{
    table.entry[0] = (uint64_t)page | PRESENT_RW_USER;
    __asm__ volatile("invlpg [%0]" : : "r"(WINDOW) : "memory");
}

static void make_window(void)
{
    uint64_t root;

    __asm__ volatile("mov %0, cr3" : "=r"(root));
    directory.entry[0] = (uint64_t)&table | PRESENT_RW_USER;
    pointers.entry[0] = (uint64_t)&directory | PRESENT_RW_USER;
    ((uint64_t *)(root & ADDRESS))[1] = (uint64_t)&pointers | PRESENT_RW_USER;
}

/* Looks so often, and counts the byte up each time. */
static uint64_t look(uint64_t times)
{
    uint64_t seen = 0;

    while (times--)
        seen = WINDOW[0]++;
    return seen;
}

int main(void)
{
    first.entry[0] = 'a';
    second.entry[0] = 'A';
    make_window();
    map(&first);
    putc((char)user_call(look, 1));
    while (getc() != END_OF_INPUT) {
        putc((char)user_call(look, 1));
        map(&second);
        putc((char)user_call(look, 2));
        putc((char)user_call(look, 1));
    }
    putc('\n');
    return 0;
}
