/* echo.c - repeats each line that is typed; `q` ends it. Between two looks at the console it sleeps
 * for a millisecond: the SBI has no interrupt for input. */
#include "guest.h"

#define SIE_STIE (1 << 5)

/* With interrupts off a WFI ends when one is pending, but nobody is called. */
static char read_char(void)
{
    int c;

    while ((c = get_char()) < 0) {
        set_timer(csr_read(time) + TICKS_PER_MS);
        __asm__ volatile("wfi");
    }
    return (char)c;
}

/* Without the end of the line. What does not fit is dropped. */
static void read_line(char *line, unsigned size)
{
    unsigned length = 0;
    char c;

    while ((c = read_char()) != '\n' && c != '\r')
        if (length < size - 1)
            line[length++] = c;
    line[length] = '\0';
}

int main(void)
{
    char line[80];

    csr_set(sie, SIE_STIE);
    for (;;) {
        put_string("> ");
        read_line(line, sizeof line);
        if (line[0] == 'q' && !line[1])
            return 0;
        put_string(line);
        put_string("\n");
    }
}
