/* test_walls.c - code that has taken over a vCPU's thread calls whatever it likes: which wall of
 * the jail (src/jail) refuses what, each wall alone. Prints TAP.
 *
 * Each attempt is a process, in which the other walls are missing as in a container that forbids
 * them. The numbers are those of seccomp's action in this jail (EPERM), of Landlock (Linux
 * security/landlock/fs.c: EACCES; task.c, fs.c hook_sb_mount: EPERM), and of a user without
 * capabilities (EPERM, in the manual page of each call). */
#include "jail/jail.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum wall { CALLS, FILES, PRIVILEGES, WALLS };

static const char *const wall_names[WALLS] = { "seccomp alone", "Landlock alone",
                                               "no capabilities alone" };
static const char *const words[] = { "/bin/true", NULL };
static uint64_t how[3]; /* open_how */
static char bytes[64];
static char memory_path[40]; /* of the process that looks on */
static pid_t outside;        /* that process */
static int landlock;         /* the kernel's version */

#define P(x) (long)(x)
#define HERE AT_FDCWD
#define RW (PROT_READ | PROT_WRITE)

/* --- attempts of several steps --- */

static long connect_to_somebody(void)
{
    struct sockaddr_in home = { .sin_family = AF_INET, .sin_port = htons(9) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    home.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&home, sizeof(home));
}

static long run_from_memory(void)
{
    int fd = memfd_create("program", 0);
    long rc = write(fd, "#!/bin/true\n", 12);
    return rc < 0 ? rc : syscall(SYS_execveat, fd, "", words, words + 1, AT_EMPTY_PATH);
}

static long write_into_others(void)
{
    struct iovec here = { bytes, 1 };
    return syscall(SYS_process_vm_writev, outside, &here, 1, &here, 1, 0);
}

static long trace_others(void)
{
    return syscall(SYS_ptrace, 0x4206 /* PTRACE_SEIZE */, outside, 0, 0);
}

static long signal_others(void)
{
    return syscall(SYS_kill, outside, 0);
}

