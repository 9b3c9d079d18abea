/* log.h - a jail without walls: who would have been refused what, on stderr. */
#ifndef MK_JAIL_LOG_H
#define MK_JAIL_LOG_H

#include "jail/jail.h"

/* From here on the process is watched. */
int mk_log_enter(const struct mk_jail *jail, struct mk_err *err);

/* This thread has the role. */
void mk_log_begin_thread(unsigned role);

#endif
