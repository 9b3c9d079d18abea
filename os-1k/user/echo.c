/* echo.c - repeats what is typed. */
#include "ulib.h"

int main(void)
{
    char line[LINE_SIZE];

    printf("Type something; q ends.\n");
    while (ask("Echo: ", line, sizeof line))
        printf("%s\n", line);
    return 0;
}
