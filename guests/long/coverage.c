/* coverage.c - counts the words of its input, compiled so that it keeps a record of the blocks that
 * ran (lib_coverage.c): vm:coverage{ map = true } tells which lines that were. */
#include "minikvm.h"

static bool is_space(int c)
{
    return c == ' ' || c == '\n' || c == '\t';
}

static const char *size_of(int words)
{
    switch (words) {
    case 0: return "nothing";
    case 1: return "a word";
    case 2: return "a pair";
    default: return "a text";
    }
}

int main(void)
{
    int words = 0;
    bool inside = false;
    for (int c; (c = getc()) != END_OF_INPUT;) {
        if (is_space(c)) {
            inside = false;
        } else if (!inside) {
            inside = true;
            words++;
        }
    }
    printf("%d: %s\n", words, size_of(words));
    return 0;
}
