/* test_jail.c - what code that has taken over a thread of a jail can do (src/jail). Prints TAP.
 *
 * Each attempt is a process: it enters the jail, begins a thread of a role, and makes one system
 * call there. Where there is KVM, a guest makes those of vCPUs once more, on the thread that it
 * runs on. The numbers of errors are those of seccomp's action for what is in no row of
 * src/jail/calls.c (EPERM), of Landlock (EACCES), and what the call itself says when it was let
 * through. */
#include "tap.h"
#include "trial.h"
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAN 0

static struct sockaddr_in home = { .sin_family = AF_INET, .sin_port = 0x1600 };
static struct clone_args process = { .exit_signal = SIGCHLD };
static const char *const words[] = { "/bin/true", NULL };
static uint64_t how[3]; /* open_how */
static char bytes[64];
static int pipes[2];
static bool landlock;

static const struct attempt attempts[] = {
#define VCPU MK_ROLE_VCPU
#define EACH (MK_ROLE_VCPU | MK_ROLE_IO | MK_ROLE_DISK)
#define ALL MK_ROLE_ALL
    { "open a file", EACH, SYS_openat, { AT_FDCWD, P("/etc/passwd"), O_RDONLY }, EPERM },
    { "open a file by the old call", ALL, SYS_open, { P("/etc/passwd"), O_RDONLY }, EPERM },
    { "open a file by openat2",
      EACH,
      SYS_openat2,
      { AT_FDCWD, P("/etc/passwd"), P(how), 24 },
      EPERM },
    { "open a file by its handle", ALL, SYS_open_by_handle_at, { AT_FDCWD, P(bytes), 0 }, EPERM },
    { "open a file that was granted", EACH, SYS_openat, { AT_FDCWD, P("src"), O_RDONLY }, EPERM },
    { "open its own memory", EACH, SYS_openat, { AT_FDCWD, P("/proc/self/mem"), O_RDWR }, EPERM },
    { "make a file", ALL, SYS_creat, { P("/nothing/escaped"), 0600 }, EPERM },
    { "truncate a file", ALL, SYS_truncate, { P("src/nothing"), 0 }, EPERM },
    { "remove a file", EACH, SYS_unlinkat, { AT_FDCWD, P("nothing"), 0 }, EPERM },
    { "rename a file",
      EACH,
      SYS_renameat2,
      { AT_FDCWD, P("/nothing/a"), AT_FDCWD, P("/nothing/b"), 0 },
      EPERM },
    { "make a link",
      EACH,
      SYS_linkat,
      { AT_FDCWD, P("src/main.c"), AT_FDCWD, P("/nothing/b"), 0 },
      EPERM },
    { "make a symbolic link", ALL, SYS_symlinkat, { P("/etc"), AT_FDCWD, P("/nothing/b") }, EPERM },
    { "make a device", ALL, SYS_mknodat, { AT_FDCWD, P("/nothing/b"), 0600, 0 }, EPERM },
    { "change a file's mode", ALL, SYS_chmod, { P("src/nothing"), 0777 }, EPERM },
    { "change a file's owner", ALL, SYS_fchownat, { AT_FDCWD, P("src/nothing"), 1, 1, 0 }, EPERM },
    { "change the directory", ALL, SYS_chdir, { P("/") }, EPERM },
    { "change the root", ALL, SYS_chroot, { P("/") }, EPERM },
    { "mount", ALL, SYS_mount, { P("none"), P("/nothing"), P("tmpfs"), 0, 0 }, EPERM },
    { "start a program", ALL, SYS_execve, { P("/bin/true"), P(words), P(words + 1) }, EPERM },
    { "start a program by execveat",
      ALL,
      SYS_execveat,
      { AT_FDCWD, P("/bin/true"), P(words), P(words + 1), 0 },
      EPERM },
    { "fork", ALL, SYS_fork, { 0 }, EPERM },
    { "vfork", ALL, SYS_vfork, { 0 }, EPERM },
    { "a process by clone", ALL, SYS_clone, { SIGCHLD }, EPERM },
    { "a process by clone3", ALL, SYS_clone3, { P(&process), sizeof(process) }, ENOSYS },
    { "namespaces", ALL, SYS_unshare, { CLONE_NEWUSER }, EPERM },
    { "join a namespace", ALL, SYS_setns, { 0, 0 }, EPERM },
    { "an Internet socket", ALL, SYS_socket, { AF_INET, SOCK_STREAM, 0 }, EPERM },
    { "an IPv6 datagram socket", ALL, SYS_socket, { AF_INET6, SOCK_DGRAM, 0 }, EPERM },
    { "a Unix socket", ALL, SYS_socket, { AF_UNIX, SOCK_STREAM, 0 }, EPERM },
    { "a netlink socket", ALL, SYS_socket, { AF_NETLINK, SOCK_RAW, 0 }, EPERM },
    { "a packet socket", ALL, SYS_socket, { AF_PACKET, SOCK_RAW, 0 }, EPERM },
    { "connect", ALL, SYS_connect, { 0, P(&home), sizeof(home) }, EPERM },
    { "send to an address", ALL, SYS_sendto, { 0, P(bytes), 1, 0, P(&home), sizeof(home) }, EPERM },
    { "pass descriptors", ALL, SYS_sendmsg, { 0, P(bytes), 0 }, EPERM },
    { "signal its parent", ALL, SYS_kill, { 1, 0 }, EPERM },
    { "signal every process", ALL, SYS_kill, { -1, 0 }, EPERM },
    { "signal another process's thread", ALL, SYS_tgkill, { 1, 1, 0 }, EPERM },
    { "signal by tkill", ALL, SYS_tkill, { 1, 0 }, EPERM },
    { "signal by a pidfd", ALL, SYS_pidfd_send_signal, { 0, 0, 0, 0 }, EPERM },
    { "take a descriptor of another process", ALL, SYS_pidfd_open, { 1, 0 }, EPERM },
    { "trace", ALL, SYS_ptrace, { PTRACE_ATTACH, 1, 0, 0 }, EPERM },
    { "be traced", ALL, SYS_ptrace, { PTRACE_TRACEME, 0, 0, 0 }, EPERM },
    { "read another process's memory", ALL, SYS_process_vm_readv, { 1, 0, 0, 0, 0, 0 }, EPERM },
    { "write another process's memory", ALL, SYS_process_vm_writev, { 1, 0, 0, 0, 0, 0 }, EPERM },
    { "make memory executable", ALL, SYS_mprotect, { 0, 4096, PROT_READ | PROT_EXEC }, EPERM },
    { "get executable memory",
      EACH,
      SYS_mmap,
      { 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 },
      EPERM },
    { "become another user", ALL, SYS_setuid, { 1 }, EPERM },
    { "become another group", ALL, SYS_setresgid, { 1, 1, 1 }, EPERM },
    { "get capabilities", ALL, SYS_capset, { 0, 0 }, EPERM },
    { "change what it may get", ALL, SYS_prctl, { 38, 0, 0, 0, 0 }, EPERM },
    { "raise limits", ALL, SYS_prlimit64, { 0, 7, P(bytes), 0 }, EPERM },
    { "raise limits of others", ALL, SYS_prlimit64, { 1, 7, 0, P(bytes) }, EPERM },
    { "type into the terminal", ALL, SYS_ioctl, { 0, TIOCSTI, P(bytes) }, EPERM },
    { "take the terminal", ALL, SYS_ioctl, { 0, TIOCSCTTY, 0 }, EPERM },
    { "select in the console's screen", ALL, SYS_ioctl, { 0, TIOCLINUX, P(bytes) }, EPERM },
    { "a VM of its own", EACH, SYS_ioctl, { 0, KVM_CREATE_VM, 0 }, EPERM },
    { "devices in KVM", ALL, SYS_ioctl, { 0, KVM_CREATE_DEVICE, P(bytes) }, EPERM },
    { "the guest runs (I/O thread, disks)",
      MK_ROLE_IO | MK_ROLE_DISK,
      SYS_ioctl,
      { 0, KVM_RUN, 0 },
      EPERM },
    { "signals of descriptors", ALL, SYS_fcntl, { 0, F_SETOWN, 1 }, EPERM },
    { "an io_uring", ALL, SYS_io_uring_setup, { 1, P(bytes) }, EPERM },
    { "a BPF program", ALL, SYS_bpf, { 0, P(bytes), 8 }, EPERM },
    { "performance counters", ALL, SYS_perf_event_open, { P(bytes), 0, -1, -1, 0 }, EPERM },
    { "handle page faults", ALL, SYS_userfaultfd, { 0 }, EPERM },
    { "keys of the kernel's", ALL, SYS_keyctl, { 0, -3, 0 }, EPERM },
    { "shared memory", ALL, SYS_shmget, { 0, 4096, 01600 }, EPERM },
    { "a message queue", ALL, SYS_mq_open, { P("/a"), O_CREAT, 0600, 0 }, EPERM },
    { "load a module", ALL, SYS_finit_module, { 0, P(""), 0 }, EPERM },
    { "another kernel", ALL, SYS_kexec_load, { 0, 0, 0, 0 }, EPERM },
    { "restart the machine", ALL, SYS_reboot, { 0, 0, 0, 0 }, EPERM },
    { "set the clock", ALL, SYS_clock_settime, { 0, P(bytes) }, EPERM },
    { "the kernel's log", ALL, SYS_syslog, { 3, P(bytes), 1 }, EPERM },
    { "another personality", ALL, SYS_personality, { 0x0040000 }, EPERM },
    { "segments", ALL, SYS_modify_ldt, { 0, P(bytes), 8 }, EPERM },
    { "be watched by a filter of others", ALL, SYS_seccomp, { 2, 0, P(bytes) }, EPERM },
    { "open a file outside (script)",
      MK_ROLE_SCRIPT,
      SYS_openat,
      { AT_FDCWD, P("/etc/passwd"), O_RDONLY },
      EACCES },
    { "write to a file that may be read (script)",
      MK_ROLE_SCRIPT,
      SYS_openat,
      { AT_FDCWD, P("src/main.c"), O_WRONLY },
      EACCES },
    { "truncate what is opened to be read (script)",
      MK_ROLE_SCRIPT,
      SYS_openat,
      { AT_FDCWD, P("src/nothing"), O_RDONLY | O_TRUNC },
      EPERM },
    { "make a file (script)",
      MK_ROLE_SCRIPT,
      SYS_openat,
      { AT_FDCWD, P("src/escaped"), O_WRONLY | O_CREAT, 0600 },
      EACCES },
    /* and what it is for */
    { "open a file that was granted (script)",
      MK_ROLE_SCRIPT,
      SYS_openat,
      { AT_FDCWD, P("src/main.c"), O_RDONLY },
      CAN },
    { "write to a pipe", ALL, SYS_write, { 0, P(bytes), 1 }, CAN },
    { "get memory",
      ALL,
      SYS_mmap,
      { 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 },
      CAN },
    { "ask a vCPU's thread to run", VCPU, SYS_ioctl, { 0, KVM_RUN, 0 }, ENOTTY },
};

