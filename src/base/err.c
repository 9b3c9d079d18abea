/* err.c - see err.h. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void word(struct mk_err *err, int code, const char *fmt, va_list ap)
{
    if (!err)
        return;
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    err->code = code;
}

int mk_fail(struct mk_err *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    word(err, code, fmt, ap);
    va_end(ap);
    return -1;
}

int mk_fail_errno(struct mk_err *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    word(err, code, fmt, ap);
    va_end(ap);
    size_t used = err ? strlen(err->text) : 0;
    if (err)
        snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(code));
    return -1;
}

const char *mk_err_name(int code)
{
    const char *name = strerrorname_np(code);
    return name ? name : "E?";
}
