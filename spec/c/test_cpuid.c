/* test_cpuid.c - what vCPUs are told of their number, as data: no KVM, no Lua. Any processor's list
 * can be tried here. Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.4. */
#include "base/abi.h"
#include "tap.h"
#include "vm/vm.h"
#include "x86/cpuid.h"

#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

struct list {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entry[16];
};

static void add(struct list *list, uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx,
                uint32_t ecx, uint32_t edx)
{
    list->entry[list->head.nent++] =
        (struct kvm_cpuid_entry2){ .function = function,
                                   .index = index,
                                   .flags = function == 4 || function == 0xb || function == 0x1f ||
                                                    function == 0x8000001d
                                                ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                                                : 0,
                                   .eax = eax,
                                   .ebx = ebx,
                                   .ecx = ecx,
                                   .edx = edx };
}

static struct kvm_cpuid_entry2 get(const struct kvm_cpuid2 *list, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < list->nent; i++)
        if (list->entries[i].function == function && list->entries[i].index == index)
            return list->entries[i];
    return (struct kvm_cpuid_entry2){ .function = UINT32_MAX };
}

/* As vCPU `index` of so many is told. */
static struct kvm_cpuid2 *told(const struct list *host, unsigned cpus, unsigned index)
{
    struct kvm_cpuid2 *all = mk_cpuid_new(&host->head, cpus, 0);
    struct kvm_cpuid2 *own = mk_cpuid_copy(all, index);
    free(all);
    return own;
}

/* Asked on processor 37 of two dies of a host. */
static struct list intel(void)
{
    struct list host = { 0 };
    add(&host, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69); /* GenuineIntel */
    add(&host, 1, 0, 0x606a6, 0x25400800, 0, 0);
    add(&host, 4, 0, 0xfc004121, 0x02c0003f, 63, 0); /* level 1, of one core */
    add(&host, 4, 3, 0xfc1fc163, 0x04c0003f, 0xffff, 0);
    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
        add(&host, leaf, 0, 1, 2, 0x100, 37);
        add(&host, leaf, 1, 7, 128, 0x201, 37);
        add(&host, leaf, 2, 8, 256, 0x502, 37); /* dies */
    }
    return host;
}

static void test_intel(unsigned cpus, unsigned bits)
{
    struct list host = intel();
    struct kvm_cpuid2 *list = told(&host, cpus, cpus - 1);
    tap_is(get(list, 1, 0).ebx, (cpus - 1) << 24 | cpus << 16 | 0x0800, "leaf 1: APIC id, number");
    tap_is(get(list, 1, 0).edx >> 28 & 1, cpus > 1, "HTT");
    tap_is(get(list, 4, 0).eax, ((1u << bits) - 1) << 26 | 0x121, "leaf 4: cores; a core's own");
    tap_is(get(list, 4, 3).eax, ((1u << bits) - 1) << 26 | ((1u << bits) - 1) << 14 | 0x163,
           "leaf 4: what all share");
    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
        struct kvm_cpuid_entry2 e = get(list, leaf, 0);
        tap_ok(e.eax == 0 && e.ebx == 1 && e.ecx == 0x100 && e.edx == cpus - 1, "a thread a core");
        e = get(list, leaf, 1);
        tap_ok(e.eax == bits && e.ebx == cpus && e.ecx == 0x201 && e.edx == cpus - 1, "the cores");
        e = get(list, leaf, 2);
        tap_ok(e.eax == 0 && e.ebx == 0 && e.ecx == 2 && e.edx == cpus - 1, "no dies");
    }
    free(list);
}

static void test_amd(unsigned cpus, unsigned bits)
{
    struct list host = { 0 };
    add(&host, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65); /* AuthenticAMD */
    add(&host, 1, 0, 0x830f10, 0x25400800, 0, 0);
    add(&host, 0x80000008, 0, 0x3030, 0, 0x0100707f, 0);
    add(&host, 0x8000001d, 3, 0x3c163, 0, 0, 0);
    add(&host, 0x8000001e, 0, 37, 0x112, 1, 0);
    struct kvm_cpuid2 *list = told(&host, cpus, cpus - 1);
    tap_is(get(list, 1, 0).ebx, (cpus - 1) << 24 | cpus << 16 | 0x0800, "leaf 1: APIC id, number");
    tap_is(get(list, 0x80000008, 0).ecx, 0x01000000 | bits << 12 | (cpus - 1), "NC, ApicIdSize");
    tap_is(get(list, 0x8000001d, 3).eax, ((1u << bits) - 1) << 14 | 0x163, "what all share");
    struct kvm_cpuid_entry2 e = get(list, 0x8000001e, 0);
    tap_ok(e.eax == cpus - 1 && e.ebx == cpus - 1 && e.ecx == 0, "id, core, node 0");
    free(list);
}

/* A KVM that cannot be asked takes four (api.rst 4.7, KVM_CREATE_VCPU). */
static void test_limit(void)
{
    struct mk_kvm none = { .fd = -1 };
    struct mk_err err = { 0 };
    tap_is(mk_vm_check_cpus(&none, MK_MODE_REAL, MIB, 4, &err), 0, "four");
    tap_is(mk_vm_check_cpus(&none, MK_MODE_REAL, MIB, 5, &err), -1, "not five");
    tap_ok(strstr(err.text, "cpus = 5: this host's KVM takes 4 for a VM (KVM_CAP_MAX_VCPUS)"),
           err.text);
    tap_is(mk_vm_check_cpus(&none, MK_MODE_REAL, MIB, 0, &err), -1, "none");
    tap_ok(strstr(err.text, "cpus = 0: a VM has 1 to 64"), err.text);
    tap_is(mk_vm_check_cpus(&none, MK_MODE_LONG, 4 * 0x4000, 4, &err), -1, "no room for stacks");
    tap_ok(strstr(err.text, "4 vCPUs need 131072 (a stack of 16 KiB each"), err.text);
}

static void test_windows(void)
{
    static const struct {
        unsigned cpus, window;
    } want[] = { { 1, 0x40000 },  { 4, 0x40000 }, { 5, 0x20000 }, { 8, 0x20000 }, { 9, 0x10000 },
                 { 16, 0x10000 }, { 17, 0x8000 }, { 32, 0x8000 }, { 33, 0x4000 }, { 64, 0x4000 } };
    for (size_t i = 0; i < MK_COUNT(want); i++)
        tap_is(mk_real_window(want[i].cpus), want[i].window, "a window");
}

int main(void)
{
    test_intel(1, 0);
    test_intel(5, 3);
    test_intel(64, 6);
    test_amd(1, 0);
    test_amd(5, 3);
    test_amd(64, 6);
    test_limit();
    test_windows();
    return tap_done();
}