static void *begin(void *arg)
{
    struct trial *t = arg;
    struct mk_err err;
    t->error = -1;
    if (t->role == MK_ROLE_SCRIPT || mk_jail_begin_thread(t->role, &err) == 0)
        try(t, pipes[1]);
    return NULL;
}

/* In the child: its status is the error. */
static int attempt_inside(struct trial *t)
{
    static const struct mk_jail_path paths[] = { { "src", MK_JAIL_READ } };
    struct mk_jail jail = { .paths = paths, .count = 1 };
    struct mk_jail_report report;
    struct mk_err err;
    pthread_t thread;
    if (mk_jail_enter(&jail, &report, &err) < 0)
        return 250;
    if (pthread_create(&thread, NULL, begin, t) != 0)
        return 251;
    pthread_join(thread, NULL);
    return t->error < 0 ? 252 : t->error;
}

static void attempt_as(const struct attempt *a, unsigned role, const char *who)
{
    char name[160];
    struct trial t = { .attempt = a, .role = role };
    snprintf(name, sizeof(name), "%s: %s", who, a->name);
    if (a->roles & role && (landlock || a->error != EACCES))
        tap_is(in_child(attempt_inside, &t), a->error, name);
}

/* --- a guest that has taken over its vCPU's thread: each OUT makes the next attempt there --- */

