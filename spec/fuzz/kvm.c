/* kvm.c - see kvm.h. open(), ioctl() and access() of the C library are replaced; KVM_RUN, which is
 * called without it, is trapped by a seccomp filter and served in the signal's handler. Descriptors
 * are memory files, known by their number. One thread uses a vCPU at a time (api.rst 2). */
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define FDS 1024
#define RUN_SIZE (3 * MK_PAGE)
#define SLOTS 16384

enum kind { NONE, SYSTEM, VM, VCPU };

/* One open descriptor. */
static struct fake {
    enum kind kind;
    ino_t inode; /* of the memory file: the number may have been used again */
    int vm;
    struct kvm_run *run;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    struct kvm_userspace_memory_region *slot; /* of a VM */
    unsigned slots;                           /* of these, those that were ever used */
} * fakes[FDS];

static struct fuzz_in program;

void fuzz_kvm_load(const uint8_t *bytes, size_t length)
{
    static uint8_t *copy;
    uint8_t *room = realloc(copy, length + 1);
    fuzz_check(room);
    copy = memcpy(room, bytes, length);
    program = (struct fuzz_in){ copy, length };
}

static struct {
    uint16_t ip[64], port;
    unsigned count;
} traps;

void fuzz_kvm_set_traps(const uint16_t *ips, unsigned count, uint16_t port)
{
    fuzz_check(count <= MK_COUNT(traps.ip));
    memcpy(traps.ip, ips, count * sizeof(*ips));
    traps.count = count;
    traps.port = port;
}

/* --- descriptors --- */

static struct fake *fake_of(int fd)
{
    struct stat st;
    struct fake *f = fd >= 0 && fd < FDS ? fakes[fd] : NULL;
    if (!f || f->kind == NONE)
        return NULL;
    if (fstat(fd, &st) == 0 && st.st_ino == f->inode)
        return f;
    f->kind = NONE;
    return NULL;
}

static int new_fake(enum kind kind, int vm)
{
    struct stat st;
    int fd = memfd_create("kvm", MFD_CLOEXEC);
    fuzz_check(fd >= 0 && fd < FDS && ftruncate(fd, RUN_SIZE) == 0 && fstat(fd, &st) == 0);
    if (!fakes[fd])
        fakes[fd] = calloc(1, sizeof(struct fake));
    struct fake *f = fakes[fd];
    fuzz_check(f);
    if (f->run)
        munmap(f->run, RUN_SIZE);
    struct kvm_userspace_memory_region *slot = f->slot;
    if (slot)
        memset(slot, 0, f->slots * sizeof(*slot));
    *f = (struct fake){ .kind = kind, .inode = st.st_ino, .vm = vm, .slot = slot };
    if (kind == VM && !slot)
        f->slot = calloc(SLOTS, sizeof(*slot));
    fuzz_check(kind != VM || f->slot);
    f->sregs.cs = (struct kvm_segment){
        .base = 0xffff0000, .selector = 0xf000, .type = 11, .present = 1, .s = 1, .limit = 0xffff
    };
    f->sregs.cr0 = 0x60000010;
    f->regs.rip = 0xfff0;
    f->regs.rflags = 2;
    if (kind == VCPU) {
        f->run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        fuzz_check(f->run != MAP_FAILED);
    }
    return fd;
}

static int run_vcpu(struct fake *f);

/* SIGSYS: a system call's registers, and what it returns. */
static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct fake *f = fake_of((int)regs[REG_RDI]);
    int saved = errno;
    (void)number, (void)info;
    fuzz_check(f && f->kind == VCPU);
    regs[REG_RAX] = run_vcpu(f) < 0 ? -errno : 0;
    errno = saved;
}

