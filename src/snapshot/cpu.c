/* cpu.c - see cpu.h. */
#include "snapshot/cpu.h"

#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MSRS_MAX 4096
#define FPU_MAX (64u << 10)
#define COMPLETIONS 64 /* parts of an access that is still under way */

/* --- which MSRs can be kept ---
 *
 * KVM lists some that it cannot read or set for such a vCPU. They are found out once, because that
 * takes two calls each, and are the same for all VMs of this host. */

static struct {
    pthread_mutex_t lock;
    uint32_t count;
    uint32_t *index; /* NULL: not known yet */
} known = { .lock = PTHREAD_MUTEX_INITIALIZER };

static size_t msrs_size(uint32_t count)
{
    return sizeof(struct kvm_msrs) + count * sizeof(struct kvm_msr_entry);
}

static struct kvm_msrs *new_msrs(uint32_t count)
{
    struct kvm_msrs *msrs = calloc(1, msrs_size(count));
    if (msrs)
        msrs->nmsrs = count;
    return msrs;
}

static struct kvm_msr_list *listed_msrs(const struct mk_kvm *kvm)
{
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + MSRS_MAX * sizeof(list->indices[0]));
    if (list)
        list->nmsrs = MSRS_MAX;
    if (list && mk_ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
        free(list);
        return NULL;
    }
    return list;
}

/* *told: false when that cannot be told. */
static bool usable(const struct mk_vcpu *c, uint32_t index, bool *told)
{
    uint64_t value = 0;
    bool is =
        mk_vcpu_msr(c, KVM_GET_MSRS, index, &value) && mk_vcpu_msr(c, KVM_SET_MSRS, index, &value);
    *told = is || errno == EINVAL;
    return is;
}

static bool find_msrs(struct mk_vcpu *c)
{
    struct kvm_msr_list *list = listed_msrs(c->kvm);
    uint32_t *index = list ? malloc((list->nmsrs + 1) * sizeof(*index)) : NULL;
    uint32_t count = 0;
    bool told = true;
    for (uint32_t i = 0; index && i < list->nmsrs && told; i++)
        if (usable(c, list->indices[i], &told))
            index[count++] = list->indices[i];
    free(list);
    if (!index || !told) {
        free(index);
        return false;
    }
    known.count = count;
    known.index = index;
    return true;
}

static int get_msrs(struct mk_vcpu *c, struct mk_cpu_state *state)
{
    pthread_mutex_lock(&known.lock);
    bool found = known.index || find_msrs(c);
    pthread_mutex_unlock(&known.lock); /* never changed afterwards */
    if (!found)
        return -1;
    struct kvm_msrs *msrs = new_msrs(known.count);
    if (!msrs) {
        errno = ENOMEM;
        return -1;
    }
    state->msrs = (struct mk_bytes){ .data = (uint8_t *)msrs, .length = msrs_size(known.count) };
    for (uint32_t i = 0; i < known.count; i++)
        msrs->entries[i].index = known.index[i];
    int got = mk_ioctl(c->fd, KVM_GET_MSRS, msrs);
    if (got >= 0 && (uint32_t)got < known.count)
        errno = EIO;
    return got == (int)known.count ? 0 : -1;
}

/* --- capture --- */

static int get_fpu(struct mk_vcpu *c, struct mk_cpu_state *state)
{
    state->has_xsave = c->kvm->xsave_size > 0;
    state->fpu.length = state->has_xsave ? c->kvm->xsave_size : sizeof(struct kvm_fpu);
    state->fpu.data = calloc(1, state->fpu.length);
    if (!state->fpu.data) {
        errno = ENOMEM;
        return -1;
    }
    bool wide = state->fpu.length > sizeof(struct kvm_xsave);
    unsigned long get = !state->has_xsave ? KVM_GET_FPU : wide ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    return mk_ioctl(c->fd, get, state->fpu.data);
}

/* A part of an access that is still under way would be finished in the state that is restored. */
static void complete(struct mk_vcpu *c)
{
    for (int i = 0; i < COMPLETIONS && c->incomplete; i++)
        mk_vcpu_complete(c);
}

