/* prompt.c - the command prompt: thread 0, which sleeps until something is typed. */
#include "kernel.h"

#define LINE (COLUMNS - 3)

static void help(void);

static void show_threads(void)
{
    print("  thread     slices    counter\n");
    for (unsigned i = 0; i < THREADS; i++)
        print("%8s %10ld %10ld\n", threads[i].name, threads[i].slices, threads[i].counter);
}

static void show_uptime(void)
{
    uint64_t now = ticks;
    print("%ld.%02ld s, %ld timer interrupts\n", now / TICKS_PER_SECOND, now % TICKS_PER_SECOND,
          now);
}

static void halt(void)
{
    print("halted\n");
    kernel_halt();
}

static const struct {
    const char *name, *what;
    void (*run)(void);
} commands[] = {
    { "help", "this list", help },
    { "threads", "what each thread has done", show_threads },
    { "uptime", "time since boot", show_uptime },
    { "clear", "an empty screen", screen_clear },
    { "halt", "the end", halt },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help(void)
{
    for (unsigned i = 0; i < COMMANDS; i++)
        print("%8s  %s\n", commands[i].name, commands[i].what);
}

static void read_line(char *line)
{
    unsigned length = 0;

    for (char c; (c = keyboard_read()) != '\n';) {
        if (c == '\b' && length > 0) {
            length--;
            screen_put(c);
        } else if (c >= ' ' && length < LINE - 1) {
            line[length++] = c;
            screen_put(c);
        }
    }
    line[length] = 0;
    screen_put('\n');
}

static void execute(const char *line)
{
    for (unsigned i = 0; i < COMMANDS; i++) {
        if (text_equal(line, commands[i].name)) {
            commands[i].run();
            return;
        }
    }
    if (*line)
        print("unknown command \"%s\": try help\n", line);
}

_Noreturn void prompt(void)
{
    char line[LINE];

    print("kernel64, a 64-bit kernel in a few hundred lines. Commands: help\n");
    for (;;) {
        print("> ");
        read_line(line);
        threads[0].counter++;
        execute(line);
    }
}
