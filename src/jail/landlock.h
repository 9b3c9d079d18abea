/* landlock.h - files: a Landlock ruleset of what was named (Linux
 * Documentation/userspace-api/landlock.rst). */
#ifndef MK_JAIL_LANDLOCK_H
#define MK_JAIL_LANDLOCK_H

#include "jail/jail.h"

/* The kernel's version of Landlock: 0 when it has none, or refuses; *why says it. */
int mk_landlock_version(const char **why);

/* What the program needs whatever is named. */
extern const struct mk_jail_path mk_landlock_own[];
extern const size_t mk_landlock_own_count;

/* Whether the paths that were named are there, and are what they seem to be: 0, -1 with *err. */
int mk_landlock_check(const struct mk_jail *jail, struct mk_err *err);

/* A ruleset of these paths and of what the program needs: a descriptor, -1 with *err. */
int mk_landlock_make(int version, const struct mk_jail *jail, struct mk_err *err);

/* This thread, and those that it makes, keep to the ruleset. */
int mk_landlock_enter(int ruleset, struct mk_err *err);

#endif
