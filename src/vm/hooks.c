/* hooks.c - what KVM itself has to be told of a script's hooks: which MSRs it hands to us, and what
 * CPUID answers.
 *
 * Follows Documentation/virt/kvm/api.rst: KVM_CAP_X86_USER_SPACE_MSR, KVM_X86_SET_MSR_FILTER,
 * KVM_SET_CPUID2. Called by whoever holds the Lua lock; mk_vm_msr() by a vCPU's thread. */
#include "vm/vm.h"

#include "x86/cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

/* --- MSRs --- */

#define FILTER_MSRS (8 * KVM_MSR_FILTER_MAX_BITMAP_SIZE) /* that one range of the filter covers */

/* A bit that is 0 means: not KVM's business. */
static void deny(uint8_t *bitmap, uint64_t first, uint64_t last)
{
    for (uint64_t bit = first; bit <= last; bit++)
        bitmap[bit / 8] &= (uint8_t) ~(1u << bit % 8);
}

static struct kvm_msr_filter_range *range_for(struct kvm_msr_filter *filter, unsigned *used,
                                              uint8_t (*bitmaps)[KVM_MSR_FILTER_MAX_BITMAP_SIZE],
                                              uint32_t msr)
{
    uint32_t base = msr / FILTER_MSRS * FILTER_MSRS;
    for (unsigned i = 0; i < *used; i++)
        if (filter->ranges[i].base == base)
            return &filter->ranges[i];
    if (*used == KVM_MSR_FILTER_MAX_RANGES)
        return NULL;
    struct kvm_msr_filter_range *range = &filter->ranges[*used];
    memset(bitmaps[*used], 0xff, sizeof(bitmaps[*used]));
    *range = (struct kvm_msr_filter_range){ .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                                            .base = base,
                                            .nmsrs = FILTER_MSRS,
                                            .bitmap = bitmaps[*used] };
    ++*used;
    return range;
}

static bool add_to_filter(struct kvm_msr_filter *filter, unsigned *used,
                          uint8_t (*bitmaps)[KVM_MSR_FILTER_MAX_BITMAP_SIZE],
                          const struct mk_hook *hook)
{
    for (uint64_t at = hook->first, end; at <= hook->last; at = end + 1) {
        struct kvm_msr_filter_range *range = range_for(filter, used, bitmaps, (uint32_t)at);
        if (!range)
            return false;
        end = (uint64_t)range->base + FILTER_MSRS - 1;
        if (end > hook->last)
            end = hook->last;
        deny(range->bitmap, at - range->base, end - range->base);
    }
    return true;
}

/* The x2APIC's, which KVM's filter never applies to (api.rst, KVM_X86_SET_MSR_FILTER). A KVM VM
 * without an APIC refuses them: they are had as MSRs that KVM does not know. */
#define X2APIC_FIRST 0x800
#define X2APIC_LAST 0x8ff

static bool hooks_x2apic(const struct mk_bus *msrs)
{
    const struct mk_hook *h = msrs->hooks;
    while (h && (h->last < X2APIC_FIRST || h->first > X2APIC_LAST))
        h = h->link;
    return h;
}

static int enable_msr_exits(struct mk_vm *vm, struct mk_err *err)
{
    bool refused = vm->unknown_msrs || hooks_x2apic(&vm->msrs);
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = { KVM_MSR_EXIT_REASON_FILTER |
                  (refused ? KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL : 0) }
    };
    if (mk_kvm_capability(vm->kvm, KVM_CAP_X86_MSR_FILTER) <= 0 ||
        mk_ioctl(vm->fd, KVM_ENABLE_CAP, &cap) < 0)
        return mk_fail(err, ENOTSUP,
                       "this kernel's KVM does not hand MSRs to programs (Linux 5.10 "
                       "and later do)");
    vm->msr_exits = true;
    return 0;
}

int mk_vm_filter_msrs(struct mk_vm *vm, struct mk_err *err)
{
    static const struct kvm_msr_filter open_to_all = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
    uint8_t(*bitmaps)[KVM_MSR_FILTER_MAX_BITMAP_SIZE] = NULL;
    struct kvm_msr_filter filter = open_to_all;
    unsigned used = 0;
    bool fits = true, any = vm->unknown_msrs || vm->msrs.hooks;
    if (!any && !vm->msr_exits)
        return 0;
    if (enable_msr_exits(vm, err) < 0)
        return -1;
    bitmaps = malloc(KVM_MSR_FILTER_MAX_RANGES * sizeof(*bitmaps));
    if (!bitmaps)
        return mk_fail_errno(err, ENOMEM, "MSR filter");
    for (const struct mk_hook *h = vm->msrs.hooks; h && fits; h = h->link)
        fits = add_to_filter(&filter, &used, bitmaps, h);
    int rc = fits ? mk_ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter) : 0;
    int code = errno;
    free(bitmaps);
    if (!fits)
        return mk_fail(err, ENOSPC, "too many MSRs far apart: KVM's filter has %d ranges of %d",
                       KVM_MSR_FILTER_MAX_RANGES, FILTER_MSRS);
    return rc < 0 ? mk_fail_errno(err, code, "KVM refuses the MSR filter") : 0;
}

