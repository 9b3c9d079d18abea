/* log.c - see log.h.
 *
 * A filter hands the calls that not every thread may make to a thread of this file's (seccomp's
 * user notification, seccomp_unotify(2)), which looks them up in the table and lets them go on. It
 * begins before the filter, and is outside. What is opened is compared with what was named by its
 * real path, so a path may be told that Landlock would let through (a hard link), not the other way
 * round. Each call is told once for a role, each path once. */
#include "jail/log.h"

#include "jail/calls.h"
#include "jail/filter.h"
#include "jail/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREADS 1024u
#define CALLS 512u
#define PATHS 256u
#define PAGE 4096u
#define ROLES 4u

static const char *const roles[ROLES] = { "the script's thread", "a vCPU's thread",
                                          "the I/O thread", "a disk's thread" };

/* Instead of a descriptor: the filter is not there yet, or could not be had. */
#define NOT_YET (-1)
#define NEVER (-2)

static struct {
    _Atomic int listener;
    unsigned allow;
    char *named[PATHS]; /* real paths */
    unsigned access[PATHS], count;
    _Atomic pid_t thread[THREADS]; /* by number modulo THREADS */
    _Atomic unsigned role[THREADS];
    bool told[ROLES][CALLS];
    uint32_t told_paths[PATHS]; /* hashes */
} watch = { .listener = NOT_YET };

/* --- what would be refused --- */

static unsigned role_of(pid_t thread)
{
    unsigned at = (unsigned)thread % THREADS;
    return atomic_load(&watch.thread[at]) == thread ? atomic_load(&watch.role[at]) : MK_ROLE_SCRIPT;
}

static bool holds(const struct mk_jail_call *call, const struct seccomp_data *data)
{
    for (unsigned i = 0; i < MK_COUNT(call->test); i++) {
        const struct mk_jail_test *t = &call->test[i];
        uint64_t value = t->value == MK_JAIL_THIS_PROCESS ? (uint64_t)getpid() : t->value;
        if ((data->args[t->index] & t->mask) != value)
            return false;
    }
    return true;
}

static bool allowed(unsigned role, const struct seccomp_data *data)
{
    for (size_t i = 0; i < mk_jail_call_count; i++) {
        const struct mk_jail_call *call = &mk_jail_calls[i];
        if (call->number == data->nr && call->roles & role && !(call->needs & ~watch.allow) &&
            holds(call, data))
            return true;
    }
    return false;
}

static void tell_call(unsigned role, const struct seccomp_data *data)
{
    unsigned number = (unsigned)__builtin_ctz(role), call = (unsigned)data->nr % CALLS;
    if (watch.told[number][call])
        return;
    watch.told[number][call] = true;
    fprintf(stderr, "minikvm: jail: %s would be refused %s(0x%llx, 0x%llx, 0x%llx)\n",
            roles[number], mk_filter_call_name(data->nr), (unsigned long long)data->args[0],
            (unsigned long long)data->args[1], (unsigned long long)data->args[2]);
}

/* --- files --- */

static bool is_below(const char *path, const char *named)
{
    size_t length = strlen(named);
    return strncmp(path, named, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static bool is_named(const char *path, unsigned access)
{
    for (unsigned i = 0; i < watch.count; i++)
        if ((watch.access[i] & access) == access && is_below(path, watch.named[i]))
            return true;
    return false;
}

/* The path that a thread names, which stands still meanwhile; the address may be any. */
static bool read_name(uint64_t address, char name[PATH_MAX])
{
    for (size_t done = 0; done < PATH_MAX;) {
        size_t piece = PAGE - (address + done) % PAGE;
        piece = piece < PATH_MAX - done ? piece : PATH_MAX - done;
        struct iovec to = { name + done, piece };
        struct iovec from = { (void *)(uintptr_t)(address + done), piece };
        if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)piece)
            return false;
        if (memchr(name + done, 0, piece))
            return true;
        done += piece;
    }
    return false;
}

/* The real path of what openat(2) opens, in `real`; of a file that is to be made, its folder's.
 * False: there is nothing to open. */
