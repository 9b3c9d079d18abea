/* load.c - what an image is loaded with: the tables of the mode, and how a vCPU gets to its first
 * instruction. What images consist of is known in lua/minikvm/image. */
#include "vm/vm.h"

#include "base/abi.h"

#include <errno.h>
#include <string.h>

#define IA32_PAT 0x277u /* SDM volume 3, 12.12.4 */

typedef unsigned long long ull;

/* --- the mode and its tables --- */

int mk_mapping_check(enum mk_mode mode, const struct mk_mapping *map, uint64_t memory,
                     struct mk_err *err)
{
    uint64_t page = map->large ? 2u << 20 : MK_PAGE;
    if (mode == MK_MODE_LONG && (memory % page || map->size % page || map->base % page))
        return mk_fail(err, EINVAL,
                       "memory of %llu bytes: long mode maps it in pages of %s (page_size), so "
                       "memory, map_size and map_base must be multiples of that",
                       (ull)memory, map->large ? "2M" : "4K");
    return 0;
}

static struct mk_places usual_places(const struct mk_vm *vm)
{
    uint64_t top = vm->mem.size < MK_HOLE ? vm->mem.size : MK_HOLE; /* where 32 bits reach */
    bool wide = vm->mode == MK_MODE_LONG;
    return (struct mk_places){ .tables = wide ? top : MK_PAGE_DIR, .end = wide ? top : 0 };
}

/* Writes the tables at vm->places. */
static int write_tables(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_boot boot = { .features = vm->boot_features,
                            .command_line = vm->command_line[0] ? vm->command_line : NULL };
    bool fits = true, paged = vm->mode == MK_MODE_PAGED;
    if (vm->mode == MK_MODE_LONG)
        fits = mk_long_tables(&vm->mem, &vm->mapping, &vm->places, &boot);
    else if (vm->mode != MK_MODE_REAL)
        fits = mk_prot_tables(&vm->mem, &vm->places, paged, &boot);
    if (fits && paged && vm->mapping.io)
        mk_prot_map_io(&vm->mem, &vm->places, (uint32_t)vm->mapping.io);
    return fits ? 0
                : mk_fail(err, EINVAL,
                          "vm \"%s\": memory of %llu bytes is too small for this "
                          "mode",
                          vm->name, (ull)vm->mem.size);
}

int mk_vm_prepare_memory(struct mk_vm *vm, struct mk_err *err)
{
    vm->places = usual_places(vm);
    return write_tables(vm, err);
}

static int move_tables(struct mk_vm *vm, const struct mk_places *places, struct mk_err *err)
{
    struct mk_places before = vm->places;
    vm->places = *places;
    if (write_tables(vm, err) == 0)
        return 0;
    vm->places = before;
    return -1;
}

/* RAM of another size, with what it held. */
static int resize(struct mk_vm *vm, uint64_t size, struct mk_err *err)
{
    struct mk_mem *mem = &vm->mem;
    if (size == mem->size)
        return 0;
    if (mk_mem_unregister(mem, vm->fd, err) < 0)
        return -1;
    int rc = mk_mem_resize(mem, size, err);
    struct mk_err again;
    return mk_mem_register(mem, vm->fd, rc ? &again : err) < 0 ? -1 : rc;
}

int mk_vm_set_mode(struct mk_vm *vm, enum mk_mode mode, uint64_t memory, struct mk_err *err)
{
    enum mk_mode before = vm->mode;
    if (mk_vm_check_cpus(vm->kvm, mode, memory, vm->cpus, err) < 0 ||
        mk_mapping_check(mode, &vm->mapping, memory, err) < 0 || resize(vm, memory, err) < 0)
        return -1;
    vm->mode = mode;
    if (mk_vm_probe_native(vm, err) < 0 || mk_vm_prepare_memory(vm, err) < 0) {
        vm->mode = before;
        return -1;
    }
    mk_vm_share_console(vm);
    return 0;
}

/* --- the start state --- */

static bool has_own_tables(const struct mk_entry *entry)
{
    return entry->has_handoff && entry->handoff.cr3;
}

static struct mk_start start_state(const struct mk_vm *vm, const struct mk_entry *entry,
                                   const struct kvm_sregs *fresh)
{
    const struct mk_mem *mem = &vm->mem;
    const struct mk_places *places = &vm->places;
    uint64_t ip = entry->ip;
    struct mk_start start = { .sregs = *fresh };
    if (has_own_tables(entry)) {
        mk_handoff_start(&start, &entry->handoff, ip);
        return start;
    }
    switch (vm->mode) {
    case MK_MODE_LONG: mk_long_start(&start, &vm->mapping, places, ip); break;
    case MK_MODE_PAGED: mk_prot_start(&start, mem, places, (uint32_t)ip, true); break;
    case MK_MODE_PROTECTED: mk_prot_start(&start, mem, places, (uint32_t)ip, false); break;
    default: mk_real_start(&start, entry->segment, (uint16_t)ip); break;
    }
    if (vm->mode != MK_MODE_REAL) {
        start.regs.rsp -= entry->cpu * (uint64_t)MK_CPU_STACK;
        start.regs.rdi = entry->cpu;
    } else if (mk_real_window(vm->cpus) <= MK_REAL_SP) {
        start.regs.rsp = mk_real_window(vm->cpus) - (0x10000 - MK_REAL_SP);
    }
    if (entry->has_handoff)
        mk_handoff_segments(&start.sregs, &entry->handoff);
    if (entry->has_regs) {
        start.regs.rax = entry->eax;
        start.regs.rbx = entry->ebx;
        start.regs.rdx = entry->edx;
        start.regs.rsi = entry->esi;
    }
    return start;
}