static void trap_runs(void)
{
    static struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog filter = { MK_COUNT(code), code };
    const struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
    static bool done;
    if (done)
        return;
    done = true;
    fuzz_check(sigaction(SIGSYS, &action, NULL) == 0 &&
               prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
               prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (strcmp(path, "/dev/kvm") == 0) {
        trap_runs();
        return new_fake(SYSTEM, -1);
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* It is taken for one that is neither Intel's nor AMD's, and can do nothing by itself: src/x86/weak
 * helps. */
int access(const char *path, int mode)
{
    if (strncmp(path, "/sys/module/kvm_", 16) == 0) {
        errno = ENOENT;
        return strcmp(path, "/sys/module/kvm_pvm") == 0 ? 0 : -1;
    }
    return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

/* --- the guest --- */

/* As the guest's own write: false where a debugger has protected the page. */
static bool poke(struct fake *vm, uint64_t gpa, const uint8_t *bytes, size_t length)
{
    for (unsigned i = 0; i < vm->slots && length; i++) {
        const struct kvm_userspace_memory_region *s = &vm->slot[i];
        if (gpa < s->guest_phys_addr || s->flags & KVM_MEM_READONLY ||
            !mk_inside(gpa - s->guest_phys_addr, length, s->memory_size))
            continue;
        uint64_t host = s->userspace_addr + (gpa - s->guest_phys_addr);
        const struct iovec from = { (void *)(uintptr_t)bytes, length };
        const struct iovec to = { (void *)(uintptr_t)host, length };
        return process_vm_writev(getpid(), &from, 1, &to, 1, 0) == (ssize_t)length;
    }
    return true;
}

/* Ports that somebody may serve, and BARs where BIOSes and specs put them. */
static uint16_t port(struct fuzz_in *in)
{
    static const uint16_t bases[] = { 0x20,  0x40,   0x60,   0x70,   0x92,   0xa0,  0xe9,
                                      0xf4,  0x1f0,  0x278,  0x27c,  0x3b0,  0x3c0, 0x3d0,
                                      0x3f0, 0x3f8,  0x4d0,  0x500,  0x505,  0x510, 0x170,
                                      0x376, 0x8900, 0xc000, 0xc040, 0xc080, 0xcf8, 0xcfc };
    unsigned which = fuzz_u8(in);
    return which < 28 ? bases[which] : bases[which % 28] + which / 28 - 1;
}

static uint64_t address(struct fuzz_in *in)
{
    static const uint64_t bases[] = { 0xe0000000, 0xe0004000, 0xe0008000, 0xe000c000,
                                      0xe0100000, 0xa0000,    0xb8000,    0xfec00000 };
    unsigned which = fuzz_u8(in);
    return bases[which & 7] + ((uint64_t)(which >> 3 & 7) << 12) + fuzz_u16(in) % 0x1100;
}

static int io_exit(struct fake *f, struct fuzz_in *in, bool out)
{
    struct kvm_run *run = f->run;
    uint8_t *data = (uint8_t *)run + MK_PAGE;
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = out;
    run->io.port = port(in);
    uint8_t shape = fuzz_u8(in);
    run->io.size = (uint8_t)(1u << (shape & 3) % 3);
    run->io.count = shape & 0x80 ? 1 + (shape >> 2 & 31) : 1;
    run->io.data_offset = MK_PAGE;
    for (unsigned i = 0; out && i < run->io.count * run->io.size; i++)
        data[i] = fuzz_u8(in);
    return 0;
}

static int mmio_exit(struct fake *f, struct fuzz_in *in, bool write)
{
    struct kvm_run *run = f->run;
    uint64_t value;
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = address(in);
    run->mmio.is_write = write;
    run->mmio.len = fuzz_size(in);
    value = write ? fuzz_number(in, run->mmio.len) : 0;
    memcpy(run->mmio.data, &value, 8);
    return 0;
}

/* A write of configuration space, which takes two accesses: the first goes before the second. */
static int config_exit(struct fake *f, struct fuzz_in *in)
{
    static uint32_t next;
    struct kvm_run *run = f->run;
    uint8_t *data = (uint8_t *)run + MK_PAGE;
    uint32_t value = next;
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = KVM_EXIT_IO_OUT;
    run->io.size = 4;
    run->io.count = 1;
    run->io.data_offset = MK_PAGE;
    run->io.port = next ? 0xcfc : 0xcf8;
    if (!next) {
        value = 0x80000000u | (fuzz_u8(in) & 7u) << 11 | (fuzz_u8(in) & 0xfcu);
        next = 1;
    } else {
        value = fuzz_u32(in);
        next = 0;
    }
    memcpy(data, &value, 4);
    return 0;
}

static int msr_exit(struct fake *f, struct fuzz_in *in)
{
    uint8_t shape = fuzz_u8(in);
    f->run->exit_reason = shape & 1 ? KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR;
    f->run->msr.index = shape & 2 ? 0x4b564d00u + (shape >> 2) : fuzz_u32(in);
    f->run->msr.data = fuzz_number(in, 8);
    f->run->msr.error = 0;
    return 0;
}

static void set_register(struct fake *f, struct fuzz_in *in)
{
    unsigned which = fuzz_u8(in) & 7;
    __u64 *regs[] = { &f->regs.rax, &f->regs.rbx, &f->regs.rcx, &f->regs.rdx,
                      &f->regs.rsi, &f->regs.rdi, &f->regs.rip, &f->regs.rsp };
    *regs[which] = fuzz_number(in, fuzz_size(in));
}

/* A BIOS's code is where it calls its service: its registers are those of who called it. */
static int trap_exit(struct fake *f, struct fuzz_in *in)
{
    uint8_t which = fuzz_u8(in), more = fuzz_u8(in);
    f->regs.rip = traps.ip[which % traps.count];
    f->regs.rsp = 0x7000;
    f->sregs.cs.selector = 0xf000;
    f->sregs.cs.base = 0xf0000;
    f->regs.rax = fuzz_number(in, more & 0x80 ? 4 : 2);
    f->regs.rbx = more & 1 ? fuzz_u16(in) : f->regs.rbx;
    f->regs.rcx = more & 2 ? fuzz_u16(in) : f->regs.rcx;
    f->regs.rdx = more & 4 ? fuzz_u16(in) : f->regs.rdx;
    f->regs.rsi = more & 8 ? fuzz_u16(in) : f->regs.rsi;
    f->regs.rdi = more & 16 ? fuzz_u16(in) : f->regs.rdi;
    if (more & 32)
        f->sregs.es.base = 16u * (f->sregs.es.selector = fuzz_u16(in));
    f->run->exit_reason = KVM_EXIT_IO;
    f->run->io.direction = KVM_EXIT_IO_OUT;
    f->run->io.port = traps.port;
    f->run->io.size = f->run->io.count = 1;
    f->run->io.data_offset = MK_PAGE;
    return 0;
}

/* An instruction that KVM could not emulate: where the guest's tables and its stack are as they
 * are. */
static int failure_exit(struct fake *f)
{
    f->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    f->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    f->run->internal.ndata = 0;
    return 0;
}

/* A breakpoint's instruction, a debug register's, or a step's. */
static int debug_exit(struct fake *f, struct fuzz_in *in)
{
    uint8_t how = fuzz_u8(in);
    f->run->exit_reason = KVM_EXIT_DEBUG;
    f->run->debug.arch.exception = how & 1 ? 3 : 1;
    f->run->debug.arch.pc = f->regs.rip;
    f->run->debug.arch.dr6 = 0xffff0ff0u | (how >> 1 & 15u) | (how & 0x20 ? 0x4000u : 0);
    return 0;
}

static void set_system_register(struct fake *f, struct fuzz_in *in)
{
    struct kvm_sregs *s = &f->sregs;
    switch (fuzz_u8(in) & 15) {
    case 0: s->cr0 ^= UINT64_C(1) << (fuzz_u8(in) & 31); break;
    case 1: s->cr3 = fuzz_u32(in); break;
    case 2: s->cr4 ^= UINT64_C(1) << (fuzz_u8(in) & 15); break;
    case 3: s->idt.base = fuzz_u32(in); break;
    case 4: s->idt.limit = fuzz_u16(in); break;
    case 5: s->gdt.base = fuzz_u32(in); break;
    case 6: s->gdt.limit = fuzz_u16(in); break;
    case 7: s->tr.base = fuzz_u32(in); break;
    case 8: s->tr.limit = fuzz_u16(in); break;
    case 9: s->cs.selector = fuzz_u16(in); break;
    case 10: s->ss.selector = fuzz_u16(in); break;
    case 11: s->cs.base = fuzz_u32(in); break;
    case 12: s->ss.base = fuzz_u32(in); break;
    case 13: s->cs.db ^= 1; break;
    case 14: s->ss.db ^= 1; break;
    default: f->regs.rflags ^= UINT64_C(1) << (fuzz_u8(in) & 31); break;
    }
}

static int run_vcpu(struct fake *f)
{
    struct fuzz_in *in = &program;
    struct fake *vm = fake_of(f->vm);
    f->run->ready_for_interrupt_injection = 1;
    f->run->if_flag = (uint8_t)(f->regs.rflags >> 9 & 1);
    if (f->run->immediate_exit) {
        errno = EINTR;
        return -1;
    }
    while (in->left && vm) {
        fuzz_steps++;
        uint8_t op = fuzz_u8(in);
        if (op < 0x30) {
            size_t length;
            uint64_t gpa = fuzz_u16(in);
            const uint8_t *bytes = fuzz_bytes(in, op, &length);
            if (!poke(vm, gpa, bytes, length)) {
                errno = EFAULT;
                return -1;
            }
        } else if (op < 0x40) {
            set_register(f, in);
        } else if (op < 0x78) {
            return io_exit(f, in, true);
        } else if (op < 0x90) {
            return io_exit(f, in, false);
        } else if (op < 0xc0) {
            return mmio_exit(f, in, true);
        } else if (op < 0xd8) {
            return mmio_exit(f, in, false);
        } else if (op < 0xe8) {
            return config_exit(f, in);
        } else if (op < 0xf0) {
            return msr_exit(f, in);
        } else if (op == 0xf0) {
            f->regs.rflags ^= 0x200;
        } else if (op == 0xf2) {
            return failure_exit(f);
        } else if (op == 0xf3) {
            set_system_register(f, in);
        } else if (op >= 0xf4) {
            return traps.count ? trap_exit(f, in) : debug_exit(f, in);
        } else if (op == 0xf1) {
            f->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
            return 0;
        }
    }
    f->run->exit_reason = KVM_EXIT_SHUTDOWN;
    return 0;
}

/* --- requests --- */

static int cpuid(struct kvm_cpuid2 *list)
{
    static const struct kvm_cpuid_entry2 leaves[] = {
        { .function = 0, .eax = 7, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
        { .function = 1, .eax = 0x306c3, .ecx = 0x7ffafbff, .edx = 0xbfebfbff },
        { .function = 0x40000000, .eax = 0x40000001 },
        { .function = 0x80000000, .eax = 0x80000008 },
        { .function = 0x80000001, .ecx = 0x21, .edx = 0x2c100800 },
        { .function = 0x80000008, .eax = 0x3027 },
    };
    memcpy(list->entries, leaves, sizeof(leaves));
    list->nent = MK_COUNT(leaves);
    return 0;
}

static int capability(long which)
{
    switch (which) {
    case KVM_CAP_USER_MEMORY:
    case KVM_CAP_IMMEDIATE_EXIT:
    case KVM_CAP_READONLY_MEM:
    case KVM_CAP_SET_GUEST_DEBUG: return 1;
    case KVM_CAP_X86_USER_SPACE_MSR:
    case KVM_CAP_X86_MSR_FILTER: return 1;
    case KVM_CAP_MAX_VCPUS:
    case KVM_CAP_NR_VCPUS: return 4;
    default: return 0;
    }
}

static int set_slot(struct fake *f, const struct kvm_userspace_memory_region *s)
{
    fuzz_check(s->slot < SLOTS);
    f->slot[s->slot] = *s;
    if (f->slots <= s->slot)
        f->slots = s->slot + 1;
    return 0;
}

static int msrs(struct kvm_msrs *list, bool get)
{
    for (unsigned i = 0; get && i < list->nmsrs; i++)
        list->entries[i].data = 0;
    return (int)list->nmsrs;
}

/* Without 32-bit paging: the bit is dropped. */
static int set_sregs(struct fake *f, const struct kvm_sregs *s)
{
    f->sregs = *s;
    if (!(s->efer & 0x500))
        f->sregs.cr0 &= ~UINT64_C(0x80000000);
    return 0;
}

#define GET(field) (memcpy(arg, &f->field, sizeof(f->field)), 0)
#define SET(field) (memcpy(&f->field, arg, sizeof(f->field)), 0)

static int serve_vcpu(struct fake *f, unsigned long request, void *arg)
{
    switch (request) {
    case KVM_RUN: return run_vcpu(f);
    case KVM_GET_REGS: return GET(regs);
    case KVM_SET_REGS: return SET(regs);
    case KVM_GET_SREGS: return GET(sregs);
    case KVM_SET_SREGS: return set_sregs(f, arg);
    case KVM_GET_DEBUGREGS: return GET(debugregs);
    case KVM_SET_DEBUGREGS: return SET(debugregs);
    case KVM_GET_VCPU_EVENTS: return GET(events);
    case KVM_SET_VCPU_EVENTS: return SET(events);
    case KVM_GET_MP_STATE: return GET(mp);
    case KVM_SET_MP_STATE: return SET(mp);
    case KVM_GET_FPU: memset(arg, 0, sizeof(struct kvm_fpu)); return 0;
    case KVM_GET_XCRS: memset(arg, 0, sizeof(struct kvm_xcrs)); return 0;
    case KVM_GET_MSRS: return msrs(arg, true);
    case KVM_SET_MSRS: return msrs(arg, false);
    case KVM_GET_TSC_KHZ: return 1000000;
    default: return 0;
    }
}

static int serve(int fd, struct fake *f, unsigned long request, void *arg)
{
    switch (request) {
    case KVM_GET_API_VERSION: return KVM_API_VERSION;
    case KVM_GET_VCPU_MMAP_SIZE: return RUN_SIZE;
    case KVM_CHECK_EXTENSION: return capability((long)arg);
    case KVM_GET_SUPPORTED_CPUID: return cpuid(arg);
    case KVM_GET_MSR_INDEX_LIST: ((struct kvm_msr_list *)arg)->nmsrs = 0; return 0;
    case KVM_CREATE_VM: return new_fake(VM, -1);
    case KVM_CREATE_VCPU: return new_fake(VCPU, fd);
    case KVM_SET_USER_MEMORY_REGION: return set_slot(f, arg);
    case KVM_GET_DIRTY_LOG: return 0; /* nothing, and what is there stays zero */
    case KVM_GET_TSC_KHZ: return 1000000;
    default: return f->kind == VCPU ? serve_vcpu(f, request, arg) : 0;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    struct fake *f = fake_of(fd);
    return f ? serve(fd, f, request, arg) : (int)syscall(SYS_ioctl, fd, request, arg);
}