static int *results; /* shared with the child */

static void take_over(void *self, struct mk_io *io, uint64_t value)
{
    size_t *next = self;
    struct trial t = { .attempt = &attempts[*next] };
    (void)io;
    (void)value;
    try(&t, pipes[1]);
    results[(*next)++] = t.error;
}

static int run_guest(struct mk_vm *vm, struct mk_err *err)
{
    static const uint8_t loop[] = { 0xe6, 0x80, 0xeb, 0xfc }; /* out 0x80, al; jmp to it */
    static const struct mk_io_ops ops = { .name = "attempts", .out = take_over, .width = 1 };
    struct mk_limits limits = { MK_FOREVER, MK_COUNT(attempts), MK_FOREVER };
    struct mk_entry entry = { .ip = 0 };
    size_t next = 0;
    if (mk_vm_set_entry(vm, &entry, err) < 0 ||
        !mk_bus_hook(&vm->bus, 0x80, 0x80, &ops, &next, NULL))
        return -1;
    memcpy(vm->mem.regions[0].host, loop, sizeof(loop));
    mk_vm_set_ready(vm, 0);
    int rc = mk_vm_run(vm, &limits, err);
    mk_vm_close(vm);
    return rc;
}

static int attempt_as_guest(struct trial *t)
{
    struct mk_jail jail = { 0 };
    struct mk_vm_config config = { .cpus = 1, .memory = 1 << 20 };
    struct mk_jail_report report;
    struct mk_kvm kvm;
    struct mk_vm vm;
    struct mk_err err = { 0 };
    (void)t;
    if (mk_jail_enter(&jail, &report, &err) < 0 || mk_kvm_open(&kvm, &err) < 0 ||
        mk_vm_open(&vm, &kvm, &config, &err) < 0 || run_guest(&vm, &err) < 0) {
        fprintf(stderr, "# %s\n", err.text);
        return 1;
    }
    return 0;
}

