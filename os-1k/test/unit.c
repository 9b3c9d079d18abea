/* unit.c - tests of the parts that need no machine, run on the host: formatting, numbers, the
 * calculator, line editing, the keyboard map. Prints TAP. */
#include <stdio.h>
#include <string.h>

#include "calc_eval.h"
#include "format.h"
#include "keymap.h"
#include "line.h"
#include "number.h"

static int count, failures;

static void check(bool passed, const char *what, const char *detail)
{
    count++;
    failures += !passed;
    printf("%s %d - %s\n", passed ? "ok" : "not ok", count, what);
    if (!passed)
        printf("#   got \"%s\"\n", detail);
}

static char text[4096];
static size_t text_length;

static void collect(void *ctx, char c)
{
    (void)ctx;
    text[text_length++] = c;
    text[text_length] = '\0';
}

static void collect_echo(const char *s, uint32_t length)
{
    while (length--)
        collect(NULL, *s++);
}

static void text_clear(void)
{
    text_length = 0;
    text[0] = '\0';
}

static void expect_format(const char *wanted, const char *fmt, ...)
{
    char what[256];
    va_list ap;

    text_clear();
    va_start(ap, fmt);
    vformat(collect, NULL, fmt, ap);
    va_end(ap);
    snprintf(what, sizeof what, "format \"%s\" gives \"%s\"", fmt, wanted);
    check(!strcmp(text, wanted), what, text);
}

static void test_format(void)
{
    expect_format("plain", "plain");
    expect_format("0 7 -7", "%d %d %d", 0, 7, -7);
    expect_format("-2147483648 2147483647", "%d %d", INT32_MIN, INT32_MAX);
    expect_format("4294967295", "%u", UINT32_MAX);
    expect_format("0x000000ff", "0x%08x", 255);
    expect_format("deadbeef", "%x", 0xdeadbeefu);
    expect_format("[   42][42   ][00042]", "[%5d][%-5d][%05d]", 42, 42, 42);
    expect_format("[  -42][-0042]", "[%5d][%05d]", -42, -42);
    expect_format("12345", "%2d", 12345);
    expect_format("[ab  ][  ab]", "[%-4s][%4s]", "ab", "ab");
    expect_format("x%(null)", "%c%%%s", 'x', (char *)NULL);
    expect_format("%q%", "%q%");
    expect_format("%-", "%-");
}

static void expect_number(const char *input, enum number_result wanted, int32_t value,
                          const char *rest)
{
    const char *s = input;
    int32_t got = 0;
    enum number_result result = parse_int(&s, &got);
    char what[256];

    snprintf(what, sizeof what, "number \"%s\"", input);
    check(result == wanted && (wanted != NUMBER_OK || got == value) && !strcmp(s, rest), what, s);
}

static void test_number(void)
{
    expect_number("0", NUMBER_OK, 0, "");
    expect_number("007x", NUMBER_OK, 7, "x");
    expect_number("-12 ", NUMBER_OK, -12, " ");
    expect_number("\xe2\x88\x92" "5", NUMBER_OK, -5, "");
    expect_number("2147483647", NUMBER_OK, INT32_MAX, "");
    expect_number("-2147483648", NUMBER_OK, INT32_MIN, "");
    expect_number("2147483648", NUMBER_OVERFLOW, 0, "");
    expect_number("-2147483649", NUMBER_OVERFLOW, 0, "");
    expect_number("99999999999999999999+", NUMBER_OVERFLOW, 0, "+");
    expect_number("", NUMBER_NONE, 0, "");
    expect_number("-", NUMBER_NONE, 0, "-");
    expect_number("--1", NUMBER_NONE, 0, "--1");
    expect_number("\xe2\x88", NUMBER_NONE, 0, "\xe2\x88");
}