static bool find_path(const struct seccomp_data *data, char real[PATH_MAX])
{
    char path[PATH_MAX + 40], name[PATH_MAX];
    if (!read_name(data->args[1], name))
        return false;
    if ((int)data->args[0] == AT_FDCWD || name[0] == '/')
        snprintf(path, sizeof(path), "%s", name);
    else
        snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", (int)data->args[0], name);
    if (realpath(path, real))
        return real[0] == '/';
    char *slash = strrchr(path, '/');
    if (!(data->args[2] & O_CREAT) || errno != ENOENT)
        return false;
    if (slash)
        *slash = 0;
    return realpath(slash ? (slash == path ? "/" : path) : ".", real) != NULL;
}

static void check_path(unsigned role, const struct seccomp_data *data)
{
    char real[PATH_MAX];
    unsigned mode = (unsigned)data->args[2] & O_ACCMODE, access = 0;
    if (data->args[2] & O_PATH || !find_path(data, real))
        return;
    access |= mode != O_WRONLY ? MK_JAIL_READ : 0;
    access |= mode != O_RDONLY ? MK_JAIL_WRITE : 0;
    if (is_named(real, access))
        return;
    uint32_t hash = 5381 + access;
    for (const char *at = real; *at; at++)
        hash = hash * 33 + (uint8_t)*at;
    if (watch.told_paths[hash % PATHS] == hash)
        return;
    watch.told_paths[hash % PATHS] = hash;
    fprintf(stderr, "minikvm: jail: %s would be refused to %s %s\n", roles[__builtin_ctz(role)],
            access & MK_JAIL_WRITE ? "write to" : "read", real);
}

/* --- the thread --- */

/* Whose memory can be looked into. */
static bool is_ours(pid_t thread)
{
    return syscall(SYS_tgkill, getpid(), thread, 0) == 0;
}

static void look_at(const struct seccomp_notif *told)
{
    unsigned role = role_of((pid_t)told->pid);
    if (!allowed(role, &told->data))
        tell_call(role, &told->data);
    else if (told->data.nr == SYS_openat && is_ours((pid_t)told->pid))
        check_path(role, &told->data);
}

static void *listen_to_kernel(void *unused)
{
    union { /* kernels may have longer ones */
        struct seccomp_notif told;
        char room[512];
    } in;
    union {
        struct seccomp_notif_resp answer;
        char room[512];
    } out;
    (void)unused;
    while (watch.listener == NOT_YET)
        usleep(100);
    if (watch.listener == NEVER)
        return NULL;
    for (;;) {
        memset(&in, 0, sizeof(in));
        memset(&out, 0, sizeof(out));
        if (ioctl(watch.listener, SECCOMP_IOCTL_NOTIF_RECV, &in) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            return NULL;
        }
        look_at(&in.told);
        out.answer.id = in.told.id;
        out.answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(watch.listener, SECCOMP_IOCTL_NOTIF_SEND, &out);
    }
}

/* --- beginning --- */

static void add_path(const char *path, unsigned access)
{
    char *real = watch.count < PATHS ? realpath(path, NULL) : NULL;
    if (!real)
        return;
    watch.named[watch.count] = real;
    watch.access[watch.count++] = access;
}

static int start_thread(struct mk_err *err)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&thread, NULL, listen_to_kernel, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code)
        return mk_fail_errno(err, code, "a thread that watches");
    pthread_detach(thread);
    return 0;
}

int mk_log_enter(const struct mk_jail *jail, struct mk_err *err)
{
    watch.allow = jail->allow;
    for (size_t i = 0; i < mk_landlock_own_count; i++)
        add_path(mk_landlock_own[i].path, mk_landlock_own[i].access);
    for (size_t i = 0; i < jail->count; i++)
        add_path(jail->paths[i].path, jail->paths[i].access);
    for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
        char self[40];
        snprintf(self, sizeof(self), "/proc/self/fd/%d", i);
        add_path(self, MK_JAIL_READ | MK_JAIL_WRITE);
    }
    if (start_thread(err) < 0)
        return -1;
    int fd = mk_filter_listen(err);
    watch.listener = fd < 0 ? NEVER : fd;
    if (fd < 0 && err->code == EINVAL)
        mk_fail(err, ENOTSUP,
                "level \"log\" needs seccomp's notifications, which are there from "
                "Linux 5.5 on");
    return fd < 0 ? -1 : 0;
}

void mk_log_begin_thread(unsigned role)
{
    pid_t thread = gettid();
    unsigned at = (unsigned)thread % THREADS;
    atomic_store(&watch.role[at], role);
    atomic_store(&watch.thread[at], thread);
}
