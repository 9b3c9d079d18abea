/* ulib.c - system calls, buffered printing, and reading lines. */
#include "ulib.h"

#include "format.h"

static char out[1024];
static uint32_t out_length;

int syscall(uint32_t number, uint32_t a, uint32_t b)
{
    int result;

    __asm__ volatile("int 0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b) : "memory");
    return result;
}

void exit(int status)
{
    flush();
    syscall(SYS_EXIT, (uint32_t)status, 0);
    __builtin_unreachable();
}

int write(const void *buffer, uint32_t length)
{
    return syscall(SYS_WRITE, (uint32_t)buffer, length);
}

int read(void *buffer, uint32_t length)
{
    return syscall(SYS_READ, (uint32_t)buffer, length);
}

uint32_t uptime(void)
{
    return (uint32_t)syscall(SYS_UPTIME, 0, 0);
}

uint32_t ticks(void)
{
    return (uint32_t)syscall(SYS_TICKS, 0, 0);
}

int sleep(uint32_t ms)
{
    return syscall(SYS_SLEEP, ms, 0);
}

int sysinfo(struct sysinfo *info)
{
    return syscall(SYS_SYSINFO, (uint32_t)info, 0);
}

int exec(const char *name)
{
    flush();
    return syscall(SYS_EXEC, (uint32_t)name, 0);
}

void flush(void)
{
    if (out_length)
        write(out, out_length);
    out_length = 0;
}

static void put(void *ctx, char c)
{
    (void)ctx;
    if (out_length == sizeof out)
        flush();
    out[out_length++] = c;
}

void printf(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vformat(put, NULL, fmt, ap);
    va_end(ap);
}

int readline(const char *prompt, char *line, uint32_t size)
{
    int length;

    printf("%s", prompt);
    flush();
    length = read(line, size);
    if (length <= 0) {
        line[0] = '\0';
        return length == ERR_INTR ? READ_INTR : READ_END;
    }
    if (line[length - 1] == '\n' || (uint32_t)length == size)
        length--; /* room for the NUL */
    line[length] = '\0';
    return length;
}

bool ask(const char *prompt, char *line, uint32_t size)
{
    int length = readline(prompt, line, size);

    if (length == READ_END)
        printf("\n"); /* whoever prints next starts on a new line */
    return length >= 0 && !str_equal(skip_spaces(line), "q");
}
