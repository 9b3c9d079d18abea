/* serial.c - a dialogue over port 0xe9 alone: every line comes back in capitals, an empty one ends.
 *
 * IN reads 0xff for "none", so that a guest needs an end of its own in what it is sent. */
#include "minikvm.h"

#define NONE 0xff

static char next(void)
{
    uint8_t c;

    do {
        c = serial_in();
    } while (c == NONE);
    return (char)c;
}

int main(void)
{
    for (int length = 0;; length++) {
        char c = next();
        putc(c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c);
        if (c == '\n' && length == 0)
            return 0;
        if (c == '\n')
            length = -1;
    }
}
