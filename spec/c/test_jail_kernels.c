/* test_jail_kernels.c - the jail on kernels and in containers that lack a wall (src/jail), which a
 * filter of the test's own makes of this one. Prints TAP.
 *
 *   test_jail_kernels --lacks landlock|seccomp|prctl|everything PROGRAM …
 * runs a program where that is missing. */
#include "tap.h"
#include "trial.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static bool landlock;

/* --- kernels and containers that lack something --- */

static const int *forbidden; /* the system calls that fail with `failure`; ends with -1 */
static int failure;
static enum mk_jail_level level;
static char *report_text; /* shared with the child */

/* As a container does it. */
static int forbid(void)
{
    struct sock_filter code[40] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0) };
    struct sock_fprog program = { .filter = code, .len = 1 };
    for (const int *at = forbidden; *at >= 0; at++) {
        code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, *at, 0, 1);
        code[program.len++] =
            (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)failure);
    }
    code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* No other thread, or none much longer. */
static bool is_alone(void)
{
    struct stat st;
    for (int i = 0; i < 1000; i++) {
        if (stat("/proc/self/task", &st) == 0 && st.st_nlink == 3)
            return true;
        usleep(1000);
    }
    return false;
}

static int enter_contained(struct trial *t)
{
    struct mk_jail jail = { .level = level };
    struct mk_jail_report report;
    struct mk_err err;
    (void)t;
    if (forbid() < 0)
        return 250;
    int rc = mk_jail_enter(&jail, &report, &err);
    strcpy(report_text, rc < 0 ? err.text : report.missing);
    if (rc < 0 && !is_alone())
        return 251;
    return rc < 0 ? err.code : 100 + (int)report.walls;
}

/* Level log needs seccomp alone, and has no walls. */
static void logs(bool can, const char *name)
{
    char text[200];
    level = MK_JAIL_LOG;
    snprintf(text, sizeof(text), "log %s: %s", can ? "watches" : "refuses", name);
    tap_is(in_child(enter_contained, NULL), can ? 100 : ENOTSUP, text);
    if (!can)
        tap_ok(strstr(report_text, "level \"log\" needs seccomp"), report_text);
}

static void lacks(const int *calls, int error, int best, const char *missing, const char *name)
{
    char text[200];
    forbidden = calls;
    failure = error;
    logs(best & MK_WALL_SYSTEM_CALLS, name);
    level = MK_JAIL_STRICT;
    snprintf(text, sizeof(text), "strict refuses: %s", name);
    tap_is(in_child(enter_contained, NULL), ENOTSUP, text);
    tap_ok(strstr(report_text, missing), report_text);
    level = MK_JAIL_BEST;
    snprintf(text, sizeof(text), "best uses the rest: %s", name);
    tap_is(in_child(enter_contained, NULL), 100 + best, text);
    tap_ok(strstr(report_text, missing), report_text);
}

static void test_missing_walls(void)
{
    static const int no_landlock[] = { SYS_landlock_create_ruleset, -1 };
    static const int no_restrict[] = { SYS_landlock_restrict_self, -1 };
    static const int no_seccomp[] = { SYS_seccomp, -1 };
    static const int no_prctl[] = { SYS_prctl, -1 };
    static const int nothing[] = { SYS_landlock_create_ruleset, SYS_seccomp, SYS_prctl, SYS_capset,
                                   -1 };
    const int files = MK_WALL_FILES | MK_WALL_TRUNCATION, calls = MK_WALL_SYSTEM_CALLS;
    report_text = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    lacks(no_seccomp, ENOSYS, landlock ? MK_WALL_PRIVILEGES | files : MK_WALL_PRIVILEGES,
          "seccomp, which keeps it from system calls it does not need (this kernel has none)",
          "a kernel without seccomp");
    lacks(no_seccomp, EPERM, landlock ? MK_WALL_PRIVILEGES | files : MK_WALL_PRIVILEGES,
          "(Operation not permitted)", "a container that forbids seccomp");
    lacks(no_seccomp, EINVAL, landlock ? MK_WALL_PRIVILEGES | files : MK_WALL_PRIVILEGES,
          "(that of this kernel is older than Linux 4.14)", "a kernel with an old seccomp");
    lacks(nothing, EPERM, 0, "Landlock, which keeps it from files that were not named (Operation",
          "a container that forbids everything");
    if (!landlock)
        return;
    lacks(no_landlock, ENOSYS, MK_WALL_PRIVILEGES | calls, "Landlock, which keeps it from files",
          "a kernel without Landlock");
    lacks(no_landlock, EOPNOTSUPP, MK_WALL_PRIVILEGES | calls, "lsm= leaves it out",
          "a kernel whose Landlock is off");
    lacks(no_restrict, EPERM, MK_WALL_PRIVILEGES | calls, "Landlock",
          "a container that forbids Landlock's last step");
    lacks(no_prctl, EPERM, files | calls, "no new privileges", "a container that forbids prctl");
}

/* --- old versions of Landlock: who watches this process answers for the kernel --- */

static int pretended; /* version */
static unsigned allows;

/* Of the process that asks, until it has ended. */
static void answer_for_kernel(int listener)
{
    struct seccomp_notif asked;
    struct pollfd ends = { .fd = listener, .events = POLLIN };
    while (poll(&ends, 1, -1) > 0 && ends.revents & POLLIN) {
        memset(&asked, 0, sizeof(asked));
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0)
            continue;
        bool version = asked.data.args[2] == LANDLOCK_CREATE_RULESET_VERSION;
        struct seccomp_notif_resp answer = { .id = asked.id,
                                             .val = version ? pretended : 0,
                                             .flags =
                                                 version ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE };
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static int watch_landlock(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_landlock_create_ruleset, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .filter = code, .len = MK_COUNT(code) };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                        &program);
}

