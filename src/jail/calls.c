/* calls.c - the table of system calls. See calls.h.
 *
 * What is in no row fails with EPERM. Columns: the call, whose threads make it, what must have been
 * allowed for it, why, and conditions on arguments. No row lets a process start another program,
 * connect to anything, signal other processes, look into them, or change who it is. */
#include "jail/calls.h"
#include "jail/jail.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define SCRIPT MK_ROLE_SCRIPT
#define VCPU (MK_ROLE_SCRIPT | MK_ROLE_VCPU)
#define ALL MK_ROLE_ALL
#define FILES MK_JAIL_FILES
#define HANDLERS MK_JAIL_HANDLERS
#define LISTEN MK_JAIL_LISTEN

#define ROW(name, roles, needs, why, ...)                                                          \
    {                                                                                              \
        SYS_##name, roles, needs, why,                                                             \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define CALL(name, roles, needs, why) ROW(name, roles, needs, why, { 0 })
#define ONE(name, roles, needs, why, i, m, v) ROW(name, roles, needs, why, { i, m, v })
#define TWO(name, roles, needs, why, i, m, v, j, n, w)                                             \
    ROW(name, roles, needs, why, { i, m, v }, { j, n, w })

/* Requests are 32 bits wide for the kernel. */
#define IOCTL(request, roles, why) ONE(ioctl, roles, 0, why, 1, 0xffffffff, (uint32_t)(request))

/* A thread in this process and in its namespaces: pthread_create(3). */
#define THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NAMESPACES                                                                                 \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
     CLONE_NEWNET)

/* open(2) with O_TRUNC takes away contents even of what is opened to be read. */
#define OPEN(roles, needs, why)                                                                    \
    ONE(openat, roles, needs, why ", nothing truncated", 2, O_TRUNC, 0),                           \
        ONE(openat, roles, needs, why ", to write", 2, O_ACCMODE, O_WRONLY),                       \
        ONE(openat, roles, needs, why ", to read and write", 2, O_ACCMODE, O_RDWR)

#define WORD UINT64_MAX
#define INT 0xffffffff

