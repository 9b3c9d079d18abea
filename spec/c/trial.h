/* trial.h - an attempt in a process of its own, for the tests of the jail. */
#ifndef TRIAL_H
#define TRIAL_H

#include "jail/jail.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define P(x) (long)(x)

struct attempt {
    const char *name;
    unsigned roles; /* whose threads try it */
    long number, a[6];
    int error;
};

struct trial {
    const struct attempt *attempt;
    unsigned role;
    int error;
};

/* `pipe` is what write(2) gets. */
static inline void try(struct trial *t, int pipe)
{
    long a[6];
    memcpy(a, t->attempt->a, sizeof(a));
    if (t->attempt->number == SYS_write)
        a[0] = pipe;
    long rc = syscall(t->attempt->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    t->error = rc < 0 ? errno : 0;
}

/* What fn returned there; 1000 and more: the signal that ended it. */
static inline int in_child(int (*fn)(struct trial *), struct trial *t)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        _exit(fn(t));
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#endif
