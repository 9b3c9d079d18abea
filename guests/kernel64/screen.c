/* screen.c - the PC's text screen: 80 x 25 cells at 0xb8000, a character (code page 437) and its
 * colours each. The first row is the status line; the others scroll. */
#include "kernel.h"

#define SCREEN ((volatile uint16_t *)0xb8000)
#define NORMAL 0x0700 /* light grey on black */
#define STATUS 0x1f00 /* white on blue */
#define FIRST 1

static unsigned row = FIRST, column;

static void blank_row(unsigned y)
{
    for (unsigned x = 0; x < COLUMNS; x++)
        SCREEN[y * COLUMNS + x] = NORMAL | ' ';
}

void screen_clear(void)
{
    for (unsigned y = FIRST; y < ROWS; y++)
        blank_row(y);
    row = FIRST;
    column = 0;
}

/* All rows but the first of them, up by one, 4 cells a step. */
static void scroll(void)
{
    volatile uint16_t *to = SCREEN + FIRST * COLUMNS, *from = to + COLUMNS;
    uint64_t steps = (ROWS - FIRST - 1) * COLUMNS / 4;

    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(steps) : : "memory");
    blank_row(ROWS - 1);
}

static void new_line(void)
{
    column = 0;
    if (++row == ROWS) {
        scroll();
        row--;
    }
}

void screen_put(char c)
{
    if (c == '\n') {
        new_line();
    } else if (c == '\b') {
        if (column > 0)
            SCREEN[row * COLUMNS + --column] = NORMAL | ' ';
    } else {
        if (column == COLUMNS)
            new_line();
        SCREEN[row * COLUMNS + column++] = NORMAL | (uint8_t)c;
    }
}

void status_line(const char *text)
{
    for (unsigned x = 0; x < COLUMNS; x++)
        SCREEN[x] = STATUS | (uint8_t)(*text ? *text++ : ' ');
}
