/* cpuid.c - see cpuid.h. */
#include "x86/cpuid.h"

#include <asm/kvm_para.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_TSC_KHZ 0x40000010 /* of hypervisors that have it: VMware's and those who followed */

#define BIT(n) (1u << (n))

typedef struct kvm_cpuid_entry2 leaf;

static leaf *find(struct kvm_cpuid2 *list, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < list->nent; i++) {
        leaf *e = &list->entries[i];
        bool any = !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        if (e->function == function && (any || e->index == index))
            return e;
    }
    return NULL;
}

/* The same, made when it is not there; the list has room. */
static leaf *need(struct kvm_cpuid2 *list, uint32_t function, uint32_t index, uint32_t flags)
{
    leaf *e = find(list, function, index);
    if (!e && list->nent < MK_CPUID_ENTRIES) {
        e = &list->entries[list->nent++];
        *e = (leaf){ .function = function, .index = index, .flags = flags };
    }
    return e;
}

static uint32_t highest(struct kvm_cpuid2 *list)
{
    const leaf *e = find(list, 0, 0);
    return e ? e->eax : 0;
}

/* Without a local APIC there is none of what it does, nor KVM's paravirtual features: most of them
 * need it, and the others would have KVM write to a guest's memory by a clock that a snapshot does
 * not take along. */
static void remove_apic(struct kvm_cpuid2 *list)
{
    for (unsigned i = 0; i < list->nent; i++) {
        leaf *e = &list->entries[i];
        switch (e->function) {
        case 1:
            e->ecx &= ~(BIT(21) | BIT(24)); /* x2APIC, TSC-deadline */
            e->ecx |= BIT(31);              /* hypervisor */
            e->edx &= ~BIT(9);              /* APIC */
            break;
        case 6: e->eax &= ~BIT(2); break; /* its timer runs always */
        case 0x80000001:
            e->ecx &= ~BIT(3); /* AMD: more APIC registers */
            e->edx &= ~BIT(9); /* AMD: APIC, once more */
            break;
        case KVM_CPUID_FEATURES: e->eax = 0; break;
        default: break;
        }
    }
}

/* --- topology --- */

static unsigned id_bits(unsigned cpus)
{
    return cpus > 1 ? 32 - (unsigned)__builtin_clz(cpus - 1) : 0;
}

/* Caches from level 3 on belong to all cores; bits 31 to 26 are Intel's only. */
static void share_cache(leaf *e, unsigned cpus, bool intel)
{
    unsigned all = (1u << id_bits(cpus)) - 1, level = e->eax >> 5 & 7;
    if ((e->eax & 0x1f) == 0)
        return; /* no cache */
    e->eax = (e->eax & 0x3fff) | (level > 2 ? all << 14 : 0) | (intel ? all << 26 : 0);
}

static void set_level(struct kvm_cpuid2 *list, uint32_t function, uint32_t index, unsigned type,
                      unsigned bits, unsigned count)
{
    leaf *e = need(list, function, index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    if (!e)
        return;
    e->eax = bits; /* to shift an APIC id by, to get at the next level */
    e->ebx = count;
    e->ecx = index | type << 8;
    e->edx = 0;
}

static void set_levels(struct kvm_cpuid2 *list, uint32_t function, unsigned cpus)
{
    enum { THREAD = 1, CORE = 2 };
    if (highest(list) < function)
        return;
    set_level(list, function, 0, THREAD, 0, 1);
    set_level(list, function, 1, CORE, id_bits(cpus), cpus);
}

static bool is_amd(struct kvm_cpuid2 *list)
{
    const leaf *e = find(list, 0, 0);
    return e && (e->ecx == 0x444d4163 || e->ecx == 0x656e6975); /* AuthenticAMD, HygonGenuine */
}

static void set_topology(struct kvm_cpuid2 *list, unsigned cpus)
{
    for (unsigned i = 0; i < list->nent; i++) {
        leaf *e = &list->entries[i];
        switch (e->function) {
        case 1:
            e->ebx = (e->ebx & 0xffff) | cpus << 16;
            e->edx = (e->edx & ~BIT(28)) | (cpus > 1 ? BIT(28) : 0);
            break;
        case 4: share_cache(e, cpus, true); break;
        case 0x8000001d: share_cache(e, cpus, false); break;
        case 0x80000008:
            if (is_amd(list))
                e->ecx = (e->ecx & ~0xf0ffu) | id_bits(cpus) << 12 | (cpus - 1);
            break;
        case 0xb:
        case 0x1f: /* the host's levels; of ours there are two, made beneath */
            e->eax = e->ebx = e->edx = 0;
            e->ecx = e->index;
            break;
        case 0x8000001e: e->eax = e->ebx = e->ecx = e->edx = 0; break;
        default: break;
        }
    }
    set_levels(list, 0xb, cpus);
    set_levels(list, 0x1f, cpus);
}

/* --- frequency --- */

static void set_frequency(struct kvm_cpuid2 *list, uint32_t khz)
{
    leaf *signature = find(list, KVM_CPUID_SIGNATURE, 0);
    leaf *frequency = signature && khz ? need(list, LEAF_TSC_KHZ, 0, 0) : NULL;
    if (frequency) {
        if (signature->eax < LEAF_TSC_KHZ)
            signature->eax = LEAF_TSC_KHZ;
        frequency->eax = khz;
    }
    leaf *crystal = khz && highest(list) >= 0x15 ? need(list, 0x15, 0, 0) : NULL;
    if (crystal) { /* TSC = ECX Hz x EBX / EAX */
        crystal->eax = 1000;
        crystal->ebx = khz;
        crystal->ecx = 1000000;
    }
}

/* --- lists --- */

/* With room for as many entries as KVM takes. */
static struct kvm_cpuid2 *copy(const struct kvm_cpuid2 *list)
{
    struct kvm_cpuid2 *new = calloc(1, sizeof(*new) + MK_CPUID_ENTRIES * sizeof(leaf));
    if (!new)
        return NULL;
    new->nent = list->nent < MK_CPUID_ENTRIES ? list->nent : MK_CPUID_ENTRIES;
    memcpy(new->entries, list->entries, new->nent * sizeof(leaf));
    return new;
}

struct kvm_cpuid2 *mk_cpuid_new(const struct kvm_cpuid2 *supported, unsigned cpus, uint32_t tsc_khz)
{
    struct kvm_cpuid2 *list = copy(supported);
    if (!list)
        return NULL;
    remove_apic(list);
    set_topology(list, cpus);
    set_frequency(list, tsc_khz);
    return list;
}

struct kvm_cpuid2 *mk_cpuid_copy(const struct kvm_cpuid2 *list, unsigned index)
{
    struct kvm_cpuid2 *own = copy(list);
    for (unsigned i = 0; own && i < own->nent; i++) {
        leaf *e = &own->entries[i];
        switch (e->function) {
        case 1: e->ebx += index << 24; break;
        case 0xb:
        case 0x1f: e->edx += index; break;
        case 0x8000001e:
            e->eax += index;
            e->ebx = (e->ebx & ~0xffu) | ((e->ebx + index) & 0xff);
            break;
        default: break;
        }
    }
    return own;
}