const struct mk_jail_call mk_jail_calls[] = {
    /* memory */
    CALL(brk, ALL, 0, "malloc"),
    ONE(mmap, ALL, 0, "malloc, stacks of threads, guest memory", 2, PROT_EXEC, 0),
    CALL(mmap, SCRIPT, 0, "libraries that are loaded when they are needed: capstone, libdw"),
    ONE(mprotect, ALL, 0, "malloc, stacks of threads", 2, PROT_EXEC, 0),
    CALL(munmap, ALL, 0, "malloc, guest memory"),
    CALL(mremap, ALL, 0, "realloc of large blocks"),
    CALL(madvise, ALL, 0, "guest memory is not a fork's, pages go back"),
    ONE(memfd_create, VCPU, 0, "contents of memory, shared by VMs; filters", 1, ~UINT64_C(1), 0),

    /* KVM: what a vCPU's thread asks of a VM that exists */
    IOCTL(KVM_RUN, VCPU, "the guest runs"),
    IOCTL(KVM_GET_REGS, VCPU, "registers"),
    IOCTL(KVM_SET_REGS, VCPU, "registers"),
    IOCTL(KVM_GET_SREGS, VCPU, "registers"),
    IOCTL(KVM_SET_SREGS, VCPU, "registers"),
    IOCTL(KVM_GET_FPU, VCPU, "registers"),
    IOCTL(KVM_SET_FPU, VCPU, "registers"),
    IOCTL(KVM_GET_MSRS, VCPU, "registers"),
    IOCTL(KVM_SET_MSRS, VCPU, "registers"),
    IOCTL(KVM_GET_XCRS, VCPU, "registers"),
    IOCTL(KVM_SET_XCRS, VCPU, "registers"),
    IOCTL(KVM_GET_XSAVE, VCPU, "registers"),
    IOCTL(KVM_GET_XSAVE2, VCPU, "registers"),
    IOCTL(KVM_SET_XSAVE, VCPU, "registers"),
    IOCTL(KVM_GET_DEBUGREGS, VCPU, "registers"),
    IOCTL(KVM_SET_DEBUGREGS, VCPU, "registers"),
    IOCTL(KVM_GET_VCPU_EVENTS, VCPU, "interrupts that are pending"),
    IOCTL(KVM_SET_VCPU_EVENTS, VCPU, "interrupts that are pending"),
    IOCTL(KVM_GET_MP_STATE, VCPU, "whether it is halted"),
    IOCTL(KVM_SET_MP_STATE, VCPU, "whether it is halted"),
    IOCTL(KVM_GET_TSC_KHZ, VCPU, "its clock"),
    IOCTL(KVM_INTERRUPT, VCPU, "an interrupt"),
    IOCTL(KVM_NMI, VCPU, "an interrupt"),
    IOCTL(KVM_SET_GUEST_DEBUG, VCPU, "breakpoints, single steps"),
    IOCTL(KVM_SET_USER_MEMORY_REGION, VCPU, "guest memory"),
    IOCTL(KVM_GET_DIRTY_LOG, VCPU, "which of it was written"),
    IOCTL(KVM_IOEVENTFD, VCPU, "doorbells"),
    IOCTL(KVM_REGISTER_COALESCED_MMIO, VCPU, "ports whose bytes KVM collects"),
    IOCTL(KVM_UNREGISTER_COALESCED_MMIO, VCPU, "ports whose bytes KVM collects"),
    IOCTL(KVM_X86_SET_MSR_FILTER, VCPU, "hooks of MSRs"),
    IOCTL(KVM_ENABLE_CAP, VCPU, "hooks of MSRs"),
    IOCTL(KVM_SET_CPUID2, VCPU, "what the guest is told of its processor"),
    IOCTL(KVM_CHECK_EXTENSION, VCPU, "what KVM has"),
    /* KVM: VMs are made */
    IOCTL(KVM_GET_API_VERSION, SCRIPT, "what KVM has"),
    IOCTL(KVM_GET_SUPPORTED_CPUID, SCRIPT, "what KVM has"),
    IOCTL(KVM_GET_MSR_INDEX_LIST, SCRIPT, "what KVM has"),
    IOCTL(KVM_GET_VCPU_MMAP_SIZE, SCRIPT, "a VM is made"),
    IOCTL(KVM_CREATE_VM, SCRIPT, "a VM is made"),
    IOCTL(KVM_CREATE_VCPU, SCRIPT, "a VM is made"),
    IOCTL(KVM_SET_TSS_ADDR, SCRIPT, "a VM is made"),
    IOCTL(KVM_SET_IDENTITY_MAP_ADDR, SCRIPT, "a VM is made"),

    /* other devices */
    IOCTL(TCGETS, ALL, "is it a terminal"),
    IOCTL(TCSETS, ALL, "the terminal in raw mode, and back"),
    IOCTL(TCSETSW, ALL, "the terminal in raw mode, and back"),
    IOCTL(TIOCGPGRP, ALL, "whose turn the terminal is"),
    IOCTL(TIOCGWINSZ, VCPU, "the terminal's size"),
    IOCTL(FICLONE, VCPU, "a guest's copy of a file"),
    IOCTL(_IOWR('f', 16, char[96]), SCRIPT, "PAGEMAP_SCAN: which pages a snapshot has"),

    /* descriptors that are there */
    CALL(read, ALL, 0, "console, files, timers"),
    CALL(write, ALL, 0, "console, files, eventfds"),
    CALL(readv, ALL, 0, "frames, disks"),
    CALL(writev, ALL, 0, "frames, disks"),
    CALL(pread64, ALL, 0, "disks, images, files of guests"),
    CALL(pwrite64, ALL, 0, "disks, files of guests"),
    CALL(preadv, ALL, 0, "disks"),
    CALL(pwritev, ALL, 0, "disks"),
    CALL(preadv2, ALL, 0, "disks"),
    CALL(pwritev2, ALL, 0, "disks; files of guests, at their end"),
    CALL(lseek, ALL, 0, "files; which parts hold data"),
    CALL(close, ALL, 0, "files, VMs"),
    CALL(dup, ALL, 0, "whether standard output can be written, at the end"),
    CALL(dup3, VCPU, 0, "loadfile(), when the file is opened once more as a binary one"),
    CALL(fstat, ALL, 0, "what a descriptor is"),
    ONE(newfstatat, ALL, 0, "what a descriptor is (AT_EMPTY_PATH)", 3, AT_EMPTY_PATH,
        AT_EMPTY_PATH),
    CALL(ftruncate, VCPU, 0, "files of guests, disks, contents of memory"),
    CALL(fallocate, ALL, 0, "disks: parts that are discarded"),
    CALL(fsync, ALL, 0, "disks, files"),
    CALL(fdatasync, ALL, 0, "disks"),
    CALL(poll, ALL, 0, "waiting"),
    CALL(ppoll, ALL, 0, "waiting"),
    CALL(epoll_wait, ALL, 0, "the I/O thread waits"),
    CALL(epoll_pwait, ALL, 0, "the I/O thread waits"),
    CALL(epoll_ctl, ALL, 0, "what the I/O thread waits for"),
    CALL(epoll_create1, VCPU, 0, "what the I/O thread waits for"),
    CALL(eventfd2, VCPU, 0, "doorbells, waking"),
    CALL(timerfd_create, VCPU, 0, "the I/O thread's clock"),
    CALL(timerfd_settime, ALL, 0, "the I/O thread's clock"),
    CALL(pipe2, SCRIPT, 0, "waking"),
    ONE(fcntl, ALL, 0, "a copy of a descriptor", 1, INT, F_DUPFD_CLOEXEC),
    ONE(fcntl, ALL, 0, "whether one is there", 1, INT, F_GETFD),
    ONE(fcntl, ALL, 0, "not for other programs", 1, INT, F_SETFD),
    ONE(fcntl, ALL, 0, "how it was opened", 1, INT, F_GETFL),
    ONE(fcntl, ALL, 0, "without blocking", 1, INT, F_SETFL),
    ONE(recvfrom, ALL, 0, "standard input that is a socket; gdb", 4, WORD, 0),
    TWO(sendto, ALL, 0, "standard output that is a socket; gdb", 4, WORD, 0, 3, MSG_FASTOPEN, 0),

    /* files by name, below what Landlock has been given */
    OPEN(SCRIPT, 0, "files that were named"),
    CALL(newfstatat, SCRIPT, 0, "what a path is"),
    CALL(statx, SCRIPT, 0, "what a path is"),
    CALL(access, SCRIPT, 0, "whether a path is there"),
    CALL(faccessat, SCRIPT, 0, "whether a path is there"),
    CALL(faccessat2, SCRIPT, 0, "whether a path is there"),
    CALL(readlink, SCRIPT, 0, "where a link leads"),
    CALL(readlinkat, SCRIPT, 0, "where a link leads"),
    CALL(getcwd, SCRIPT, 0, "paths that are relative"),
    CALL(getdents64, SCRIPT, 0, "a directory"),
    CALL(unlink, SCRIPT, 0, "a file that was begun and not completed"),
    CALL(unlinkat, SCRIPT, 0, "a file, a directory"),
    CALL(rename, SCRIPT, 0, "a file that is complete gets its name"),
    CALL(mkdir, SCRIPT, 0, "directories of VMs"),
    CALL(rmdir, SCRIPT, 0, "directories of VMs"),
    CALL(fchmod, SCRIPT, 0, "a file that replaces one has its permissions"),
    CALL(fstatfs, SCRIPT, 0, "what kind of file system it is"),
    CALL(statfs, SCRIPT, 0, "what kind of file system it is"),
    CALL(flock, SCRIPT, 0, "files that are shared"),
    /* handlers of a script, on vCPU threads */
    OPEN(VCPU, HANDLERS, "files that were named"),
    CALL(newfstatat, VCPU, HANDLERS, "what a path is"),
    ONE(mmap, VCPU, HANDLERS, "libraries that are loaded when they are needed", 3, MAP_ANONYMOUS,
        0),
    /* files of guests: src/files */
    OPEN(VCPU, FILES, "files of guests"),
    CALL(openat2, VCPU, FILES, "files of guests, below their directory"),
    CALL(newfstatat, VCPU, FILES, "files of guests"),
    CALL(getdents64, VCPU, FILES, "files of guests"),
    CALL(unlinkat, VCPU, FILES, "files of guests"),
    CALL(renameat2, VCPU, FILES, "files of guests get their names"),
    CALL(linkat, VCPU, FILES, "files of guests get their names"),
    CALL(mkdir, VCPU, FILES, "directories of VMs"),
    CALL(mkdirat, VCPU, FILES, "directories of VMs"),
    CALL(rmdir, VCPU, FILES, "directories of VMs"),
    CALL(flock, VCPU, FILES, "files of guests that one VM at a time writes to"),
    CALL(fstatfs, VCPU, FILES, "what kind of file system it is"),

    /* a debugger or a browser that connects */
    TWO(socket, SCRIPT, LISTEN, "gdb, views", 0, INT, AF_INET, 1, 0xf, SOCK_STREAM),
    TWO(socket, SCRIPT, LISTEN, "gdb", 0, INT, AF_INET6, 1, 0xf, SOCK_STREAM),
    TWO(socket, SCRIPT, LISTEN, "gdb", 0, INT, AF_UNIX, 1, 0xf, SOCK_STREAM),
    CALL(setsockopt, ALL, LISTEN, "gdb, views"),
    CALL(bind, SCRIPT, LISTEN, "gdb"),
    CALL(listen, SCRIPT, LISTEN, "gdb"),
    CALL(getsockname, SCRIPT, LISTEN, "gdb: which port it became"),
    CALL(accept4, ALL, LISTEN, "gdb, views"),
    CALL(shutdown, VCPU, LISTEN, "gdb"),

    /* threads */
    ONE(clone, ALL, 0, "threads: vCPUs, I/O, disks, workers", 0, THREAD | NAMESPACES, THREAD),
    CALL(set_robust_list, ALL, 0, "a thread begins"),
    CALL(rseq, ALL, 0, "a thread begins"),
    CALL(exit, ALL, 0, "a thread ends"),
    CALL(exit_group, ALL, 0, "the process ends"),
    CALL(futex, ALL, 0, "locks"),
    CALL(sched_yield, ALL, 0, "locks"),
    CALL(gettid, ALL, 0, "signals between threads"),
    CALL(getpid, ALL, 0, "signals between threads"),
    CALL(getppid, SCRIPT, 0, "whether who started it is there"),
    CALL(getpgrp, ALL, 0, "whose turn the terminal is"),
    CALL(geteuid, SCRIPT, 0, "what the program may do"),
    CALL(getuid, SCRIPT, 0, "what the program may do"),
    CALL(sysinfo, ALL, 0, "qsort(3): how much memory there is"),
    CALL(uname, SCRIPT, 0, "which kernel this is"),
    ONE(sched_setattr, SCRIPT | MK_ROLE_IO, 0, "the I/O thread has a short slice", 0, INT, 0),
    CALL(sched_getaffinity, ALL, 0, "malloc: how many arenas; pthread_getattr_np(3)"),
    TWO(prlimit64, ALL, 0, "limits are read", 0, INT, 0, 2, WORD, 0),
    CALL(getrusage, SCRIPT, 0, "os.clock"),
    CALL(getrandom, ALL, 0, "seeds; what virtio's random device gives"),

    /* signals, between threads of this process alone */
    ONE(tgkill, ALL, 0, "the kick signal, abort()", 0, INT, MK_JAIL_THIS_PROCESS),
    CALL(rt_sigaction, VCPU, 0, "the kick signal, Ctrl-C"),
    CALL(rt_sigprocmask, ALL, 0, "signals"),
    CALL(rt_sigreturn, ALL, 0, "signals"),
    CALL(rt_sigpending, ALL, 0, "signals"),
    CALL(rt_sigtimedwait, ALL, 0, "SIGPIPE that a write has raised"),
    CALL(sigaltstack, ALL, 0, "signals"),
    CALL(restart_syscall, ALL, 0, "a wait goes on after a stop"),

    /* time */
    CALL(clock_gettime, ALL, 0, "time"),
    CALL(clock_getres, ALL, 0, "time"),
    CALL(gettimeofday, ALL, 0, "time"),
    CALL(time, ALL, 0, "time"),
    CALL(nanosleep, ALL, 0, "time"),
    CALL(clock_nanosleep, ALL, 0, "time"),

    /* only tightens: threads that begin later take more from themselves */
    ONE(seccomp, ALL, 0, "filters of threads", 0, INT, 1 /* SECCOMP_SET_MODE_FILTER */),
};

const size_t mk_jail_call_count = MK_COUNT(mk_jail_calls);
