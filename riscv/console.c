/* console.c - one console for all: whole lines, each with the name of who printed it.
 *
 * A guest's line is shown when it is finished, when it is too long to be kept, when the guest wants
 * input (then it is a prompt), and when the guest ends. Time slices therefore never cut one. */
#include "hyper.h"

static void print_string(const char *s)
{
    while (*s)
        firmware_putc(*s++);
}

static void print_number(uint64_t value, unsigned base)
{
    char digits[21], *first = digits + sizeof digits - 1;

    *first = '\0';
    do {
        *--first = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    print_string(first);
}

static void vprint(const char *format, va_list ap)
{
    for (; *format; format++) {
        if (*format != '%') {
            firmware_putc(*format);
            continue;
        }
        while (*++format == 'l') /* all numbers are */
            ;
        switch (*format) {
        case 's': print_string(va_arg(ap, const char *)); break;
        case 'u': print_number(va_arg(ap, uint64_t), 10); break;
        case 'x': print_number(va_arg(ap, uint64_t), 16); break;
        }
    }
}

static const struct guest *open_line; /* whose line the terminal's cursor stands in */

static void close_line(void)
{
    if (open_line)
        firmware_putc('\n');
    open_line = NULL;
}

void vsay(const char *name, const char *format, va_list ap)
{
    close_line();
    print_string("hypervisor: ");
    print_string(name);
    if (*name)
        firmware_putc(' ');
    vprint(format, ap);
    firmware_putc('\n');
}

void say(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsay("", format, ap);
    va_end(ap);
}

void guest_flush(struct guest *guest)
{
    if (!guest->length)
        return;
    if (open_line != guest) {
        close_line();
        print_string("[");
        print_string(guest->name);
        print_string("] ");
    }
    for (size_t i = 0; i < guest->length; i++)
        firmware_putc(guest->line[i]);
    open_line = guest->line[guest->length - 1] == '\n' ? NULL : guest;
    guest->length = 0;
}

void guest_putc(struct guest *guest, char c)
{
    guest->line[guest->length++] = c;
    if (c == '\n' || guest->length == sizeof guest->line)
        guest_flush(guest);
}
