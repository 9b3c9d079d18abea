/* bare.c - the floor that the benches compare with: KVM's own calls and nothing else.
 *
 *   bare exits IMAGE N   runs a real-mode image that makes N OUTs and halts: seconds of processor
 *                        time, seconds
 *   bare steps N         N single steps over `inc ax; jmp`, each with KVM_SET_GUEST_DEBUG as it is
 *                        wanted after registers change; N exits at a HLT in place of the `inc ax`,
 *                        each with stepping over that: seconds of processor time of both
 *   bare start N         N times: make a VM of 1 MiB, run a HLT, close it: seconds for all, and of
 *                        processor time
 *   bare spawn N CMD…    N times: start a program and wait for its end: seconds of each, and of its
 *                        processor time
 *   bare signal N MS SIG CMD…   the same, sending SIG after MS milliseconds: seconds from there on
 *   bare busy            keeps one processor busy until stdin ends
 *
 * Numbers go to stdout, a line each. Ends with status 1 when anything fails. */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MEMORY (1u << 20)
#define CPUID_ENTRIES 256

extern char **environ;

struct host {
    int fd;
    size_t run_size;
    struct kvm_cpuid2 *cpuid;
};

struct guest {
    int vm, cpu;
    uint8_t *ram;
    struct kvm_run *run;
};

static double read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static int call(int fd, unsigned long request, void *arg)
{
    int rc = ioctl(fd, request, arg);
    if (rc < 0)
        err(1, "ioctl 0x%lx", request);
    return rc;
}

static void *map(size_t size, int flags, int fd)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED)
        err(1, "mmap");
    return at;
}

static struct host open_host(void)
{
    struct host h = { .fd = open("/dev/kvm", O_RDWR | O_CLOEXEC) };
    if (h.fd < 0)
        err(1, "/dev/kvm");
    h.run_size = (size_t)call(h.fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    h.cpuid = calloc(1, sizeof(*h.cpuid) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    if (!h.cpuid)
        err(1, "calloc");
    h.cpuid->nent = CPUID_ENTRIES;
    call(h.fd, KVM_GET_SUPPORTED_CPUID, h.cpuid);
    return h;
}

/* A vCPU in real mode at 0000:0000, where `code` is. */
static struct guest open_guest(const struct host *h, const uint8_t *code, size_t length)
{
    struct guest g = { .vm = call(h->fd, KVM_CREATE_VM, NULL) };
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rflags = 2 };
    call(g.vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
    g.ram = map(MEMORY, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY,
                                                  .userspace_addr = (uint64_t)(uintptr_t)g.ram };
    call(g.vm, KVM_SET_USER_MEMORY_REGION, &region);
    g.cpu = call(g.vm, KVM_CREATE_VCPU, NULL);
    g.run = map(h->run_size, MAP_SHARED, g.cpu);
    call(g.cpu, KVM_SET_CPUID2, h->cpuid);
    memcpy(g.ram, code, length);
    call(g.cpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    call(g.cpu, KVM_SET_SREGS, &sregs);
    call(g.cpu, KVM_SET_REGS, &regs);
    return g;
}

static void close_guest(const struct host *h, struct guest *g)
{
    munmap(g->run, h->run_size);
    close(g->cpu);
    close(g->vm);
    munmap(g->ram, MEMORY);
}

/* Runs to HLT; returns the number of other exits. */
static uint32_t run(struct guest *g)
{
    uint32_t exits = 0;
    for (;; exits++) {
        call(g->cpu, KVM_RUN, NULL);
        if (g->run->exit_reason == KVM_EXIT_HLT)
            return exits;
        if (g->run->exit_reason != KVM_EXIT_IO && g->run->exit_reason != KVM_EXIT_MMIO)
            errx(1, "exit %u", g->run->exit_reason);
    }
}

static void exits(const char *path, uint32_t n)
{
    uint8_t code[4096];
    FILE *file = fopen(path, "rb");
    size_t length = file ? fread(code, 1, sizeof(code), file) : 0;
    if (length == 0)
        err(1, "%s", path);
    struct host h = open_host();
    struct guest g = open_guest(&h, code, length);
    double busy = read_clock(CLOCK_PROCESS_CPUTIME_ID), began = now();
    if (run(&g) != n)
        errx(1, "not %u exits", n);
    printf("%.9f\n", read_clock(CLOCK_PROCESS_CPUTIME_ID) - busy);
    printf("%.9f\n", now() - began);
}

static void set_stepping(struct guest *g, bool on)
{
    struct kvm_guest_debug debug = { .control =
                                         on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0 };
    call(g->cpu, KVM_SET_GUEST_DEBUG, &debug);
}

static void enter(struct guest *g, uint32_t want)
{
    call(g->cpu, KVM_RUN, NULL);
    if (g->run->exit_reason != want)
        errx(1, "exit %u", g->run->exit_reason);
}

static double step(struct guest *g, unsigned n)
{
    double began = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < n; i++) {
        set_stepping(g, true);
        enter(g, KVM_EXIT_DEBUG);
    }
    set_stepping(g, false);
    return read_clock(CLOCK_PROCESS_CPUTIME_ID) - began;
}

static double hit(struct guest *g, volatile uint8_t *at, unsigned n)
{
    struct kvm_regs regs;
    uint8_t own = *at;
    double began = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < n; i++) {
        *at = 0xf4;
        enter(g, KVM_EXIT_HLT);
        call(g->cpu, KVM_GET_REGS, &regs);
        regs.rip--;
        call(g->cpu, KVM_SET_REGS, &regs);
        *at = own;
        set_stepping(g, true);
        enter(g, KVM_EXIT_DEBUG);
        set_stepping(g, false);
    }
    return read_clock(CLOCK_PROCESS_CPUTIME_ID) - began;
}

static void steps(unsigned n)
{
    static const uint8_t code[] = { 0x40, 0xeb, 0xfd }; /* inc ax; jmp */
    struct host h = open_host();
    struct guest g = open_guest(&h, code, sizeof(code));
    double stepped = step(&g, n);
    printf("%.9f\n%.9f\n", stepped, hit(&g, g.ram, n));
    close_guest(&h, &g);
}

static void start(unsigned n)
{
    static const uint8_t code[] = { 0xf4 };
    struct host h = open_host();
    double busy = read_clock(CLOCK_PROCESS_CPUTIME_ID), began = now();
    for (unsigned i = 0; i < n; i++) {
        struct guest g = open_guest(&h, code, sizeof(code));
        run(&g);
        close_guest(&h, &g);
    }
    printf("%.9f\n", now() - began);
    printf("%.9f\n", read_clock(CLOCK_PROCESS_CPUTIME_ID) - busy);
}

static double seconds_of(const struct rusage *used)
{
    return (double)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) +
           (double)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1e6;
}