static long map_code_of_a_file(void)
{
    int fd = open("in/file", O_RDONLY);
    return fd < 0 ? -1 : (long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
}

static const struct attempt {
    const char *name;
    long (*steps)(void);
    long number, a[6];
    int error[WALLS]; /* 0: that wall does not hold it */
    int version;      /* of Landlock that does */
} attempts[] = {
#define CALL(what, name, ...)                                                                      \
    {                                                                                              \
        what, NULL, SYS_##name,                                                                    \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }
#define STEPS(what, fn)                                                                            \
    {                                                                                              \
        what, fn, 0,                                                                               \
        {                                                                                          \
            0                                                                                      \
        }
#define BY(...)                                                                                    \
    { __VA_ARGS__ }, 1                                                                             \
    }
#define FROM(version, ...)                                                                         \
    { __VA_ARGS__ }, version                                                                       \
    }
    /* files */
    CALL("read a file", openat, HERE, P("out/file"), O_RDONLY),
    BY(EPERM, EACCES),
    CALL("read a file by open", open, P("out/file"), O_RDONLY),
    BY(EPERM, EACCES),
    CALL("read a file by openat2", openat2, HERE, P("out/file"), P(how), 24),
    BY(EPERM, EACCES),
    CALL("find a file by O_PATH", openat, HERE, P("out/file"), O_PATH),
    BY(EPERM),
    CALL("write to a file", openat, HERE, P("out/file"), O_WRONLY),
    BY(EPERM, EACCES),
    CALL("write to what may be read", openat, HERE, P("in/file"), O_WRONLY),
    BY(EPERM, EACCES),
    CALL("make a file", creat, P("out/new"), 0600),
    BY(EPERM, EACCES),
    CALL("make a file in what may be read", creat, P("in/new"), 0600),
    BY(EPERM, EACCES),
    CALL("make a nameless file", openat, HERE, P("out"), O_TMPFILE | O_RDWR, 0600),
    BY(EPERM, EACCES),
    CALL("truncate a file", truncate, P("in/file"), 0),
    FROM(3, EPERM, EACCES),
    CALL("remove a file", unlink, P("out/file")),
    BY(EPERM, EACCES),
    CALL("rename a file", rename, P("out/file"), P("out/b")),
    BY(EPERM, EACCES),
    CALL("link a file", link, P("out/file"), P("in/hard")),
    BY(EPERM, EACCES),
    CALL("make a symbolic link", symlink, P("/etc"), P("out/b")),
    BY(EPERM, EACCES),
    CALL("make a FIFO", mknod, P("out/b"), S_IFIFO | 0600, 0),
    BY(EPERM, EACCES),
    CALL("make a device", mknod, P("out/b"), S_IFCHR | 0600, 0x101),
    BY(EPERM, EACCES, EPERM),
    CALL("make a directory", mkdir, P("out/d"), 0700),
    BY(EPERM, EACCES),
    CALL("remove a directory", rmdir, P("out/empty")),
    BY(EPERM, EACCES),
    CALL("list a directory", openat, HERE, P("out"), O_RDONLY | O_DIRECTORY),
    BY(EPERM, EACCES),
    CALL("own a file", chown, P("in/file"), 1, 1),
    BY(EPERM, 0, EPERM),
    CALL("change a file's mode", chmod, P("in/file"), 0777),
    BY(EPERM),
    CALL("watch files", inotify_init1, 0),
    BY(EPERM),
    CALL("open by handle", open_by_handle_at, HERE, P(bytes), 0),
    BY(EPERM),
    CALL("another process's memory as a file", openat, HERE, P(memory_path), O_RDWR),
    BY(EPERM, EACCES),
    /* programs and processes */
    CALL("run a program", execve, P("/bin/true"), P(words), P(words + 1)),
    BY(EPERM, EACCES),
    CALL("run one by execveat", execveat, HERE, P("/bin/true"), P(words), P(words + 1), 0),
    BY(EPERM, EACCES),
    STEPS("run one out of memory", run_from_memory),
    BY(EPERM),
    CALL("fork", fork, 0),
    BY(EPERM),
    CALL("vfork", vfork, 0),
    BY(EPERM),
    CALL("a process by clone", clone, SIGCHLD, 0, 0, 0, 0),
    BY(EPERM),
    STEPS("code out of a file", map_code_of_a_file),
    BY(EPERM),
    CALL("memory that is executable", mmap, 0, 4096, RW | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
         -1, 0),
    BY(EPERM),
    CALL("memory made executable", mprotect, 0, 4096, PROT_EXEC),
    BY(EPERM),
    STEPS("signal others", signal_others),
    FROM(6, EPERM, EPERM),
    CALL("signal by pidfd", pidfd_open, 1, 0),
    BY(EPERM),
    STEPS("trace others", trace_others),
    BY(EPERM, EPERM),
    STEPS("write into others' memory", write_into_others),
    BY(EPERM, EPERM),
    CALL("outlive the parent", prctl, PR_SET_PDEATHSIG, 0),
    BY(EPERM),
    CALL("be looked into", prctl, PR_SET_DUMPABLE, 1),
    BY(EPERM),
    CALL("a session of its own", setsid, 0),
    BY(EPERM),
    CALL("raise limits", prlimit64, 0, 7, P(bytes), 0),
    BY(EPERM),
    CALL("look at others' limits", prlimit64, 1, 7, 0, P(bytes)),
    BY(EPERM),
    /* sockets */
    STEPS("connect by TCP", connect_to_somebody),
    FROM(4, EPERM, EACCES),
    CALL("a Unix socket", socket, AF_UNIX, SOCK_STREAM, 0),
    BY(EPERM),
    CALL("a pair of sockets", socketpair, AF_UNIX, SOCK_STREAM, 0, P(bytes)),
    BY(EPERM),
    CALL("a netlink socket", socket, AF_NETLINK, SOCK_RAW, 0),
    BY(EPERM),
    CALL("a packet socket", socket, AF_PACKET, SOCK_RAW, 0),
    BY(EPERM, 0, EPERM),
    CALL("a socket to machines around", socket, AF_VSOCK, SOCK_STREAM, 0),
    BY(EPERM),
    /* the system */
    CALL("mount", mount, P("none"), P("out"), P("tmpfs"), 0, 0),
    BY(EPERM, EPERM, EPERM),
    CALL("change the root", chroot, P("in")),
    BY(EPERM, 0, EPERM),
    CALL("namespaces", unshare, CLONE_NEWNET),
    BY(EPERM, 0, EPERM),
    CALL("become another user", setuid, 1),
    BY(EPERM, 0, EPERM),
    CALL("restart the machine", reboot, 0, 0, 0, 0),
    BY(EPERM, 0, EPERM),
    CALL("set the clock", clock_settime, 0, P(bytes)),
    BY(EPERM, 0, EPERM),
    CALL("load a module", finit_module, -1, P(""), 0),
    BY(EPERM),
    CALL("an io_uring", io_uring_setup, 1, P(bytes)),
    BY(EPERM),
    CALL("a BPF program", bpf, 0, P(bytes), 8),
    BY(EPERM),
    CALL("handle page faults", userfaultfd, 0),
    BY(EPERM),
    CALL("keys of the kernel's", keyctl, 0, -3, 0),
    BY(EPERM),
    CALL("performance counters", perf_event_open, P(bytes), 0, -1, -1, 0),
    BY(EPERM),
    CALL("type into the terminal", ioctl, 0, TIOCSTI, P(bytes)),
    BY(EPERM),
    CALL("a VM of its own", ioctl, 0, KVM_CREATE_VM, 0),
    BY(EPERM),
    CALL("devices in KVM", ioctl, 0, KVM_CREATE_DEVICE, P(bytes)),
    BY(EPERM),
};

/* --- a wall alone --- */

/* What a container forbids, so that the other walls cannot be had. */
static int forbid_others(enum wall wall)
{
    static const int calls[WALLS][3] = {
        [CALLS] = { SYS_landlock_create_ruleset, SYS_capset, -1 },
        [FILES] = { SYS_seccomp, SYS_capset, -1 },
        [PRIVILEGES] = { SYS_landlock_create_ruleset, SYS_seccomp, -1 },
    };
    struct sock_filter code[16] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0) };
    struct sock_fprog program = { .filter = code, .len = 1 };
    for (const int *at = calls[wall]; *at >= 0; at++) {
        code[program.len++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)*at, 0, 1);
        code[program.len++] =
            (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP);
    }
    code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

