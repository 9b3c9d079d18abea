/* line.c - line editing: backspace, Ctrl-U, Ctrl-C, Ctrl-D. Also compiled for the host tests.
 *
 * It does not matter whether bytes come from a terminal, a keyboard or a pipe. What does not fit
 * is dropped and counted, without an echo, so that the user sees where the line ended. */
#include "line.h"

#define CTRL(letter) ((letter) & 0x1f)
#define ESC 0x1b
#define DEL 0x7f

void line_clear(struct line *line)
{
    line->length = 0;
    line->dropped = 0;
}

/* Removes the last character, which in UTF-8 may be several bytes but is one on the screen. */
static void erase(struct line *line, line_echo *echo)
{
    if (!line->length)
        return;
    while (line->length > 1 && ((uint8_t)line->text[line->length - 1] & 0xc0) == 0x80)
        line->length--;
    line->length--;
    echo("\b \b", 3);
}

static enum line_result finish(struct line *line, line_echo *echo)
{
    line->text[line->length++] = '\n'; /* insert() leaves room for it */
    echo("\n", 1);
    return LINE_DONE;
}

static void insert(struct line *line, char c, line_echo *echo)
{
    if (line->length == LINE_SIZE - 1) {
        line->dropped++;
        return;
    }
    line->text[line->length++] = c;
    echo(&c, 1);
}

/* Arrow keys and their like send ESC [ ... letter; true while c is part of such a sequence. */
static bool in_escape(struct line *line, int c)
{
    if (line->escape == 0 && c == ESC)
        line->escape = 1;
    else if (line->escape == 1)
        line->escape = c == '[' || c == 'O' ? 2 : 0;
    else if (line->escape == 2)
        line->escape = c >= 0x40 && c <= 0x7e ? 0 : 2;
    else
        return false;
    return true;
}

enum line_result line_feed(struct line *line, int c, line_echo *echo)
{
    bool after_cr = line->after_cr;

    if (c < 0)
        return line->length ? finish(line, echo) : LINE_EOF; /* a last line may lack its '\n' */
    line->after_cr = c == '\r';
    if (c == '\n' && after_cr)
        return LINE_MORE;
    if (c == '\n' || c == '\r') {
        line->escape = 0;
        return finish(line, echo);
    }
    if (in_escape(line, c))
        return LINE_MORE;

    if (c == '\b' || c == DEL) {
        erase(line, echo);
    } else if (c == CTRL('u')) {
        while (line->length)
            erase(line, echo);
    } else if (c == CTRL('c')) {
        echo("^C\n", 3);
        return LINE_INTR;
    } else if (c == CTRL('d')) {
        return line->length ? LINE_MORE : LINE_EOF;
    } else if (c == '\t') {
        insert(line, ' ', echo);
    } else if (c >= ' ') {
        insert(line, (char)c, echo);
    }
    return LINE_MORE;
}
