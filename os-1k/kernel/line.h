/* line.h - the line discipline: from typed bytes to an edited line. */
#ifndef LINE_H
#define LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "syscall.h"

enum line_result { LINE_MORE, LINE_DONE, LINE_EOF, LINE_INTR };

struct line {
    char text[LINE_SIZE];
    uint32_t length;
    uint32_t dropped; /* bytes that did not fit */
    uint8_t escape;   /* inside an escape sequence: 1 after ESC, 2 after ESC [ */
    bool after_cr;    /* a '\n' right behind '\r' belongs to it */
};

typedef void line_echo(const char *text, uint32_t length);

/* Forgets the text, but not what the last byte was. */
void line_clear(struct line *line);

/* Takes one byte, or a negative number for the end of input, and echoes what the user should see.
 * After LINE_DONE text[0..length) is the line with its '\n'; clear it before the next byte. */
enum line_result line_feed(struct line *line, int c, line_echo *echo);

#endif