int mk_cpu_save(struct mk_vcpu *c, struct mk_cpu_state *state, struct mk_err *err)
{
    *state = (struct mk_cpu_state){ 0 };
    complete(c);
    int fd = c->fd;
    if (mk_ioctl(fd, KVM_GET_REGS, &state->regs) < 0 ||
        mk_vcpu_get_guest_sregs(c, &state->sregs) < 0 ||
        mk_ioctl(fd, KVM_GET_VCPU_EVENTS, &state->events) < 0 ||
        mk_ioctl(fd, KVM_GET_DEBUGREGS, &state->debug) < 0 ||
        mk_ioctl(fd, KVM_GET_MP_STATE, &state->mp) < 0 ||
        (mk_ioctl(fd, KVM_GET_XCRS, &state->xcrs) < 0 && errno != EINVAL) ||
        get_fpu(c, state) < 0 || get_msrs(c, state) < 0) {
        mk_fail_errno(err, errno, "KVM does not give the state of cpu %u", c->cpu.index);
        mk_cpu_state_free(state);
        return -1;
    }
    state->injectable = c->run->ready_for_interrupt_injection;
    state->exit_reason = c->run->exit_reason;
    return 0;
}

void mk_cpu_state_free(struct mk_cpu_state *state)
{
    mk_bytes_free(&state->fpu);
    mk_bytes_free(&state->msrs);
}

/* --- as bytes --- */

#define CPU struct mk_cpu_state
static const struct mk_field kvm_fields[] = {
    MK_RAW(CPU, regs),
    MK_RAW(CPU, sregs),
    MK_RAW(CPU, events),
    MK_RAW(CPU, debug),
    MK_RAW(CPU, mp),
    MK_RAW(CPU, xcrs),
    MK_RANGE(CPU, xcrs.nr_xcrs, 0, KVM_MAX_XCRS),
    MK_FLAG(CPU, has_xsave),
    MK_BLOB(CPU, fpu.data, fpu.length, FPU_MAX),
    MK_BLOB(CPU, msrs.data, msrs.length, UINT16_MAX),
    MK_FLAG(CPU, injectable),
    MK_RAW(CPU, exit_reason),
    { 0 },
};

#define OWN struct mk_vcpu
static const struct mk_field own_fields[] = {
    MK_RAW(OWN, irq.queued),
    MK_FLAG(OWN, irq.nmi),
    MK_RAW(OWN, irq.last),
    MK_RAW(OWN, irq.delivered),
    MK_RAW(OWN, last_rip),
    MK_RANGE(OWN, end.reason, 0, MK_REASONS - 1),
    MK_RAW(OWN, end.code),
    MK_FLAG(OWN, end.whole_vm),
    MK_FLAG(OWN, end.resumable),
    MK_TEXT(OWN, end.text),
    MK_RAW(OWN, code),
    MK_RANGE(OWN, code_length, 0, sizeof(((OWN *)NULL)->code)),
    { 0 },
};

static bool blobs_fit(const struct mk_cpu_state *s)
{
    const struct kvm_msrs *msrs = (const void *)s->msrs.data;
    size_t length = s->fpu.length;
    return (s->has_xsave ? length >= sizeof(struct kvm_xsave) : length == sizeof(struct kvm_fpu)) &&
           s->msrs.length >= sizeof(*msrs) && s->msrs.length == msrs_size(msrs->nmsrs);
}

void mk_cpu_code(struct mk_codec *k, struct mk_vcpu *c, struct mk_cpu_state *state)
{
    mk_codec_fields(k, kvm_fields, state);
    mk_codec_fields(k, own_fields, c);
    mk_codec_check(k, mk_codec_failed(k) || blobs_fit(state));
}

/* --- restore --- */

/* KVM stops at the first that it refuses. A snapshot of another host may hold one that this
 * processor does not have; it is left out when it says nothing. */
