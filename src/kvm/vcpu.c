/* vcpu.c - see vcpu.h. */
#include "kvm/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- kick ---
 *
 * Whoever wants a vCPU's attention sets a request, sets kvm_run->immediate_exit and signals the
 * thread. In the guest, the signal ends KVM_RUN; on the way into it, immediate_exit does. The vCPU
 * clears immediate_exit before it looks at the requests, so none is lost in between. */

/* In the signal's handler, on the vCPU's thread. */
static void kicked(void *vcpu)
{
    struct mk_vcpu *c = vcpu;
    mk_vcpu_set_immediate_exit(c, true);
    if (c->ops->kicked)
        c->ops->kicked(c);
}

void mk_vcpu_request(struct mk_vcpu *c, uint32_t request)
{
    atomic_fetch_or(&c->requests, request);
    pthread_mutex_lock(&c->lock);
    if (c->running) {
        mk_vcpu_set_immediate_exit(c, true);
        if (!pthread_equal(c->thread, pthread_self()))
            pthread_kill(c->thread, mk_kick_signal());
    }
    pthread_mutex_unlock(&c->lock);
}

bool mk_vcpu_is_current(struct mk_vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    bool current = c->running && pthread_equal(c->thread, pthread_self());
    pthread_mutex_unlock(&c->lock);
    return current;
}

void mk_vcpu_stop(struct mk_vcpu *c, enum mk_reason reason)
{
    int none = MK_RUNNING;
    atomic_compare_exchange_strong(&c->stop_reason, &none, (int)reason);
    mk_vcpu_request(c, MK_REQ_STOP);
}

void mk_vcpu_set_running(struct mk_vcpu *c, bool running)
{
    pthread_mutex_lock(&c->lock);
    c->thread = pthread_self();
    c->running = running;
    pthread_mutex_unlock(&c->lock);
    running ? mk_kick_add_handler(&c->kicks) : mk_kick_remove_handler(&c->kicks);
}

void mk_vcpu_signal(struct mk_vcpu *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->running)
        pthread_kill(c->thread, mk_kick_signal());
    pthread_mutex_unlock(&c->lock);
}

/* --- the end of a run --- */

void mk_vcpu_end_va(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                    const char *fmt, va_list ap)
{
    if (c->end.reason != MK_RUNNING)
        return;
    c->end.reason = reason;
    c->end.code = code;
    c->end.whole_vm = whole_vm;
    vsnprintf(c->end.text, sizeof(c->end.text), fmt, ap);
    if (whole_vm && c->ops->end_others)
        c->ops->end_others(c);
}

void mk_vcpu_end(struct mk_vcpu *c, enum mk_reason reason, int64_t code, bool whole_vm,
                 const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    mk_vcpu_end_va(c, reason, code, whole_vm, fmt, ap);
    va_end(ap);
}

/* --- life --- */

/* What a vCPU that is closed shows of itself: nothing happened. */
static struct kvm_run closed_run;

int mk_vcpu_open(struct mk_vcpu *c, struct mk_err *err)
{
    c->kicks = (struct mk_kick_handler){ .fn = kicked, .ctx = c };
    pthread_mutex_init(&c->lock, NULL);
    c->fd = mk_kvm_create_vcpu(c->vm_fd, c->cpu.index, err);
    if (c->fd < 0)
        return -1;
    c->run = mmap(NULL, c->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->run == MAP_FAILED) {
        c->run = &closed_run;
        mk_fail_errno(err, errno, "cannot map vCPU %u", c->cpu.index);
        mk_vcpu_close(c);
        return -1;
    }
    if (c->kvm->coalesced_pio)
        c->ring = (void *)((char *)c->run + c->kvm->coalesced_at);
    return 0;
}

void mk_vcpu_close(struct mk_vcpu *c)
{
    if (c->run && c->run != &closed_run)
        munmap(c->run, c->kvm->run_size);
    if (c->fd >= 0)
        close(c->fd);
    c->run = &closed_run;
    c->ring = NULL;
    c->fd = c->vm_fd = -1;
    c->incomplete = c->regs_known = false;
    c->synced = 0;
}

/* --- registers --- */

struct kvm_regs *mk_vcpu_get_regs(struct mk_vcpu *c)
{
    if (c->regs_known)
        return &c->regs;
    c->regs_known = mk_ioctl(c->fd, KVM_GET_REGS, &c->regs) == 0;
    if (!c->regs_known && mk_vcpu_is_current(c))
        mk_vcpu_end(c, MK_ERROR, 0, true, "KVM does not tell the registers: %s", strerror(errno));
    return &c->regs;
}

int mk_vcpu_get_state(struct mk_vcpu *c, struct kvm_sync_regs *state)
{
    const uint64_t all = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    if (c->synced == all || c->run->kvm_dirty_regs == all) { /* what was set counts already */
        *state = c->run->s.regs;
        return 0;
    }
    if (c->kvm->sync_state)
        c->run->kvm_valid_regs = all; /* from the next exit on */
    state->regs = *mk_vcpu_get_regs(c);
    if (!c->regs_known || mk_vcpu_get_sregs(c, &state->sregs) < 0)
        return -1;
    return mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &state->events);
}

#define TSS_AVAILABLE 9
#define TSS_BUSY 11

