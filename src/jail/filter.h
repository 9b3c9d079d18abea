/* filter.h - system calls: seccomp filters, by role of the thread, out of the table in calls.c. */
#ifndef MK_JAIL_FILTER_H
#define MK_JAIL_FILTER_H

#include "jail/jail.h"

/* Whether filters can be used here; *why says what is missing. */
bool mk_filter_possible(const char **why);

/* Puts the filter of `role` on this thread and those that it makes. `allow`: of mk_jail. Any
 * thread. */
int mk_filter_enter(unsigned role, unsigned allow, struct mk_err *err);

/* Puts the filter on this thread that hands what not every role may do to a listener, which is
 * returned: a descriptor, for seccomp_unotify(2). */
int mk_filter_listen(struct mk_err *err);

/* "openat"; "a system call" for a number that has no name. */
const char *mk_filter_call_name(int number);

#endif
