/* jail.c - see jail.h. What is wrong in the policy is found before anything is given up. */
#include "jail/jail.h"

#include "jail/filter.h"
#include "jail/landlock.h"
#include "jail/log.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

static struct {
    atomic_bool on;
    bool filters; /* threads have some */
    bool log;
    unsigned allow;
} jail;

struct walls { /* that are being built */
    struct mk_jail_report *report;
    int version, ruleset; /* of Landlock */
    bool filters, privileges;
};

bool mk_jail_is_on(void)
{
    return atomic_load_explicit(&jail.on, memory_order_relaxed);
}

static void miss(struct mk_jail_report *report, const char *what, const char *why)
{
    size_t used = strlen(report->missing);
    snprintf(report->missing + used, sizeof(report->missing) - used, "%s%s (%s)", used ? "; " : "",
             what, why);
}

/* --- before anything is given up --- */

/* unshare(2) of what threads share is refused to a process that has several, and does nothing to
 * one that has not. */
static int check_moment(struct mk_err *err)
{
    if (mk_jail_is_on())
        return mk_fail(
            err, EALREADY,
            "this process is in a jail already, which can be entered once: name all that "
            "is needed in that one call");
    if (unshare(CLONE_THREAD) < 0 && errno == EINVAL)
        return mk_fail(err, EBUSY,
                       "the process has other threads, which would stay outside: enter the jail "
                       "before the first VM, worker or thread of yours is made");
    return 0;
}

static void find_walls(struct walls *w, unsigned allow)
{
    const char *why = NULL;
    w->version = mk_landlock_version(&why);
    if (w->version == 0)
        miss(w->report, "Landlock, which keeps it from files that were not named", why);
    else if (w->version < 3 && allow & MK_JAIL_FILES) /* else no openat2(2), see calls.c */
        miss(w->report, "Landlock's right to truncate files that may only be read",
             "it is there from Linux 6.2 on");
    w->privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0;
    if (!w->privileges) /* a container forbids prctl(2) */
        miss(w->report, "no new privileges", strerror(errno));
    w->filters = mk_filter_possible(&why);
    if (!w->filters)
        miss(w->report, "seccomp, which keeps it from system calls it does not need", why);
}

static int check_strict(const struct mk_jail *policy, const struct walls *w, struct mk_err *err)
{
    if (policy->level != MK_JAIL_STRICT || !w->report->missing[0])
        return 0;
    return mk_fail(err, ENOTSUP, "level \"strict\", and this is not there: %s", w->report->missing);
}

/* --- giving up --- */

/* The bounding set is for programs that are started, and none is. */
static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return (int)syscall(SYS_capset, &head, none);
}

/* A core file would have the guest's memory in it; no limit is raised again. */
static void lower_limits(void)
{
    static const int all[] = { RLIMIT_NOFILE, RLIMIT_AS,  RLIMIT_DATA,  RLIMIT_STACK,
                               RLIMIT_FSIZE,  RLIMIT_CPU, RLIMIT_NPROC, RLIMIT_MEMLOCK };
    struct rlimit limit = { 0, 0 };
    setrlimit(RLIMIT_CORE, &limit);
    for (size_t i = 0; i < MK_COUNT(all); i++)
        if (getrlimit((__rlimit_resource_t)all[i], &limit) == 0) {
            limit.rlim_max = limit.rlim_cur;
            setrlimit((__rlimit_resource_t)all[i], &limit);
        }
}

static void give_up_privileges(struct walls *w)
{
    if (!w->privileges)
        return;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        miss(w->report, "no new privileges", strerror(errno));
        return;
    }
    lower_limits();
    if (drop_capabilities() < 0)
        miss(w->report, "capabilities given up", strerror(errno));
    else
        w->report->walls |= MK_WALL_PRIVILEGES;
}

static void wall_in_files(struct walls *w, unsigned allow)
{
    struct mk_err err;
    bool truncation = w->version >= 3 || !(allow & MK_JAIL_FILES);
    if (w->version == 0)
        return;
    if (mk_landlock_enter(w->ruleset, &err) < 0)
        miss(w->report, "Landlock", err.text);
    else
        w->report->walls |= MK_WALL_FILES | (truncation ? MK_WALL_TRUNCATION : 0);
}

static void wall_in_calls(struct walls *w, unsigned allow)
{
    struct mk_err err;
    if (!w->filters)
        return;
    if (mk_filter_enter(MK_ROLE_SCRIPT, allow, &err) < 0) {
        miss(w->report, "seccomp", err.text);
        return;
    }
    jail.filters = true;
    w->report->walls |= MK_WALL_SYSTEM_CALLS;
}

/* A filter takes one of these: no new privileges, or CAP_SYS_ADMIN. */
static int watch(const struct mk_jail *policy, struct mk_err *err)
{
    const char *why;
    if (!mk_filter_possible(&why))
        return mk_fail(err, ENOTSUP, "level \"log\" needs seccomp: %s", why);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (mk_log_enter(policy, err) < 0)
        return -1;
    jail.log = true;
    atomic_store(&jail.on, true);
    return 0;
}

int mk_jail_enter(const struct mk_jail *policy, struct mk_jail_report *report, struct mk_err *err)
{
    struct walls w = { .report = report, .ruleset = -1 };
    *report = (struct mk_jail_report){ 0 };
    if (check_moment(err) < 0 || mk_landlock_check(policy, err) < 0)
        return -1;
#ifdef __SANITIZE_ADDRESS__
    __lsan_do_leak_check(); /* at the end it could not start what traces this process */
#endif
    if (policy->level == MK_JAIL_LOG)
        return watch(policy, err);
    find_walls(&w, policy->allow);
    if (check_strict(policy, &w, err) < 0)
        return -1;
    if (w.version > 0 && (w.ruleset = mk_landlock_make(w.version, policy, err)) < 0)
        return -1;
    jail.allow = policy->allow;
    give_up_privileges(&w);
    wall_in_files(&w, policy->allow);
    if (w.ruleset >= 0)
        close(w.ruleset);
    wall_in_calls(&w, policy->allow);
    atomic_store(&jail.on, true);
    return check_strict(policy, &w, err);
}

int mk_jail_begin_thread(unsigned role, struct mk_err *err)
{
    if (mk_jail_is_on() && jail.log)
        mk_log_begin_thread(role);
    if (!mk_jail_is_on() || !jail.filters)
        return 0;
    return mk_filter_enter(role, jail.allow, err);
}
