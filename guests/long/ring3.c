/* ring3.c - a computation at CPL 3, whose result comes back to CPL 0; then what CPL 3 must not do.
 *
 * The checksum runs at the host's own speed on every KVM, the paravirtual ones among them, where
 * the same at CPL 0 would be a hundred times slower. */
#include "minikvm.h"

#define SIZE (64u << 10)
#define ROUNDS 64 /* 4 MiB in all */
#define POLYNOMIAL 0xedb88320u /* CRC-32 as in Ethernet and zip, bits reversed */

static uint8_t data[SIZE];
static uint32_t table[256];
static unsigned level;

static unsigned privilege_level(void)
{
    uint64_t cs;

    __asm__ volatile("mov %0, cs" : "=r"(cs));
    return cs & 3;
}

static void prepare(void)
{
    uint32_t random = 1;

    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? POLYNOMIAL : 0);
    }
    for (uint32_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)((random = random * 1664525 + 1013904223) >> 24);
}

static uint64_t checksum(uint64_t rounds)
{
    uint32_t crc = 0xffffffff;

    level = privilege_level();
    prepare();
    while (rounds--)
        for (uint32_t i = 0; i < SIZE; i++)
            crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
    return crc ^ 0xffffffff;
}

static uint64_t twice(uint64_t n)
{
    return 2 * n;
}

static uint64_t forbidden(uint64_t argument)
{
    __asm__ volatile("hlt");
    return argument;
}

static void protection(struct trap *t)
{
    printf("CPL %u must not: #%lu, error 0x%lx\n", (unsigned)(t->cs & 3), t->vector, t->error);
    t->rip += 1; /* behind the HLT */
}

int main(void)
{
    printf("main at CPL %u\n", privilege_level());
    uint64_t crc = user_call(checksum, ROUNDS);
    printf("checksum at CPL %u of %u KiB: %08lx\n", level, ROUNDS * SIZE >> 10, crc);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 100; i++)
        sum += user_call(twice, i);
    printf("100 calls: %lu\n", sum);
    trap_handler(TRAP_GP, protection);
    printf("and it went on: %lu\n", user_call(forbidden, 7));
    printf("main at CPL %u\n", privilege_level());
    return 0;
}
