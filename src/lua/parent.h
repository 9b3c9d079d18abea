/* parent.h - --safe is two processes: the script's, which is put into a jail, and its parent, which
 * waits for it, ends it when its time is up, and clears away. */
#ifndef MK_LUA_PARENT_H
#define MK_LUA_PARENT_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Shared by them: what the child tells, and what the guard must know. */
struct mk_parent_page {
    _Atomic uint64_t began; /* mk_now() when the script began; 0: not yet */
    char where[256];        /* "script.lua:12": where the script was when it was asked */
    char folder[PATH_MAX];  /* of private files, which the parent removes; "": there is none */
};

struct mk_parent_grant {
    uint64_t ns;     /* the script's time */
    uint64_t memory; /* bytes of address space beside what the program has at its start */
    bool files;      /* make a folder for private files of guests, below TMPDIR */
};

/* In a process that was forked for it: closes its descriptors, and returns when `parent`, which
 * forked it, has ended, for kill -9's sake (prctl(2), PR_SET_PDEATHSIG). False: there is no such
 * signal. */
bool mk_guard_wait(pid_t parent);
/* Kills a child and waits for its end. Returns its status, as of wait(2). */
int mk_end_child(pid_t pid);

/* The signal by which the parent asks the child where it is, a few times. */
#define MK_PARENT_SIGNAL SIGALRM

/* Makes the child; for the only thread of the process. Returns 0 in the child, with *page; in the
 * parent, when the child has ended, 1 and its *status, as a shell would see it. -1: there is no
 * child. */
int mk_parent_start(const struct mk_parent_grant *grant, struct mk_parent_page **page, int *status,
                    struct mk_err *err);

#endif