static int set_msrs(struct mk_vcpu *c, const struct kvm_msrs *msrs, struct mk_err *err)
{
    if (mk_ioctl(c->fd, KVM_SET_MSRS, (void *)msrs) == (int)msrs->nmsrs)
        return 0;
    for (uint32_t done = 0; done < msrs->nmsrs; done++) {
        struct kvm_msrs *rest = new_msrs(msrs->nmsrs - done);
        if (!rest)
            return mk_fail_errno(err, ENOMEM, "the MSRs of cpu %u", c->cpu.index);
        memcpy(rest->entries, msrs->entries + done, rest->nmsrs * sizeof(rest->entries[0]));
        int set = mk_ioctl(c->fd, KVM_SET_MSRS, rest);
        free(rest);
        if (set < 0)
            return mk_fail_errno(err, errno, "KVM refuses the MSRs of cpu %u", c->cpu.index);
        done += (uint32_t)set;
        if (done < msrs->nmsrs && msrs->entries[done].data)
            return mk_fail(err, ENOTSUP,
                           "KVM refuses 0x%llx for MSR 0x%x of cpu %u: the snapshot "
                           "is of another kind of processor",
                           (unsigned long long)msrs->entries[done].data, msrs->entries[done].index,
                           c->cpu.index);
    }
    return 0;
}

static int set_fpu(struct mk_vcpu *c, const struct mk_cpu_state *state)
{
    if (!state->has_xsave)
        return mk_ioctl(c->fd, KVM_SET_FPU, state->fpu.data);
    if (state->fpu.length != c->kvm->xsave_size) {
        errno = ENOTSUP; /* of another processor; KVM would read beyond it */
        return -1;
    }
    return mk_ioctl(c->fd, KVM_SET_XSAVE, state->fpu.data);
}

/* What follows from what was read, and what a new run begins with. */
static void set_own(struct mk_vcpu *c, const struct mk_cpu_state *state)
{
    bool any = false;
    for (unsigned i = 0; i < MK_COUNT(c->irq.queued); i++)
        any |= c->irq.queued[i] != 0;
    atomic_store(&c->irq.any, any);
    c->irq.burst = 0;
    c->irq.hold_until = 0;
    c->run->ready_for_interrupt_injection = state->injectable;
    c->run->exit_reason = state->exit_reason;
}

/* The guest's page tables may have changed in memory, and the processor still know the old ones.
 * KVM lets it forget them when CR3 changes: it gets another value before its own. */
static int flush_tlb(struct mk_vcpu *c, const struct kvm_sregs *want)
{
    struct kvm_sregs other = *want;
    other.cr3 ^= MK_PAGE;
    return want->cr0 & MK_CR0_PG ? mk_vcpu_set_sregs(c, &other) : 0;
}

int mk_cpu_load(struct mk_vcpu *c, const struct mk_cpu_state *state, const struct kvm_sregs *sregs,
                struct mk_err *err)
{
    struct mk_cpu_state s = *state; /* the ioctls take no constants */
    struct kvm_sregs have;
    c->loads++;
    complete(c);
    c->synced = 0;
    c->run->kvm_dirty_regs = 0;
    if (flush_tlb(c, sregs) < 0 || mk_vcpu_set_sregs(c, sregs) < 0 ||
        mk_vcpu_get_sregs(c, &have) < 0)
        return mk_fail_errno(err, errno, "KVM refuses the system registers of cpu %u",
                             c->cpu.index);
    if (have.cr0 != sregs->cr0 || have.cr4 != sregs->cr4 || have.efer != sregs->efer)
        return mk_fail(err, ENOTSUP, "this KVM does not run a guest in the mode that cpu %u was in",
                       c->cpu.index);
    if ((s.xcrs.nr_xcrs && mk_ioctl(c->fd, KVM_SET_XCRS, &s.xcrs) < 0) || set_fpu(c, &s) < 0)
        return mk_fail_errno(err, errno, "KVM refuses the FPU's state of cpu %u", c->cpu.index);
    if (set_msrs(c, (const struct kvm_msrs *)(void *)s.msrs.data, err) < 0)
        return -1;
    if (mk_vcpu_set_regs(c, &s.regs) < 0 || mk_ioctl(c->fd, KVM_SET_DEBUGREGS, &s.debug) < 0 ||
        mk_ioctl(c->fd, KVM_SET_MP_STATE, &s.mp) < 0 ||
        mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &s.events) < 0)
        return mk_fail_errno(err, errno, "KVM refuses the registers of cpu %u", c->cpu.index);
    set_own(c, &s);
    return 0;
}