/* KVM would have served it, had nobody hooked it: let it. What it does not know, or has refused, is
 * not asked again: what a program sets is checked less than what a guest does. What then nobody
 * serves raises #GP in the guest, as it does without hooks; it counts as unserved only where the
 * script asked for it, not when it came along with the x2APIC's. */
bool mk_vm_msr(void *ctx, struct mk_io *io, bool in, uint64_t *value, bool *script)
{
    struct mk_vm *vm = ctx;
    struct mk_vcpu *c = &vm->cpu[io->cpu->index]->c;
    bool filtered = c->run->msr.reason == KVM_MSR_EXIT_REASON_FILTER;
    if (filtered && mk_vcpu_msr(c, in ? KVM_GET_MSRS : KVM_SET_MSRS, (uint32_t)io->address, value))
        return true;
    if (vm->on_unhandled_msr && vm->on_unhandled_msr(vm->unhandled_msr_ctx, io, in, value, script))
        return true;
    c->msr_refused = true;
    return !filtered && !vm->unknown_msrs;
}

/* --- CPUID --- */

#define IA32_APIC_BASE 0x1bu

const struct kvm_cpuid2 *mk_vm_cpuid(const struct mk_vm *vm)
{
    return vm->cpuid ? vm->cpuid : vm->default_cpuid;
}

static int give_cpuid(const struct mk_vm *vm, unsigned cpu, const struct kvm_cpuid2 *list,
                      struct mk_err *err)
{
    struct kvm_cpuid2 *own = mk_cpuid_copy(list, cpu);
    if (!own)
        return mk_fail_errno(err, ENOMEM, "CPUID table");
    int rc = mk_kvm_set_cpuid(vm->cpu[cpu]->c.fd, own, err);
    free(own);
    return rc;
}

/* KVM keeps the APIC's bit in CPUID as the enable bit of IA32_APIC_BASE is (SDM volume 3, 11.4.3),
 * and that is set at first though there is no APIC. */
static void disable_apic(const struct mk_vcpu *c)
{
    uint64_t base = 0xfee00000 | (c->cpu.index == 0 ? 0x100 : 0);
    mk_vcpu_msr(c, KVM_SET_MSRS, IA32_APIC_BASE, &base);
}

static struct kvm_cpuid2 *make_default(const struct mk_vm *vm, struct mk_err *err)
{
    int khz = mk_ioctl(vm->fd, KVM_GET_TSC_KHZ, NULL); /* not of older kernels; cheaper */
    if (khz <= 0)
        khz = mk_ioctl(vm->cpu[0]->c.fd, KVM_GET_TSC_KHZ, NULL);
    struct kvm_cpuid2 *list = mk_cpuid_new(vm->kvm->cpuid, vm->cpus, khz > 0 ? (uint32_t)khz : 0);
    if (!list)
        mk_fail_errno(err, ENOMEM, "CPUID table");
    return list;
}

int mk_vm_init_cpuid(struct mk_vm *vm, unsigned cpu, struct mk_err *err)
{
    if (!vm->default_cpuid && !(vm->default_cpuid = make_default(vm, err)))
        return -1;
    disable_apic(&vm->cpu[cpu]->c);
    return give_cpuid(vm, cpu, mk_vm_cpuid(vm), err);
}

int mk_vm_update_cpuid(struct mk_vm *vm, struct mk_err *err)
{
    struct kvm_cpuid2 *list = make_default(vm, err);
    if (!list)
        return -1;
    free(vm->default_cpuid);
    vm->default_cpuid = list;
    for (unsigned i = 0; i < vm->cpus; i++)
        if (give_cpuid(vm, i, mk_vm_cpuid(vm), err) < 0)
            return -1;
    return 0;
}

int mk_vm_set_cpuid(struct mk_vm *vm, const struct kvm_cpuid2 *cpuid, struct mk_err *err)
{
    struct kvm_cpuid2 *copy = mk_cpuid_copy(cpuid, 0);
    if (!copy)
        return mk_fail_errno(err, ENOMEM, "CPUID table");
    for (unsigned i = 0; i < vm->cpus; i++)
        if (give_cpuid(vm, i, copy, err) < 0) {
            free(copy);
            return -1;
        }
    free(vm->cpuid);
    vm->cpuid = copy;
    return 0;
}
