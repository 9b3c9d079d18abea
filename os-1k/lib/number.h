/* number.h - reading numbers out of text. */
#ifndef NUMBER_H
#define NUMBER_H

#include <stdint.h>

enum number_result { NUMBER_OK, NUMBER_NONE, NUMBER_OVERFLOW };

const char *skip_spaces(const char *s);

/* Reads [-]digits at *s (no leading spaces) and moves *s behind it. The minus may also be U+2212.
 * NUMBER_NONE leaves *s alone; NUMBER_OVERFLOW consumes all digits and leaves *value alone. */
enum number_result parse_int(const char **s, int32_t *value);

#endif
