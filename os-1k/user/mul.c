/* mul.c - the multiplication table from 2x1 to 9x9. */
#include "ulib.h"

int main(void)
{
    for (int a = 2; a <= 9; a++) {
        for (int b = 1; b <= 9; b++)
            printf(b < 9 ? "%dx%d=%-3d " : "%dx%d=%d\n", a, b, a * b);
    }
    return 0;
}