/* The listener is had by its number in the other process (pidfd_getfd(2)). */
static int on_old_landlock(int (*fn)(struct trial *), struct trial *t)
{
    int status = 0, number = -1, tells[2];
    fflush(stdout);
    if (pipe(tells) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        int listener = watch_landlock();
        if (listener < 0 || write(tells[1], &listener, sizeof(listener)) < 0)
            _exit(253);
        _exit(fn(t));
    }
    close(tells[1]);
    if (read(tells[0], &number, sizeof(number)) == sizeof(number)) {
        int listener = (int)syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, pid, 0), number, 0);
        answer_for_kernel(listener);
        close(listener);
    }
    close(tells[0]);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int enter_old(struct trial *t)
{
    static const struct mk_jail_path paths[] = { { "src", MK_JAIL_READ } };
    struct mk_jail jail = { .paths = paths, .count = 1, .level = level, .allow = allows };
    struct mk_jail_report report;
    struct mk_err err;
    int rc = mk_jail_enter(&jail, &report, &err);
    strcpy(report_text, rc < 0 ? err.text : report.missing);
    if (rc < 0)
        return err.code;
    try(t, -1);
    return t->error ? t->error : 100 + (int)report.walls;
}

static void test_old_landlock(int version)
{
    static const struct attempt outside = { .number = SYS_openat,
                                            .a = { AT_FDCWD, P("/etc/passwd"), O_RDONLY } };
    static const struct attempt inside = { .number = SYS_openat,
                                           .a = { AT_FDCWD, P("src/main.c"), O_RDONLY } };
    const int most = MK_WALL_PRIVILEGES | MK_WALL_FILES | MK_WALL_SYSTEM_CALLS;
    struct trial in = { .attempt = &inside }, out = { .attempt = &outside };
    char name[120];
    pretended = version;
    level = MK_JAIL_STRICT;
    allows = 0;
    snprintf(name, sizeof(name), "strict, version %d of Landlock: what was named", version);
    tap_is(on_old_landlock(enter_old, &in), 100 + (most | MK_WALL_TRUNCATION), name);
    snprintf(name, sizeof(name), "strict, version %d of Landlock: not what was not", version);
    tap_is(on_old_landlock(enter_old, &out), EACCES, name);
    allows = MK_JAIL_FILES;
    snprintf(name, sizeof(name), "strict, version %d of Landlock, files of guests", version);
    tap_is(on_old_landlock(enter_old, &in),
           version < 3 ? ENOTSUP : 100 + (most | MK_WALL_TRUNCATION), name);
    if (version < 3)
        tap_ok(strstr(report_text, "it is there from Linux 6.2 on"), report_text);
    level = MK_JAIL_BEST;
    snprintf(name, sizeof(name), "best, version %d of Landlock, files of guests", version);
    tap_is(on_old_landlock(enter_old, &in), 100 + (version < 3 ? most : most | MK_WALL_TRUNCATION),
           name);
}

static void test_old_kernels(void)
{
    long newest = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    for (int version = 1; version <= newest && version <= 6; version++)
        test_old_landlock(version);
}

static int enter_as_nobody(struct trial *t)
{
    static const struct mk_jail_path paths[] = { { "src", MK_JAIL_READ } };
    struct mk_jail jail = { .paths = paths, .count = 1, .level = MK_JAIL_STRICT };
    struct mk_jail_report report;
    struct mk_err err;
    if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
        return 250;
    if (mk_jail_enter(&jail, &report, &err) < 0)
        return err.code;
    try(t, -1);
    return t->error;
}

static void test_nobody(void)
{
    static const struct attempt open_outside = { .number = SYS_openat,
                                                 .a = { AT_FDCWD, P("/etc/passwd"), O_RDONLY } };
    struct trial t = { .attempt = &open_outside };
    if (getuid() == 0 && landlock)
        tap_is(in_child(enter_as_nobody, &t), EACCES, "nobody can be in a jail, too");
}

static int run_without(char **line)
{
    static const struct {
        const char *name;
        int error, calls[5];
    } kinds[] = {
        { "landlock", ENOSYS, { SYS_landlock_create_ruleset, -1 } },
        { "seccomp", ENOSYS, { SYS_seccomp, -1 } },
        { "prctl", EPERM, { SYS_prctl, -1 } },
        { "everything",
          EPERM,
          { SYS_landlock_create_ruleset, SYS_seccomp, SYS_prctl, SYS_capset, -1 } },
    };
    for (size_t i = 0; i < MK_COUNT(kinds); i++)
        if (strcmp(kinds[i].name, line[0]) == 0) {
            forbidden = kinds[i].calls;
            failure = kinds[i].error;
            if (forbid() == 0)
                execvp(line[1], line + 1);
        }
    perror(line[1]);
    return 99;
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "--lacks") == 0)
        return run_without(argv + 2);
#ifdef __SANITIZE_THREAD__
    printf("1..0 # SKIP ThreadSanitizer's own thread would stay outside of the jail\n");
    return 0;
#endif
    uint32_t action = SECCOMP_RET_ERRNO;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0) {
        printf("1..0 # SKIP this kernel has no seccomp filters\n");
        return 0;
    }
    landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
    test_missing_walls();
    test_old_kernels();
    test_nobody();
    return tap_done();
}
