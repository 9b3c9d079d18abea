/* err.h - an error as a value: which errno, and a sentence "what: why; what to do". */
#ifndef MK_ERR_H
#define MK_ERR_H

#include "base/util.h"

struct mk_err {
    int code;       /* errno value, 0 when there is no error */
    char text[400]; /* for people */
};

/* Fills in *err (which may be NULL) and returns -1, so that `return mk_fail(...)` reads well. */
int mk_fail(struct mk_err *err, int code, const char *fmt, ...) MK_PRINTF(3, 4);

/* The same with ": strerror(code)" appended. */
int mk_fail_errno(struct mk_err *err, int code, const char *fmt, ...) MK_PRINTF(3, 4);

/* "ENOENT" for ENOENT; "E?" for a number libc has no name for. */
const char *mk_err_name(int code);

#endif
