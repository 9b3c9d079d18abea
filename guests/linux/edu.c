/* edu.c - a Linux program, without a C library, that drives QEMU's teaching device "edu" on PCI
 * (lua/minikvm/devices/edu.lua) from user space, through the files that Linux has for a PCI function:
 *
 *   edu test DIRECTORY               DIRECTORY: /sys/bus/pci/devices/0000:00:03.0
 *   edu race N UIO DIRECTORY UIO DIRECTORY
 *
 * `test` maps resource0, uses every register, and lets the device copy to and from a page of its
 * own, whose address is in /proc/self/pagemap. `race` lets two devices, bound to uio_pci_generic,
 * interrupt N times each, both at once, and waits for every interrupt (Linux,
 * Documentation/driver-api/uio-howto.rst, "Generic PCI UIO driver"). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { READ = 0, WRITE = 1, OPEN = 2, MMAP = 9, PREAD = 17, PWRITE = 18, EXIT = 60 };
#define O_RDWR 2
#define SHARED 1
#define ANONYMOUS 0x21 /* shared */
#define SIZE 0x100000
#define BUFFER 0x40000

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void print(const char *text)
{
    size_t n = 0;

    while (text[n])
        n++;
    call(WRITE, 1, (long)text, (long)n, 0, 0, 0);
}

static void print_hex(const char *text, uint64_t value)
{
    char digits[20] = "0x";
    int n = 2, shift = 60;

    while (shift > 0 && !(value >> shift & 15))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        digits[n++] = "0123456789abcdef"[value >> shift & 15];
    digits[n++] = '\n';
    digits[n] = 0;
    print(text);
    print(digits);
}

static void die(const char *text)
{
    print(text);
    call(EXIT, 1, 0, 0, 0, 0, 0);
}

static long open_file(const char *directory, const char *name)
{
    char path[256];
    size_t n = 0;

    for (; *directory && n < 200; n++)
        path[n] = *directory++;
    for (; *name && n < 254; n++)
        path[n] = *name++;
    path[n] = 0;
    long fd = call(OPEN, (long)path, O_RDWR, 0, 0, 0, 0);
    if (fd < 0)
        die("cannot open a file\n");
    return fd;
}

static volatile uint8_t *map(long fd, size_t size, long flags)
{
    long at = call(MMAP, 0, (long)size, 3, flags, fd, 0);

    if (at < 0 && at > -4096)
        die("cannot map\n");
    return (volatile uint8_t *)at;
}

static uint32_t get(volatile uint8_t *edu, unsigned reg)
{
    return *(volatile uint32_t *)(edu + reg);
}

static void put(volatile uint8_t *edu, unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(edu + reg) = value;
}

/* The command register: memory, bus master; INTx on. */
static void command(long config)
{
    uint16_t value = 0x0006;

    if (call(PWRITE, config, (long)&value, 2, 4, 0, 0) != 2)
        die("cannot write configuration space\n");
}

static uint64_t physical(volatile uint8_t *page)
{
    uint64_t entry = 0;
    long fd = open_file("/proc/self/", "pagemap");

    page[0] = 1; /* it is there */
    call(PREAD, fd, (long)&entry, 8, (long)((uintptr_t)page / 4096 * 8), 0, 0);
    return (entry & ((UINT64_C(1) << 55) - 1)) * 4096;
}

static void dma(volatile uint8_t *edu, uint64_t from, uint64_t to, uint32_t count, uint32_t how)
{
    *(volatile uint64_t *)(edu + 0x80) = from;
    *(volatile uint64_t *)(edu + 0x88) = to;
    put(edu, 0x90, count);
    put(edu, 0x98, how | 1);
    while (get(edu, 0x98) & 1)
        ;
}

static void test(const char *directory)
{
    command(open_file(directory, "/config"));
    volatile uint8_t *edu = map(open_file(directory, "/resource0"), SIZE, SHARED);
    volatile uint8_t *page = map(-1, 8192, ANONYMOUS);
    uint64_t at = physical(page), back = physical(page + 4096);
    unsigned wrong = 0;

    print_hex("id ", get(edu, 0));
    put(edu, 4, 0x12345678);
    print_hex("alive ", get(edu, 4));
    put(edu, 8, 10);
    while (get(edu, 0x20) & 1)
        ;
    print_hex("factorial ", get(edu, 8));
    for (unsigned i = 0; i < 4096; i++)
        page[i] = (uint8_t)(i * 7);
    dma(edu, at, BUFFER, 4096, 0);
    dma(edu, BUFFER, back, 4096, 2);
    for (unsigned i = 0; i < 4096; i++)
        wrong += page[4096 + i] != (uint8_t)(i * 7);
    print_hex("dma ", wrong);
}

struct edu {
    volatile uint8_t *at;
    long uio, config;
};

static struct edu open_edu(const char *uio, const char *directory)
{
    struct edu e = { .uio = open_file(uio, ""), .config = open_file(directory, "/config") };

    e.at = map(open_file(directory, "/resource0"), SIZE, SHARED);
    put(e.at, 0x20, 0x80);
    command(e.config);
    return e;
}

/* The kernel has masked INTx when it told us: acknowledge, then let it come again. */
static uint32_t wait_irq(const struct edu *e)
{
    uint32_t count = 0;

    if (call(READ, e->uio, (long)&count, 4, 0, 0, 0) != 4)
        die("no interrupt\n");
    put(e->at, 0x64, get(e->at, 0x24));
    command(e->config);
    return count;
}

static void race(unsigned n, char **paths)
{
    struct edu one = open_edu(paths[0], paths[1]), other = open_edu(paths[2], paths[3]);
    uint32_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        put(one.at, 8, 5);
        put(other.at, 8, 6);
        wait_irq(&other);
        wait_irq(&one);
        sum += get(one.at, 8) + get(other.at, 8);
    }
    print_hex("sum ", sum);
}

static unsigned number(const char *text)
{
    unsigned n = 0;

    while (*text >= '0' && *text <= '9')
        n = n * 10 + (unsigned)(*text++ - '0');
    return n;
}

static bool is(const char *text, const char *word)
{
    while (*word && *text == *word)
        text++, word++;
    return *text == *word;
}

__attribute__((used)) static void run(long *stack)
{
    long argc = stack[0];
    char **argv = (char **)(stack + 1);

    if (argc == 3 && is(argv[1], "test"))
        test(argv[2]);
    else if (argc == 7 && is(argv[1], "race"))
        race(number(argv[2]), argv + 3);
    else
        die("usage: edu test DIRECTORY | edu race N UIO DIRECTORY UIO DIRECTORY\n");
    call(EXIT, 0, 0, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov rdi, rsp\nand rsp, -16\ncall run\n");
