/* calc.c - the calculator's user interface; calc_eval.c does the work. */
#include "calc_eval.h"
#include "ulib.h"

int main(void)
{
    char line[LINE_SIZE];
    int32_t result;

    printf("Two whole numbers with + - * / between them; q ends.\n");
    while (ask("Calculate: ", line, sizeof line)) {
        switch (calc_eval(line, &result)) {
        case CALC_OK:
            printf("%d\n", result);
            break;
        case CALC_OVERFLOW:
            printf("overflow: numbers go from -2147483648 to 2147483647\n");
            break;
        case CALC_DIV_ZERO:
            printf("division by zero\n");
            break;
        default:
            printf("not understood: type something like 12 + 5\n");
        }
    }
    return 0;
}
