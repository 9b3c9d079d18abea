/* kvm.c - see kvm.h. */
#include "kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CPUID_ENTRIES 256

int mk_ioctl(int fd, unsigned long request, void *arg)
{
    int rc;
    do
        rc = ioctl(fd, request, arg);
    while (rc < 0 && errno == EINTR);
    return rc;
}

int mk_kvm_capability(const struct mk_kvm *kvm, int capability)
{
    return mk_ioctl(kvm->fd, KVM_CHECK_EXTENSION, (void *)(long)capability);
}

/* api.rst 4.7: the capability of old kernels, and what to assume without. */
unsigned mk_kvm_most_cpus(const struct mk_kvm *kvm)
{
    int most = mk_kvm_capability(kvm, KVM_CAP_MAX_VCPUS);
    if (most <= 0)
        most = mk_kvm_capability(kvm, KVM_CAP_NR_VCPUS);
    return most > 0 ? (unsigned)most : 4;
}

static int open_failed(int code, struct mk_err *err)
{
    switch (code) {
    case ENOENT:
        return mk_fail(err, code,
                       "/dev/kvm: it does not exist: the kvm module is not loaded, or "
                       "this container was not given the device ('minikvm doctor' tells more)");
    case EACCES:
    case EPERM:
        return mk_fail(err, code,
                       "/dev/kvm: permission denied: join the group that owns it "
                       "('sudo usermod -aG kvm $USER', then log in again)");
    default: return mk_fail_errno(err, code, "/dev/kvm");
    }
}

