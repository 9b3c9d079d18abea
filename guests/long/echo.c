/* echo.c - gives back every byte of its console input, NUL and 0xff too, until the input ends.
 *
 * Input comes by GETCHAR, which tells a byte from "none yet" and from the end; port 0xe9 cannot
 * (serial.c). */
#include "minikvm.h"

int main(void)
{
    for (int c; (c = getc()) != END_OF_INPUT;)
        putc((char)c);
    return 0;
}
