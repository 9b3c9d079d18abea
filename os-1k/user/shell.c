/* shell.c - the menu. It is a program like the others, only the kernel starts it by itself. */
#include "ulib.h"

static const struct {
    const char *name, *title;
} menu[] = {
    { "mul", "Multiplication table (2x1 to 9x9)" },
    { "counter", "Counter (0 to 9)" },
    { "echo", "Echo" },
    { "fib", "Fibonacci numbers (the first 15)" },
    { "primes", "Prime numbers up to 100" },
    { "calc", "Calculator" },
    { "fact", "Factorials (0! to 12!)" },
    { "gcd", "Greatest common divisor" },
    { "about", "About 1K OS" },
};

#define CHOICES ((int)(sizeof menu / sizeof menu[0]))

static void show_menu(void)
{
    printf("\n=== 1K OS ===\n");
    for (int i = 0; i < CHOICES; i++)
        printf("  %d. %s\n", i + 1, menu[i].title);
    printf("  0. Exit\n\n");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The number that is the whole answer but for spaces around it, or -1. */
static int parse_choice(const char *answer)
{
    const char *s = skip_spaces(answer);
    int32_t choice;

    if (!is_digit(*s) || (*s == '0' && is_digit(s[1]))) /* no signs, no leading zeros */
        return -1;
    if (parse_int(&s, &choice) != NUMBER_OK || choice > CHOICES || *skip_spaces(s))
        return -1;
    return choice;
}

int main(void)
{
    char answer[LINE_SIZE];

    show_menu();
    for (;;) {
        int length = readline("Select: ", answer, sizeof answer);
        int choice = parse_choice(answer);

        if (length == READ_END)
            printf("\n");
        if (length == READ_END || choice == 0)
            return 0;
        if (length == READ_INTR)
            continue;
        if (choice < 0)
            printf("Not on the menu: type a number from 0 to %d.\n", CHOICES);
        else if (exec(menu[choice - 1].name) < 0)
            printf("The program '%s' is missing.\n", menu[choice - 1].name);
    }
}