/* AMD's processors say of a guest's TSS that it is available, and KVM calls it busy. QEMU's
 * emulation of them, in which the tests run, insists on getting back what it gave. */
static void give_back_tss(const struct mk_vcpu *c, struct kvm_sregs *s)
{
    if (c->kvm->svm && s->tr.type == TSS_BUSY)
        s->tr.type = TSS_AVAILABLE;
}

int mk_vcpu_set_state(struct mk_vcpu *c, const struct kvm_sync_regs *state)
{
    struct kvm_sync_regs copy = *state;
    c->regs = state->regs;
    c->regs_known = true;
    if (c->kvm->sync_state) {
        give_back_tss(c, &copy.sregs);
        c->run->s.regs = copy;
        c->run->cr8 = copy.sregs.cr8;
        c->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
        c->incomplete = true; /* until the next entry */
        return 0;
    }
    if (mk_vcpu_set_sregs(c, &copy.sregs) < 0 || mk_ioctl(c->fd, KVM_SET_REGS, &copy.regs) < 0)
        return -1;
    return mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &copy.events);
}

/* ioctl(fd, KVM_RUN, NULL) without the way through the C library, which is one more page of code to
 * find at each exit; negative: an errno. */
static inline long call_run(int fd)
{
    long rc;
    __asm__ volatile("syscall"
                     : "=a"(rc)
                     : "0"((long)SYS_ioctl), "D"((long)fd), "S"((long)KVM_RUN), "d"(0L)
                     : "rcx", "r11", "memory");
    return rc;
}

MK_HOT int mk_vcpu_enter(struct mk_vcpu *c, bool only_complete)
{
    if (only_complete)
        mk_vcpu_set_immediate_exit(c, true);
    c->incomplete = false;
    c->regs_known = false;
    c->counters.entries++;
    long rc = call_run(c->fd);
    c->synced = c->run->kvm_valid_regs;
    if (rc == 0 && c->synced & KVM_SYNC_X86_REGS) {
        c->regs = c->run->s.regs.regs;
        c->regs_known = true;
    }
    if (rc < 0)
        errno = (int)-rc;
    return rc < 0 ? -1 : 0;
}

int mk_vcpu_set_regs(struct mk_vcpu *c, const struct kvm_regs *regs)
{
    struct kvm_regs copy = *regs;
    c->synced = 0;
    if (mk_ioctl(c->fd, KVM_SET_REGS, &copy) < 0)
        return -1;
    c->regs = copy;
    c->regs_known = true;
    return 0;
}

int mk_vcpu_get_sregs(struct mk_vcpu *c, struct kvm_sregs *sregs)
{
    return mk_ioctl(c->fd, KVM_GET_SREGS, sregs);
}

#define CR0_PG UINT64_C(0x80000000)

void mk_vcpu_show_paging(const struct mk_vcpu *c, struct kvm_sregs *sregs)
{
    if (mk_vcpu_is_assisted(c))
        sregs->cr0 |= CR0_PG;
}

void mk_vcpu_hide_paging(const struct mk_vcpu *c, struct kvm_sregs *sregs)
{
    if (mk_vcpu_is_assisted(c))
        sregs->cr0 &= ~CR0_PG;
}

int mk_vcpu_get_guest_sregs(struct mk_vcpu *c, struct kvm_sregs *sregs)
{
    if (mk_vcpu_get_sregs(c, sregs) < 0)
        return -1;
    mk_vcpu_show_paging(c, sregs);
    return 0;
}

int mk_vcpu_set_guest_sregs(struct mk_vcpu *c, const struct kvm_sregs *sregs)
{
    struct kvm_sregs copy = *sregs;
    mk_vcpu_hide_paging(c, &copy);
    return mk_vcpu_set_sregs(c, &copy);
}

/* Without an APIC in the kernel every entry loads CR8 from kvm_run (api.rst 5, cr8), and fails when
 * it is none (SDM volume 3, 11.8.6: four bits). */
int mk_vcpu_set_sregs(struct mk_vcpu *c, const struct kvm_sregs *sregs)
{
    struct kvm_sregs copy = *sregs;
    c->synced = 0;
    if (copy.cr8 > 15) {
        errno = EINVAL;
        return -1;
    }
    c->run->cr8 = copy.cr8;
    give_back_tss(c, &copy);
    return mk_ioctl(c->fd, KVM_SET_SREGS, &copy);
}

bool mk_vcpu_msr(const struct mk_vcpu *c, unsigned long request, uint32_t index, uint64_t *value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one = { { .nmsrs = 1 }, { .index = index, .data = *value } };
    int done = mk_ioctl(c->fd, request, &one);
    if (done == 0)
        errno = EINVAL; /* api.rst: it stopped at the first one that is not allowed */
    *value = one.entry.data;
    return done == 1;
}

void mk_vcpu_complete(struct mk_vcpu *c)
{
    if (!c->incomplete)
        return;
    c->incomplete = mk_vcpu_enter(c, true) == 0; /* an access in parts has more of them */
}

bool mk_vcpu_has_coalesced(const struct mk_vcpu *c)
{
    return c->ring && __atomic_load_n(&c->ring->first, __ATOMIC_RELAXED) !=
                          __atomic_load_n(&c->ring->last, __ATOMIC_RELAXED);
}
