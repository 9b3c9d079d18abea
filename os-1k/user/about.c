/* about.c - what this is, how long it has been up, and where its memory goes. */
#include "ulib.h"

int main(void)
{
    struct sysinfo info;
    uint32_t ms = uptime();

    sysinfo(&info);
    printf("1K OS, a 32-bit teaching operating system, %u programs on board\n", info.programs);
    printf("uptime: %u.%02u s\n", ms / 1000, ms / 10 % 100);
    printf("ticks: %u", info.ticks);
    if (info.hz)
        printf(" at %u Hz\n", info.hz);
    else
        printf(" (this machine has no timer)\n");
    printf("memory: %u KiB, of which kernel %u KiB, this program %u KiB, free %u KiB\n",
           info.ram_bytes / 1024, info.kernel_bytes / 1024, info.user_bytes / 1024,
           (info.ram_bytes - info.kernel_bytes - info.user_bytes) / 1024);
    return 0;
}