static void spawn(unsigned n, unsigned ms, int sig, char **command)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    if (sig) /* its last words about the signal */
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    for (unsigned i = 0; i < n; i++) {
        struct rusage used;
        pid_t child;
        int status;
        double began = now();
        if (posix_spawnp(&child, command[0], &actions, NULL, command, environ) != 0)
            errx(1, "cannot start %s", command[0]);
        if (sig) {
            usleep(ms * 1000);
            began = now();
            kill(child, sig);
        }
        wait4(child, &status, 0, &used);
        if (!sig && status != 0)
            errx(1, "%s failed", command[0]);
        printf("%.9f\n%.9f\n", now() - began, seconds_of(&used));
    }
}

static void keep_busy(void)
{
    struct pollfd in = { .fd = 0, .events = POLLIN };
    while (poll(&in, 1, 0) == 0)
        for (double end = now() + 0.001; now() < end;)
            ;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    unsigned n = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;
    if (strcmp(what, "exits") == 0 && argc == 4)
        exits(argv[2], (uint32_t)strtoul(argv[3], NULL, 0));
    else if (strcmp(what, "steps") == 0 && argc == 3)
        steps(n);
    else if (strcmp(what, "start") == 0 && argc == 3)
        start(n);
    else if (strcmp(what, "spawn") == 0 && argc > 3)
        spawn(n, 0, 0, argv + 3);
    else if (strcmp(what, "signal") == 0 && argc > 5)
        spawn(n, (unsigned)atoi(argv[3]), atoi(argv[4]), argv + 5);
    else if (strcmp(what, "busy") == 0)
        keep_busy();
    else
        errx(1, "see the head of bench/bare.c");
    return 0;
}
