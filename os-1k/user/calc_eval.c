/* calc_eval.c - parses and evaluates one line of the calculator. Also compiled for host tests. */
#include "calc_eval.h"

#include "number.h"

/* Reads an operator at *s and moves behind it; returns one of + - * / or 0. */
static char parse_operator(const char **s)
{
    static const struct {
        char op;
        const char *text;
    } table[] = {
        { '+', "+" }, { '-', "-" }, { '*', "*" }, { '/', "/" }, { '*', "x" }, { '*', "X" },
        { '-', "\xe2\x88\x92" }, { '*', "\xc3\x97" }, { '/', "\xc3\xb7" },
    };

    for (unsigned i = 0; i < sizeof table / sizeof table[0]; i++) {
        const char *p = *s, *t = table[i].text;
        while (*t && *p == *t)
            p++, t++;
        if (!*t) {
            *s = p;
            return table[i].op;
        }
    }
    return 0;
}

static enum calc_result apply(char op, int32_t a, int32_t b, int32_t *result)
{
    switch (op) {
    case '+':
        return __builtin_add_overflow(a, b, result) ? CALC_OVERFLOW : CALC_OK;
    case '-':
        return __builtin_sub_overflow(a, b, result) ? CALC_OVERFLOW : CALC_OK;
    case '*':
        return __builtin_mul_overflow(a, b, result) ? CALC_OVERFLOW : CALC_OK;
    default:
        if (b == 0)
            return CALC_DIV_ZERO;
        if (a == INT32_MIN && b == -1) /* does not fit: the CPU would fault */
            return CALC_OVERFLOW;
        *result = a / b;
        return CALC_OK;
    }
}

enum calc_result calc_eval(const char *text, int32_t *result)
{
    enum number_result left, right;
    int32_t a = 0, b = 0;
    char op;

    text = skip_spaces(text);
    left = parse_int(&text, &a);
    text = skip_spaces(text);
    op = parse_operator(&text);
    text = skip_spaces(text);
    right = parse_int(&text, &b);
    text = skip_spaces(text);

    if (left == NUMBER_NONE || !op || right == NUMBER_NONE || *text)
        return CALC_SYNTAX;
    if (left == NUMBER_OVERFLOW || right == NUMBER_OVERFLOW)
        return CALC_OVERFLOW;
    return apply(op, a, b, result);
}