static void test_guest(void)
{
    char name[160];
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("# skipped: attempts of a guest, there is no KVM\n");
        return;
    }
    results =
        mmap(NULL, sizeof(attempts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < MK_COUNT(attempts); i++)
        results[i] = -1;
    tap_is(in_child(attempt_as_guest, NULL), 0, "a guest runs in a jail");
    for (size_t i = 0; i < MK_COUNT(attempts); i++) {
        snprintf(name, sizeof(name), "a guest on its vCPU's thread: %s", attempts[i].name);
        if (attempts[i].roles & MK_ROLE_VCPU)
            tap_is(results[i], attempts[i].error, name);
    }
}

/* --- the jail itself --- */

static int enter(const struct mk_jail *jail, struct mk_err *err)
{
    struct mk_jail_report report;
    return mk_jail_enter(jail, &report, err);
}

static int enter_twice(struct trial *t)
{
    struct mk_jail jail = { 0 };
    struct mk_err err;
    (void)t;
    return enter(&jail, &err) < 0 ? 250 : enter(&jail, &err) < 0 ? err.code : 0;
}

static void *wait_for_ever(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static int enter_beside_a_thread(struct trial *t)
{
    struct mk_jail jail = { 0 };
    struct mk_err err;
    pthread_t thread;
    (void)t;
    pthread_create(&thread, NULL, wait_for_ever, NULL);
    return enter(&jail, &err) < 0 ? err.code : 0;
}

static const char *named;

static int enter_naming(struct trial *t)
{
    struct mk_jail_path path = { named, MK_JAIL_READ };
    struct mk_jail jail = { .paths = &path, .count = 1 };
    struct mk_err err;
    (void)t;
    return enter(&jail, &err) < 0 ? err.code : 0;
}

/* What no process can do: where the kernel has no such call, as in a container that forbids it. */
static int use_other_architecture(struct trial *t)
{
    struct mk_jail jail = { 0 };
    struct mk_err err;
    long rc = 20; /* getpid(2) of 32-bit programs */
    (void)t;
    if (enter(&jail, &err) < 0)
        return 250;
    __asm__ volatile("int $0x80" : "+a"(rc) : : "memory");
    return 0;
}

static void test_policy(void)
{
    tap_is(in_child(enter_twice, NULL), EALREADY, "a jail is entered once");
    tap_is(in_child(enter_beside_a_thread, NULL), EBUSY, "not beside other threads");
    named = "src/nothing";
    tap_is(in_child(enter_naming, NULL), ENOENT, "what is named is there");
    named = "/proc/self/exe";
    tap_is(in_child(enter_naming, NULL), ELOOP, "and is no symbolic link");
    named = "src/../..";
    tap_is(in_child(enter_naming, NULL), EINVAL, "nor a directory above");
    named = "/";
    tap_is(in_child(enter_naming, NULL), EINVAL, "nor everything");
    named = "src";
    tap_is(in_child(enter_naming, NULL), 0, "a directory is named");
}

static void test_attempts(void)
{
    for (size_t i = 0; i < MK_COUNT(attempts); i++) {
        attempt_as(&attempts[i], MK_ROLE_SCRIPT, "script");
        attempt_as(&attempts[i], MK_ROLE_VCPU, "vCPU");
        attempt_as(&attempts[i], MK_ROLE_IO, "I/O");
        attempt_as(&attempts[i], MK_ROLE_DISK, "disk");
    }
    tap_is(in_child(use_other_architecture, NULL), 1000 + SIGSYS, "calls of 32-bit programs");
}

int main(void)
{
#ifdef __SANITIZE_THREAD__
    printf("1..0 # SKIP ThreadSanitizer's own thread would stay outside of the jail\n");
    return 0;
#endif
    uint32_t action = SECCOMP_RET_ERRNO;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 || pipe(pipes) < 0) {
        printf("1..0 # SKIP this kernel has no seccomp filters\n");
        return 0;
    }
    landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
    test_policy();
    test_attempts();
    test_guest();
    return tap_done();
}
