/* gcd.c - the greatest common divisor of two numbers, by Euclid. */
#include "ulib.h"

static uint32_t magnitude(int32_t n)
{
    return n < 0 ? -(uint32_t)n : (uint32_t)n;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Two numbers with spaces or a comma between them, and nothing else. */
static enum number_result parse_pair(const char *s, int32_t *a, int32_t *b)
{
    enum number_result first, second;

    s = skip_spaces(s);
    first = parse_int(&s, a);
    s = skip_spaces(s);
    if (*s == ',')
        s = skip_spaces(s + 1);
    second = parse_int(&s, b);
    if (first == NUMBER_NONE || second == NUMBER_NONE || *skip_spaces(s))
        return NUMBER_NONE;
    return first == NUMBER_OVERFLOW ? first : second;
}

int main(void)
{
    char line[LINE_SIZE];
    int32_t a = 0, b = 0;

    printf("Type two whole numbers, for example 48 18; q ends.\n");
    while (ask("Numbers: ", line, sizeof line)) {
        enum number_result result = parse_pair(line, &a, &b);

        if (result == NUMBER_NONE)
            printf("not understood: type two numbers like 48 18\n");
        else if (result == NUMBER_OVERFLOW)
            printf("overflow: numbers go from -2147483648 to 2147483647\n");
        else
            printf("gcd(%d, %d) = %u\n", a, b, gcd(magnitude(a), magnitude(b)));
    }
    return 0;
}
