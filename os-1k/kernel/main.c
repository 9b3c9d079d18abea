/* main.c - starts the kernel's parts in order, then runs programs; printing and panicking. */
#include "format.h"
#include "io.h"
#include "kernel.h"
#include "str.h"

void kernel_main(uint32_t info) __attribute__((noreturn));

struct boot_info boot;
static char command_line[128];

/* A VMM that knows nothing of the boot information leaves no magic: then hypercalls are all we
 * have. The block may lie anywhere in the first 4 MiB; a wild address is ignored. */
static void boot_info_read(uint32_t address)
{
    const struct boot_info *info = PHYS_TO_VIRT(address);

    boot.ram_bytes = KERNEL_WINDOW;
    if (address > KERNEL_WINDOW - sizeof *info || info->magic != BOOT_MAGIC ||
        info->size < sizeof *info)
        return;
    boot = *info;
    if (boot.command_line && boot.command_line <= KERNEL_WINDOW - sizeof command_line)
        str_copy(command_line, PHYS_TO_VIRT(boot.command_line), sizeof command_line);
}

const char *option_value(const char *key, char *value, uint32_t size)
{
    for (const char *word = command_line; *word; word++) {
        const char *k = key, *w = word;
        uint32_t length = 0;

        while (*k && *k == *w)
            k++, w++;
        while (!*k && *w == '=' && w[1 + length] > ' ' && length < size - 1)
            value[length] = w[1 + length], length++;
        value[length] = '\0';
        if (length)
            return value;
        while (*word > ' ')
            word++;
        if (!*word)
            break;
    }
    return NULL;
}

static void put(void *ctx, char c)
{
    (void)ctx;
    console_write(&c, 1);
}

void kprintf(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vformat(put, NULL, fmt, ap);
    va_end(ap);
}

static void __attribute__((noreturn)) power_off(int code)
{
    interrupts_off();
    for (;;) {
        hypercall(MK_HC_EXIT, (uint8_t)code);
        __asm__ volatile("hlt"); /* in case nobody listens */
    }
}

void panic(const char *fmt, ...)
{
    va_list ap;

    interrupts_off();
    kprintf("\nPANIC: ");
    va_start(ap, fmt);
    vformat(put, NULL, fmt, ap);
    va_end(ap);
    kprintf("\n");
    power_off(1);
}

void kernel_main(uint32_t info)
{
    boot_info_read(info);
    console_init();
    segments_init();
    traps_init();
    if (boot.ram_bytes < USER_FRAMES + USER_PAGES * PAGE_SIZE)
        panic("%u KiB of memory are too few", boot.ram_bytes / 1024);
    paging_init();
    pic_init();
    if (have_pic) {
        pit_init();
        keyboard_init();
        if (boot.features & BOOT_UART)
            irq_enable(4);
        interrupts_on();
    }
    kprintf("1K OS: %u KiB memory, %u programs, timer %s\n", boot.ram_bytes / 1024,
            archive_count(), have_pic ? "100 Hz" : "none");

    int status = program_loop();
    kprintf("Goodbye.\n");
    power_off(status);
}
