/* jail.h - the process gives up what it will not need: capabilities, files that were not named
 * (Landlock), system calls that are in no table (seccomp). What its own code does wrong after that,
 * or what has taken that code over, meets the kernel.
 *
 * Entered once, by the only thread there is. Threads made later begin with
 * mk_jail_begin_thread(), which takes from them what their role does not need. Sources: Linux
 * Documentation/userspace-api/landlock.rst, seccomp_filter.rst, no_new_privs.rst;
 * capabilities(7). */
#ifndef MK_JAIL_H
#define MK_JAIL_H

#include "base/err.h"

enum mk_jail_level {
    MK_JAIL_BEST,   /* what the kernel has */
    MK_JAIL_STRICT, /* every wall, or none and an error */
    MK_JAIL_LOG,    /* none: tells on stderr what would be refused */
};

/* Roles of threads, as bits. */
#define MK_ROLE_SCRIPT 1u /* all that the process may do; also a worker's thread */
#define MK_ROLE_VCPU 2u
#define MK_ROLE_IO 4u   /* the I/O thread */
#define MK_ROLE_DISK 8u /* serves requests of a disk */
#define MK_ROLE_ALL 15u

/* What may be done with a path that was named; with a directory, below it. */
#define MK_JAIL_READ 1u
#define MK_JAIL_WRITE 2u  /* write to what is there */
#define MK_JAIL_CHANGE 4u /* make, rename, remove files, those of a directory */
#define MK_JAIL_EMPTY 64u /* remove empty directories in it */
#define MK_JAIL_DEVICE 8u /* ioctl(2) on a device */
#define MK_JAIL_LINK                                                                               \
    16u /* the path may be a symbolic link, or lead upwards: it is followed, once */
#define MK_JAIL_OPTIONAL 32u /* it need not exist */

struct mk_jail_path {
    const char *path;
    unsigned access;
};

/* What else may be done, as bits. */
#define MK_JAIL_LISTEN 1u /* be connected to, by TCP and Unix sockets */
#define MK_JAIL_FILES 2u  /* guests have files, below directories that were named */
/* Open what was named on vCPU threads, where handlers of a script run. */
#define MK_JAIL_HANDLERS 4u

struct mk_jail {
    enum mk_jail_level level;
    const struct mk_jail_path *paths; /* beside those that the program itself needs */
    size_t count;
    unsigned allow;
};

/* Walls, as bits. */
#define MK_WALL_PRIVILEGES 1u   /* no new privileges, no capabilities */
#define MK_WALL_FILES 2u        /* Landlock */
#define MK_WALL_TRUNCATION 4u   /* Landlock's, for files that may be read alone (Linux 6.2) */
#define MK_WALL_SYSTEM_CALLS 8u /* seccomp */

struct mk_jail_report {
    unsigned walls;    /* that stand */
    char missing[320]; /* those that do not, and why; "": all are there */
};

/* Fails with EALREADY in a jail, with EBUSY beside other threads, with ENOTSUP when `strict` misses
 * a wall, and when a path cannot be named so; the process is then as it was, except that what was
 * given up before a wall turned out to be missing stays so. */
int mk_jail_enter(const struct mk_jail *jail, struct mk_jail_report *report, struct mk_err *err);

/* Whether mk_jail_enter() was called and had success. */
bool mk_jail_is_on(void);

/* At the beginning of a thread: from here on it does what its role needs. Nothing outside a jail. A
 * thread that cannot be walled in must do nothing more. */
int mk_jail_begin_thread(unsigned role, struct mk_err *err);

#endif