static int check(struct mk_kvm *kvm, struct mk_err *err)
{
    int version = mk_ioctl(kvm->fd, KVM_GET_API_VERSION, NULL);
    if (version < 0)
        return mk_fail(err, ENOTSUP, "/dev/kvm: it is not KVM's device");
    if (version != KVM_API_VERSION)
        return mk_fail(err, ENOTSUP, "/dev/kvm: speaks API version %d, not %d", version,
                       KVM_API_VERSION);
    if (mk_kvm_capability(kvm, KVM_CAP_USER_MEMORY) <= 0 ||
        mk_kvm_capability(kvm, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return mk_fail(err, ENOTSUP,
                       "/dev/kvm: this kernel's KVM is too old "
                       "(no immediate_exit; Linux 4.12 has it)");
    int size = mk_ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (size < (int)sizeof(struct kvm_run))
        return mk_fail(err, ENOTSUP, "/dev/kvm: vCPU mapping of %d bytes is too small", size);
    kvm->run_size = (size_t)size;
    return 0;
}

static int read_cpuid(struct mk_kvm *kvm, struct mk_err *err)
{
    kvm->cpuid = calloc(1, sizeof(*kvm->cpuid) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    if (!kvm->cpuid)
        return mk_fail_errno(err, ENOMEM, "CPUID table");
    kvm->cpuid->nent = CPUID_ENTRIES;
    if (mk_ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid) < 0)
        return mk_fail_errno(err, errno, "KVM does not tell the processor's features");
    return 0;
}

static const char *find_kind(void)
{
    static const char *const kinds[][2] = { { "/sys/module/kvm_pvm", "pvm" },
                                            { "/sys/module/kvm_intel", "vmx" },
                                            { "/sys/module/kvm_amd", "svm" } };
    for (size_t i = 0; i < MK_COUNT(kinds); i++)
        if (access(kinds[i][0], F_OK) == 0)
            return kinds[i][1];
    return "unknown";
}

/* It stays while the process lives, and every VM asks. */
const char *mk_kvm_kind(void)
{
    static const char *_Atomic known;
    const char *kind = known;
    if (!kind)
        known = kind = find_kind();
    return kind;
}

bool mk_kvm_is_stock(void)
{
    return strcmp(mk_kvm_kind(), "svm") == 0 || strcmp(mk_kvm_kind(), "vmx") == 0;
}

/* EPT or NPT, unless a parameter of the module says that there is none. */
static bool nested_paging(void)
{
    static const char *const files[] = { "/sys/module/kvm_intel/parameters/ept",
                                         "/sys/module/kvm_amd/parameters/npt" };
    for (size_t i = 0; i < MK_COUNT(files); i++) {
        char c = 0;
        int fd = open(files[i], O_RDONLY | O_CLOEXEC);
        bool got = fd >= 0 && read(fd, &c, 1) == 1;
        if (fd >= 0)
            close(fd);
        if (got)
            return c == 'Y' || c == '1';
    }
    return false;
}

static int open_now(struct mk_kvm *kvm, struct mk_err *err)
{
    *kvm = (struct mk_kvm){ .fd = open("/dev/kvm", O_RDWR | O_CLOEXEC) };
    if (kvm->fd < 0)
        return open_failed(errno, err);
    if (check(kvm, err) < 0 || read_cpuid(kvm, err) < 0) {
        mk_kvm_close(kvm);
        return -1;
    }
    int page = mk_kvm_capability(kvm, KVM_CAP_COALESCED_MMIO);
    kvm->coalesced_pio = page > 0 && mk_kvm_capability(kvm, KVM_CAP_COALESCED_PIO) > 0;
    kvm->coalesced_at = page > 0 ? (size_t)page * MK_PAGE : 0;
    int synced = mk_kvm_capability(kvm, KVM_CAP_SYNC_REGS);
    kvm->sync_regs = synced > 0 && synced & KVM_SYNC_X86_REGS;
    kvm->sync_state = synced > 0 && (synced & 7) == (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS |
                                                     KVM_SYNC_X86_EVENTS);
    kvm->svm = strcmp(mk_kvm_kind(), "svm") == 0;
    kvm->shadow_paging = !nested_paging();
    int xsave = mk_kvm_capability(kvm, KVM_CAP_XSAVE2);
    if (mk_kvm_capability(kvm, KVM_CAP_XSAVE) > 0)
        kvm->xsave_size =
            xsave > (int)sizeof(struct kvm_xsave) ? (size_t)xsave : sizeof(struct kvm_xsave);
    return 0;
}

/* --- ahead of time --- */

static struct {
    _Atomic bool asked; /* nobody has taken what comes of it */
    sem_t done;
    struct mk_kvm kvm;
    struct mk_err err;
    int rc;
    _Atomic int vm; /* the first one, made meanwhile; -1: none */
} early = { .vm = -1 };

static void *open_early(void *unused)
{
    (void)unused;
    early.rc = open_now(&early.kvm, &early.err);
    if (early.rc == 0)
        early.vm = mk_ioctl(early.kvm.fd, KVM_CREATE_VM, NULL);
    sem_post(&early.done);
    return NULL;
}

void mk_kvm_open_early(void)
{
    pthread_t thread;
    sigset_t all, before;
    sem_init(&early.done, 0, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    early.asked = pthread_create(&thread, NULL, open_early, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (early.asked)
        pthread_detach(thread);
}

int mk_kvm_open(struct mk_kvm *kvm, struct mk_err *err)
{
    if (!atomic_exchange(&early.asked, false))
        return open_now(kvm, err);
    while (sem_wait(&early.done) < 0) /* a signal came */
        ;
    *kvm = early.kvm;
    *err = early.err;
    return early.rc;
}

void mk_kvm_close(struct mk_kvm *kvm)
{
    if (kvm->fd >= 0)
        close(kvm->fd);
    free(kvm->cpuid);
    kvm->fd = -1;
    kvm->cpuid = NULL;
}

int mk_kvm_create_vm(const struct mk_kvm *kvm, struct mk_err *err)
{
    int fd = atomic_exchange(&early.vm, -1);
    if (fd < 0)
        fd = mk_ioctl(kvm->fd, KVM_CREATE_VM, NULL);
    if (fd < 0)
        return mk_fail_errno(err, errno, "cannot create a virtual machine");
    return fd;
}

int mk_kvm_create_vcpu(int vm_fd, unsigned index, struct mk_err *err)
{
    int fd = mk_ioctl(vm_fd, KVM_CREATE_VCPU, (void *)(unsigned long)index);
    if (fd < 0)
        return mk_fail_errno(err, errno, "cannot create vCPU %u", index);
    return fd;
}

int mk_kvm_set_cpuid(int vcpu_fd, const struct kvm_cpuid2 *cpuid, struct mk_err *err)
{
    if (mk_ioctl(vcpu_fd, KVM_SET_CPUID2, (void *)(uintptr_t)cpuid) < 0)
        return mk_fail_errno(err, errno, "KVM refuses these processor features (CPUID)");
    return 0;
}