struct trial {
    const struct attempt *attempt;
    int error;
};

static void *take_over(void *arg)
{
    struct trial *t = arg;
    const long *a = t->attempt->a;
    struct mk_err err;
    if (mk_jail_begin_thread(MK_ROLE_VCPU, &err) < 0)
        return NULL;
    errno = 0;
    long rc = t->attempt->steps ? t->attempt->steps()
                                : syscall(t->attempt->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    t->error = rc == -1 ? errno : 0;
    if (!t->attempt->steps && t->attempt->number == SYS_fork && rc == 0)
        _exit(0);
    return NULL;
}

/* The process's status is the error; 250 and more: it could not be tried. */
static int try_behind(enum wall wall, const struct attempt *attempt)
{
    static const unsigned only[WALLS] = {
        [CALLS] = MK_WALL_SYSTEM_CALLS, [FILES] = MK_WALL_FILES, [PRIVILEGES] = MK_WALL_PRIVILEGES
    };
    static const struct mk_jail_path paths[] = { { "in", MK_JAIL_READ } };
    struct mk_jail jail = { .paths = paths, .count = 1 };
    struct trial trial = { attempt, 252 };
    struct mk_jail_report report;
    struct mk_err err;
    pthread_t thread;
    if (forbid_others(wall) < 0 || mk_jail_enter(&jail, &report, &err) < 0)
        return 250;
    if ((report.walls & ~(unsigned)MK_WALL_TRUNCATION) != only[wall])
        return 251;
    if (pthread_create(&thread, NULL, take_over, &trial) != 0)
        return 253;
    pthread_join(thread, NULL);
    return trial.error;
}

static int in_child(enum wall wall, const struct attempt *attempt)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        _exit(try_behind(wall, attempt));
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static bool is_there(enum wall wall, const struct attempt *attempt)
{
    if (wall == FILES)
        return landlock >= attempt->version;
    return wall != PRIVILEGES || getuid() == 0;
}

static void test_wall(enum wall wall)
{
    char name[160];
    for (size_t i = 0; i < MK_COUNT(attempts); i++) {
        const struct attempt *at = &attempts[i];
        snprintf(name, sizeof(name), "%s: %s", wall_names[wall], at->name);
        if (at->error[wall] && is_there(wall, at))
            tap_is(in_child(wall, at), at->error[wall], name);
    }
}

/* --- where it is tried --- */

static int make_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    bool done = fd >= 0 && write(fd, bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes);
    return close(fd) == 0 && done ? 0 : -1;
}

static int make_folder(char *folder)
{
    return mkdtemp(folder) && chdir(folder) == 0 && mkdir("in", 0700) == 0 &&
                   mkdir("out", 0700) == 0 && mkdir("out/empty", 0700) == 0 &&
                   make_file("in/file") == 0 && make_file("out/file") == 0
               ? 0
               : -1;
}

/* Nothing more than was made is there, and all of it. */
static void test_untouched(const char *folder)
{
    struct stat st;
    tap_ok(stat("in/file", &st) == 0 && st.st_size == sizeof(bytes) && st.st_uid == getuid() &&
               (st.st_mode & 07777) == 0600,
           "the file that may be read is as it was");
    tap_ok(unlink("in/file") == 0 && unlink("out/file") == 0 && rmdir("out/empty") == 0 &&
               rmdir("in") == 0 && rmdir("out") == 0 && rmdir(folder) == 0,
           "nothing was made, and nothing removed");
}

int main(void)
{
    char folder[] = "/tmp/minikvm-walls-XXXXXX";
    uint32_t action = SECCOMP_RET_ERRNO;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 || make_folder(folder) < 0) {
        printf("1..0 # SKIP this kernel has no seccomp filters\n");
        return 0;
    }
    landlock = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    outside = getpid();
    snprintf(memory_path, sizeof(memory_path), "/proc/%d/mem", outside);
    for (enum wall wall = 0; wall < WALLS; wall++)
        test_wall(wall);
    test_untouched(folder);
    return tap_done();
}