static void expect_calc(const char *input, enum calc_result wanted, int32_t value)
{
    int32_t got = 0;
    enum calc_result result = calc_eval(input, &got);
    char what[256], detail[64];

    snprintf(what, sizeof what, "calculate \"%s\"", input);
    snprintf(detail, sizeof detail, "result %d, value %d", result, got);
    check(result == wanted && (wanted != CALC_OK || got == value), what, detail);
}

static void test_calc(void)
{
    static const char *const bad[] = {
        "", " ", "1", "+", "1 +", "+ 1", "1 2", "1 ++ 2", "1 + 2 + 3", "1 + 2x", "abc", "1 % 2",
        "1 + - 2", "--1 + 2", "1e3 + 1", "0x10 + 1", "1.5 + 1", "(1 + 2)", "1 + 2 q", "1 \xc3 2",
        "1 \xe2\x88 2", "\xff\xfe", "1 = 2", "1 / -", "9999999999999 +", "9999999999999",
    };

    expect_calc("12 + 5", CALC_OK, 17);
    expect_calc("100 - 37", CALC_OK, 63);
    expect_calc("12+5", CALC_OK, 17);
    expect_calc("  8*-2  ", CALC_OK, -16);
    expect_calc("7x6", CALC_OK, 42);
    expect_calc("7 X 6", CALC_OK, 42);
    expect_calc("7 \xc3\x97 6", CALC_OK, 42);
    expect_calc("9 \xc3\xb7 2", CALC_OK, 4);
    expect_calc("-9 / 2", CALC_OK, -4);
    expect_calc("3 \xe2\x88\x92 5", CALC_OK, -2);
    expect_calc("-5--3", CALC_OK, -2);
    expect_calc("5-3", CALC_OK, 2);
    expect_calc("2147483647 + 0", CALC_OK, INT32_MAX);
    expect_calc("-2147483648 * 1", CALC_OK, INT32_MIN);
    expect_calc("2147483647 + 1", CALC_OVERFLOW, 0);
    expect_calc("-2147483648 - 1", CALC_OVERFLOW, 0);
    expect_calc("65536 * 65536", CALC_OVERFLOW, 0);
    expect_calc("-2147483648 / -1", CALC_OVERFLOW, 0);
    expect_calc("99999999999 * 0", CALC_OVERFLOW, 0);
    expect_calc("7 / 0", CALC_DIV_ZERO, 0);
    expect_calc("0 / -0", CALC_DIV_ZERO, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_calc(bad[i], CALC_SYNTAX, 0);
}

/* Feeds bytes until something comes of them; then the end of input, if nothing did. */
static enum line_result feed(struct line *line, const char *bytes, size_t length)
{
    text_clear();
    for (size_t i = 0; i < length; i++) {
        enum line_result result = line_feed(line, (unsigned char)bytes[i], collect_echo);
        if (result != LINE_MORE)
            return result;
    }
    return line_feed(line, -1, collect_echo);
}

static void expect_line(const char *what, const char *bytes, enum line_result wanted,
                        const char *line_text, const char *echo)
{
    struct line line = { .length = 0 };
    enum line_result result = feed(&line, bytes, strlen(bytes));

    check(result == wanted && !strcmp(text, echo) &&
              (wanted != LINE_DONE || (line.length == strlen(line_text) &&
                                       !memcmp(line.text, line_text, line.length))),
          what, text);
}

static void test_long_line(void)
{
    static char bytes[65537];
    struct line line = { .length = 0 };

    memset(bytes, 'a', 65536);
    bytes[65536] = '\n';
    check(feed(&line, bytes, sizeof bytes) == LINE_DONE && line.length == LINE_SIZE &&
              line.dropped == 65536 - (LINE_SIZE - 1) && text_length == LINE_SIZE,
          "64 KiB in one line are cut and counted", "");
    line_clear(&line);
    check(feed(&line, "b\n", 2) == LINE_DONE && line.length == 2 && !line.dropped,
          "the next line is whole", text);
}

static void test_line(void)
{
    expect_line("a line", "abc\n", LINE_DONE, "abc\n", "abc\n");
    expect_line("carriage return ends it too", "abc\r", LINE_DONE, "abc\n", "abc\n");
    expect_line("end of input ends it too", "abc", LINE_DONE, "abc\n", "abc\n");
    expect_line("end of input", "", LINE_EOF, "", "");
    expect_line("backspace", "ab\bc\n", LINE_DONE, "ac\n", "ab\b \bc\n");
    expect_line("delete", "ab\177c\n", LINE_DONE, "ac\n", "ab\b \bc\n");
    expect_line("backspace on nothing", "\b\b\n", LINE_DONE, "\n", "\n");
    expect_line("backspace takes a whole UTF-8 character", "a\xc3\xa9\b\n", LINE_DONE, "a\n",
                "a\xc3\xa9\b \b\n");
    expect_line("backspace on stray continuation bytes", "\x80\x80\b\b\n", LINE_DONE, "\n",
                "\x80\x80\b \b\n");
    expect_line("Ctrl-U", "ab\025c\n", LINE_DONE, "c\n", "ab\b \b\b \bc\n");
    expect_line("Ctrl-C", "ab\003", LINE_INTR, "", "ab^C\n");
    expect_line("Ctrl-D on an empty line", "\004", LINE_EOF, "", "");
    expect_line("Ctrl-D behind text", "a\004b\n", LINE_DONE, "ab\n", "ab\n");
    expect_line("arrow keys", "a\033[Ab\033OCc\033[3~\n", LINE_DONE, "abc\n", "abc\n");
    expect_line("other control bytes", "a\001\033\nb", LINE_DONE, "a\n", "a\n");
    expect_line("tabs", "a\tb\n", LINE_DONE, "a b\n", "a b\n");

    struct line line = { .length = 0 };
    feed(&line, "a\r", 2);
    line_clear(&line);
    check(feed(&line, "\nb\n", 3) == LINE_DONE && line.length == 2, "CR LF is one line end", text);
    test_long_line();
}

static void expect_keys(const char *what, const char *codes, size_t length, const char *wanted)
{
    struct keymap state = { .shift = false };

    text_clear();
    for (size_t i = 0; i < length; i++) {
        char c = keymap_feed(&state, (uint8_t)codes[i]);
        if (c)
            collect(NULL, c);
    }
    check(!strcmp(text, wanted), what, text);
}

#define KEYS(codes) codes, sizeof codes - 1

static void test_keymap(void)
{
    expect_keys("digits", KEYS("\x02\x82\x0b\x8b"), "10");
    expect_keys("rows", KEYS("\x10\x19\x1e\x26\x2c\x32\x35\x39\x1c\x0e"), "qpalzm/ \n\b");
    expect_keys("shift", KEYS("\x2a\x0d\x8d\xaa\x0d\x36\x09\xb6"), "+=*");
    expect_keys("caps lock", KEYS("\x3a\xba\x1e\x02\x2a\x1e\xaa\x3a\xba\x1e"), "A1aa");
    expect_keys("control", KEYS("\x1d\x2e\x9d\xe0\x1d\x20\xe0\x9d\x20"), "\003\004d");
    expect_keys("arrows give nothing", KEYS("\xe0\x48\xe0\xc8\xe0\x2a\xe0\x4b\xe0\xaa\x1e"), "a");
    expect_keys("keypad", KEYS("\x47\x52\x53\x4a\x4e\x37\xe0\x35\xe0\x1c"), "70.-+*/\n");
    expect_keys("unknown codes", KEYS("\x59\x7f\xff\xfa\x3b\x58"), "");
}

int main(void)
{
    test_format();
    test_number();
    test_calc();
    test_line();
    test_keymap();
    printf("1..%d\n# %d passed, %d failed\n", count, count - failures, failures);
    return failures != 0;
}
