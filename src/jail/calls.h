/* calls.h - which system calls a process in a jail makes, and what for. */
#ifndef MK_JAIL_CALLS_H
#define MK_JAIL_CALLS_H

#include <stddef.h>
#include <stdint.h>

/* A condition on one argument: (argument & mask) == value. */
struct mk_jail_test {
    unsigned index;
    uint64_t mask, value;
};

/* Stands in the table for the number of the process, which is known when a filter is used. */
#define MK_JAIL_THIS_PROCESS 0x70696421u

/* Rows of the same call are alternatives; the tests of one row must all hold. */
struct mk_jail_call {
    int number;
    unsigned roles; /* of threads that make it */
    unsigned needs; /* bits of mk_jail.allow without which the row does not count */
    const char *why;
    struct mk_jail_test test[2]; /* of mask 0: none */
};

extern const struct mk_jail_call mk_jail_calls[];
extern const size_t mk_jail_call_count;

#endif
