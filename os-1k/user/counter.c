/* counter.c - counts from 0 to 9. */
#include "ulib.h"

int main(void)
{
    for (int i = 0; i <= 9; i++)
        printf("%d%c", i, i < 9 ? ' ' : '\n');
    return 0;
}
