/* calc_eval.h - the calculator without its user interface. */
#ifndef CALC_EVAL_H
#define CALC_EVAL_H

#include <stdint.h>

enum calc_result { CALC_OK, CALC_SYNTAX, CALC_OVERFLOW, CALC_DIV_ZERO };

/* Evaluates "NUMBER OPERATOR NUMBER": 32-bit integers, spaces optional around each, operators
 * + - * x / and the signs for minus, times and divided-by (UTF-8). Division truncates. */
enum calc_result calc_eval(const char *text, int32_t *result);

#endif
