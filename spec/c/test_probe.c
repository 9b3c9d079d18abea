/* test_probe.c - what the host's KVM can do: the answers are right among signals, and found once.
 * The file is taken in, with other names for what it exports, to put a question of the test's own.
 */
#define mk_native_probe tested_native_probe
#define mk_native_probe_all tested_native_probe_all
#include "x86/weak/probe.c"

#include "tap.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void count(int signal_number)
{
    (void)signal_number;
    signals++;
}

/* POSIX, setitimer(): SIGALRM every `us` microseconds; without SA_RESTART it ends what it
 * interrupts with EINTR, and KVM_RUN in any case. */
static void interrupt_every(unsigned us)
{
    struct sigaction action = { .sa_handler = count };
    struct itimerval every = { .it_interval.tv_usec = us, .it_value.tv_usec = us }; /* 0: none */
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static int answer_bits(void)
{
    struct mk_kvm kvm;
    struct mk_native native;
    enum mk_cpuid_kind cpuid;
    struct mk_err err;
    if (mk_kvm_open(&kvm, &err) < 0)
        return 0x80;
    int rc = mk_native_probe_all(&native, &cpuid, &kvm, &err);
    mk_kvm_close(&kvm);
    return rc < 0 ? 0x80
                  : native.paging32 << 0 | native.int_n << 1 | native.iret << 2 |
                        (cpuid == MK_CPUID_SHAPED) << 3;
}

/* In a process that knows nothing yet. */
static int answers_anew(unsigned us)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (us)
            interrupt_every(us);
        _exit(answer_bits());
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A guest that needs longer than from one signal to the next, and any KVM can run. */
static bool runs_long(struct guest *g)
{
    static const uint8_t code[] = { 0xb9, 0, 0, 1, 0, 0xe2, 0xfe, 0xf4 };
    bool reached = reaches(g, code, sizeof(code), sizeof(code)); /* mov ecx, 65536; loop $; hlt */
    return reached && !g->failed;
}

static void ask_among_signals(const struct mk_kvm *kvm)
{
    struct mk_err err;
    uint8_t *page = mmap(NULL, MK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct guest g = { .cpu = -1, .page = page, .run = MAP_FAILED };
    struct kvm_userspace_memory_region region = { .memory_size = MK_PAGE,
                                                  .userspace_addr = (uint64_t)(uintptr_t)page };
    int vm = mk_kvm_create_vm(kvm, &err);
    mk_ioctl(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
    mk_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
    tap_is(open_guest(&g, kvm, vm, 0, &err), 0, "a vCPU");
    interrupt_every(100);
    int right = 0, asked;
    for (asked = 0; asked < 20 || (signals < 20 && asked < 10000); asked++)
        right += runs_long(&g);
    interrupt_every(0);
    tap_is(right, asked, "a signal is no answer");
    tap_ok(signals >= 20, "there were signals");
    close_guest(&g);
    close(vm);
}

static void test_signals(int want)
{
    struct mk_kvm kvm;
    struct mk_err err;
    int same = 0;
    for (int i = 0; i < 20; i++)
        same += answers_anew(200) == want;
    tap_is(same, 20, "signals do not change what is found out");
    if (tap_is(mk_kvm_open(&kvm, &err), 0, "/dev/kvm")) {
        ask_among_signals(&kvm);
        mk_kvm_close(&kvm);
    }
}

/* A VM and its vCPU take a descriptor each, beside that of /dev/kvm. */
static void test_once(int want)
{
    struct rlimit limit;
    tap_is(answer_bits(), want, "the answers of this process");
    int lowest = dup(0);
    close(lowest);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)lowest + 1;
    setrlimit(RLIMIT_NOFILE, &limit);
    tap_is(answer_bits(), want, "asked again, no VM is made");
}

int main(void)
{
    int want = answers_anew(0);
    if (want == 0x80) {
        printf("ok 1 # SKIP /dev/kvm cannot be used here\n1..1\n");
        return 0;
    }
    test_signals(want);
    test_once(want);
    return tap_done();
}