/* Where the first instruction would be fetched from, as the page tables stand. A format that hands
 * over tables of its own puts them there later, and has checked its entry. */
static int check_entry(const struct mk_vm *vm, const struct mk_start *start,
                       const struct mk_entry *entry, struct mk_err *err)
{
    if (has_own_tables(entry))
        return 0;
    uint64_t ip = entry->ip;
    struct mk_walk w = mk_walk(&vm->mem, &start->sregs, start->sregs.cs.base + start->regs.rip);
    if (start->regs.rip == (vm->mode == MK_MODE_REAL ? (uint16_t)ip : ip) && w.present &&
        mk_mem_at(&vm->mem, w.address, 1))
        return 0;
    return mk_fail(err, EINVAL, "entry 0x%llx is %s", (ull)ip,
                   vm->mode == MK_MODE_PAGED ? "not mapped: RAM appears at 0 and at 0x80000000"
                   : w.present               ? "outside RAM"
                                             : "not mapped");
}

/* A KVM that does not run 32-bit paging is not even asked: to be told CR0.PG and to drop it leaves
 * some of them with a vCPU that cannot be entered. */
static int adopt_paging(struct mk_vm *vm, struct mk_vcpu *c, struct kvm_sregs *want,
                        struct mk_err *err)
{
    struct kvm_sregs off = *want;
    off.cr0 &= ~(uint64_t)MK_CR0_PG;
    if (!vm->assist)
        return mk_vm_no_paging(vm, err);
    if (mk_vcpu_set_sregs(c, &off) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": KVM refuses the start state", vm->name);
    return mk_vm_set_paging(vm, want, err);
}

/* What was set is read back: a bit that KVM ignores is found here, not by a guest that crashes. */
static int set_sregs(struct mk_vm *vm, struct mk_vcpu *c, struct kvm_sregs *want,
                     struct mk_err *err)
{
    struct kvm_sregs have;
    if (vm->mode == MK_MODE_PAGED && !(vm->boot_features & MK_BOOT_PAGING_NATIVE))
        return adopt_paging(vm, c, want, err);
    if (mk_vcpu_set_sregs(c, want) < 0 || mk_vcpu_get_sregs(c, &have) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u: KVM refuses the start state", vm->name,
                             c->cpu.index);
    if (want->cr0 & ~have.cr0 & MK_CR0_PG)
        return mk_vm_no_paging(vm, err);
    if (have.cr0 != want->cr0 || have.cr4 != want->cr4 || have.efer != want->efer)
        return mk_fail(err, ENOTSUP,
                       "vm \"%s\": KVM changed control registers: CR0 0x%llx to "
                       "0x%llx, CR4 0x%llx to 0x%llx, EFER 0x%llx to 0x%llx",
                       vm->name, (ull)want->cr0, (ull)have.cr0, (ull)want->cr4, (ull)have.cr4,
                       (ull)want->efer, (ull)have.efer);
    return 0;
}

/* What else a format says of a vCPU. */
static int set_pat(const struct mk_vm *vm, const struct mk_vcpu *c, const struct mk_entry *entry,
                   struct mk_err *err)
{
    uint64_t pat = entry->handoff.pat;
    if (!entry->has_handoff || !pat || mk_vcpu_msr(c, KVM_SET_MSRS, IA32_PAT, &pat))
        return 0;
    return mk_fail_errno(err, errno, "vm \"%s\": cpu %u: KVM refuses IA32_PAT", vm->name,
                         entry->cpu);
}

int mk_vm_set_entry(struct mk_vm *vm, const struct mk_entry *entry, struct mk_err *err)
{
    struct mk_vcpu *c = &vm->cpu[entry->cpu]->c;
    struct kvm_sregs fresh;
    if (mk_vcpu_get_sregs(c, &fresh) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u", vm->name, entry->cpu);
    struct mk_start start = start_state(vm, entry, &fresh);
    if (check_entry(vm, &start, entry, err) < 0)
        return -1;
    if (vm->mode != MK_MODE_REAL && memcmp(&vm->places, &entry->places, sizeof(vm->places)) != 0) {
        if (move_tables(vm, &entry->places, err) < 0)
            return -1;
        start = start_state(vm, entry, &fresh);
    }
    if (set_sregs(vm, c, &start.sregs, err) < 0 || set_pat(vm, c, entry, err) < 0)
        return -1;
    if (mk_vcpu_set_regs(c, &start.regs) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u: KVM refuses the registers", vm->name,
                             entry->cpu);
    vm->cpu[entry->cpu]->entry = *entry;
    vm->cpu[entry->cpu]->has_entry = true;
    mk_vm_restart_cpu(vm, entry->cpu);
    vm->mode_open = false;
    return 0;
}
