/* load.c - where images go in each mode, and how a vCPU gets to its first instruction. */
#include "vm/vm.h"

#include "base/abi.h"

#include <errno.h>
#include <string.h>

typedef unsigned long long ull;

/* --- what the mode wants of an image --- */

/* Of the modes with tables; the directory in paged mode only. */
static const struct mk_keep keeps[] = {
    { 0, MK_LOAD_BASE, "the GDT, the IDT and the boot information" },
    { MK_PAGE_DIR, MK_PAGE, "the page directory" } };

/* A vCPU's window in real mode: where its image goes unless another place is asked for. */
static void want_real(const struct mk_vm *vm, const struct mk_load *load, struct mk_plan_want *want)
{
    uint64_t window = (uint64_t)load->cpu * MK_REAL_WINDOW;
    want->bits = 16;
    want->limit = vm->m.mem.size;
    want->at = window;
    if (load->at == MK_DEFAULT && want->limit > window + MK_REAL_WINDOW)
        want->limit = window + MK_REAL_WINDOW;
}

/* Above the tables below 0x1000, and clear of those above: the page directory in paged mode, the
 * page tables and a page of stack in long mode. */
static void want_flat(const struct mk_vm *vm, struct mk_plan_want *want)
{
    bool paged = vm->mode == MK_MODE_PAGED, wide = vm->mode == MK_MODE_LONG;
    want->bits = wide ? 64 : 32;
    want->paging = paged || wide;
    want->limit = wide ? vm->tables - MK_PAGE : vm->m.mem.size;
    want->high = paged ? MK_HIGH_BASE : vm->mapping.base;
    want->at = MK_LOAD_BASE;
    want->keep = keeps;
    want->keeps = paged ? 2 : 1;
}

static struct mk_plan_want want_for(const struct mk_vm *vm, const struct mk_load *load)
{
    struct mk_plan_want want = { .format = load->format, .info_at = MK_LOAD_BASE,
                                 .entry_symbol = load->entry_symbol };
    if (vm->mode == MK_MODE_REAL)
        want_real(vm, load, &want);
    else
        want_flat(vm, &want);
    want.has_at = load->at != MK_DEFAULT;
    want.at = want.has_at ? (uint64_t)load->at : want.at;
    want.has_entry = load->entry != MK_DEFAULT;
    want.entry = want.has_entry ? (uint64_t)load->entry : 0;
    want.command_line = load->command_line ? load->command_line : vm->command_line;
    return want;
}

/* Real mode: the segment that was asked for, or that the format says, or that of the place. */
static int aim_real(const struct mk_image *image, const struct mk_load *load, struct mk_aim *aim,
                    struct mk_err *err)
{
    uint64_t segment = load->segment != MK_DEFAULT ? (uint64_t)load->segment : image->at >> 4;
    if (load->segment == MK_DEFAULT && image->plan.cs >= 0)
        segment = (uint64_t)image->plan.cs;
    else if (load->segment == MK_DEFAULT && (image->at & 15 || segment > 0xffff))
        return mk_fail(err, EINVAL, "%s: at = 0x%llx is no segment's start: give segment= and "
                       "entry=", image->name, (ull)image->at);
    if (segment > 0xffff || aim->entry > 0xffff)
        return mk_fail(err, EINVAL, "%s: entry 0x%llx:0x%llx is not a real-mode address",
                       image->name, (ull)segment, (ull)aim->entry);
    aim->segment = (uint16_t)segment;
    return 0;
}

/* Checks the image against the mode; what comes out says where the vCPU starts. */
static int plan(const struct mk_vm *vm, struct mk_image *image, const struct mk_load *load,
                struct mk_aim *aim, struct mk_err *err)
{
    if (load->cpu >= vm->cpus)
        return mk_fail(err, EINVAL, "%s: cpu %u: vm \"%s\" has %u", image->name, load->cpu,
                       vm->name, vm->cpus);
    if (vm->mode != MK_MODE_REAL && load->segment != MK_DEFAULT)
        return mk_fail(err, EINVAL, "%s: segment= is for real mode", image->name);
    struct mk_plan_want want = want_for(vm, load);
    if (mk_image_plan(image, &want, err) < 0)
        return -1;
    const struct mk_plan *p = &image->plan;
    *aim = (struct mk_aim){ .cpu = load->cpu, .entry = p->entry, .has_regs = p->has_regs,
                            .eax = p->eax, .ebx = p->ebx, .edx = p->edx };
    if (vm->mode == MK_MODE_REAL)
        return aim_real(image, load, aim, err);
    if (vm->mode == MK_MODE_PAGED && p->format == MK_FORMAT_FLAT && !want.has_entry)
        aim->entry += MK_HIGH_BASE; /* where kernels of this mode are linked */
    return 0;
}

/* --- the start state --- */

int mk_vm_prepare_memory(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_boot boot = { .features = vm->boot_features,
                            .command_line = vm->command_line[0] ? vm->command_line : NULL };
    bool fits = true;
    if (vm->mode == MK_MODE_LONG)
        fits = (vm->tables = mk_long_tables(&vm->m.mem, &vm->mapping, &boot)) != 0;
    else if (vm->mode != MK_MODE_REAL)
        fits = mk_prot_tables(&vm->m.mem, vm->mode == MK_MODE_PAGED, &boot);
    if (fits && vm->mode == MK_MODE_PAGED && vm->mapping.io)
        mk_prot_map_io(&vm->m.mem, (uint32_t)vm->mapping.io);
    return fits ? 0 : mk_fail(err, EINVAL, "vm \"%s\": memory of %llu bytes is too small for this "
                              "mode", vm->name, (ull)vm->m.mem.size);
}

static struct mk_start start_state(const struct mk_vm *vm, const struct mk_aim *aim,
                                   const struct kvm_sregs *fresh)
{
    const struct mk_mem *mem = &vm->m.mem;
    uint64_t entry = aim->entry;
    struct mk_start start = { .sregs = *fresh };
    switch (vm->mode) {
    case MK_MODE_LONG: mk_long_start(&start, mem, &vm->mapping, vm->tables, entry); break;
    case MK_MODE_PAGED: mk_prot_start(&start, mem, (uint32_t)entry, true); break;
    case MK_MODE_PROTECTED: mk_prot_start(&start, mem, (uint32_t)entry, false); break;
    default: mk_real_start(&start, aim->segment, (uint16_t)entry); break;
    }
    if (aim->has_regs) {
        start.regs.rax = aim->eax;
        start.regs.rbx = aim->ebx;
        start.regs.rdx = aim->edx;
    }
    return start;
}

/* Where the first instruction would be fetched from, as the page tables stand. */
static int check_entry(const struct mk_vm *vm, const struct mk_start *start,
                       uint64_t entry, struct mk_err *err)
{
    struct mk_walk w = mk_walk(&vm->m.mem, &start->sregs, start->sregs.cs.base + start->regs.rip);
    if (start->regs.rip == (vm->mode == MK_MODE_REAL ? (uint16_t)entry : entry) && w.present &&
        mk_mem_at(&vm->m.mem, w.address, 1))
        return 0;
    return mk_fail(err, EINVAL, "entry 0x%llx is %s", (ull)entry,
                   vm->mode == MK_MODE_PAGED ? "not mapped: RAM appears at 0 and at 0x80000000"
                   : w.present               ? "outside RAM"
                                             : "not mapped");
}

/* A KVM that does not run 32-bit paging is not even asked: to be told CR0.PG and to drop it leaves
 * some of them with a vCPU that cannot be entered. */
static int take_over_paging(struct mk_vm *vm, struct mk_vcpu *c, struct kvm_sregs *want,
                            struct mk_err *err)
{
    if (!vm->m.assist)
        return mk_fail(err, ENOTSUP, "vm \"%s\": this KVM does not run 32-bit paging (it drops "
                       "CR0.PG): leave assist on, or use a host with VT-x or AMD-V", vm->name);
    want->cr0 &= ~(uint64_t)MK_CR0_PG;
    if (mk_vcpu_set_sregs(c, want) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": KVM refuses the start state", vm->name);
    return mk_assist_paging(vm->m.assist, &vm->m, want, err);
}

/* What was set is read back: a bit that KVM ignores is found here, not by a guest that crashes. */
static int set_sregs(struct mk_vm *vm, struct mk_vcpu *c, struct kvm_sregs *want,
                     struct mk_err *err)
{
    struct kvm_sregs have;
    if (vm->mode == MK_MODE_PAGED && !(vm->boot_features & MK_BOOT_PAGING_NATIVE))
        return take_over_paging(vm, c, want, err);
    if (mk_vcpu_set_sregs(c, want) < 0 || mk_vcpu_sregs(c, &have) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u: KVM refuses the start state", vm->name,
                             c->cpu.index);
    if (have.cr0 != want->cr0 || have.cr4 != want->cr4 || have.efer != want->efer)
        return mk_fail(err, ENOTSUP, "vm \"%s\": KVM changed control registers: CR0 0x%llx to "
                       "0x%llx, CR4 0x%llx to 0x%llx, EFER 0x%llx to 0x%llx", vm->name,
                       (ull)want->cr0, (ull)have.cr0, (ull)want->cr4, (ull)have.cr4,
                       (ull)want->efer, (ull)have.efer);
    return 0;
}

int mk_vm_aim(struct mk_vm *vm, const struct mk_aim *aim, struct mk_err *err)
{
    struct mk_vcpu *c = &vm->cpu[aim->cpu];
    struct kvm_sregs fresh;
    if (mk_vcpu_sregs(c, &fresh) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u", vm->name, aim->cpu);
    struct mk_start start = start_state(vm, aim, &fresh);
    if (check_entry(vm, &start, aim->entry, err) < 0)
        return -1;
    if (set_sregs(vm, c, &start.sregs, err) < 0)
        return -1;
    if (mk_vcpu_set_regs(c, &start.regs) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u: KVM refuses the registers", vm->name,
                             aim->cpu);
    vm->start[aim->cpu] = *aim;
    vm->aimed[aim->cpu] = vm->ready[aim->cpu] = true;
    return 0;
}

int mk_vm_load(struct mk_vm *vm, struct mk_image *image, const struct mk_load *load,
               struct mk_err *err)
{
    struct mk_aim aim;
    struct mk_err why = { 0 };
    if (plan(vm, image, load, &aim, err) < 0 || mk_vm_aim(vm, &aim, &why) < 0) {
        if (why.code)
            mk_fail(err, why.code, "%s: %.300s", image->name, why.text);
        mk_image_free(image);
        return -1;
    }
    mk_image_apply(image, &vm->m.mem);
    struct mk_image **at = &vm->images; /* in order: a reset loads them again */
    while (*at)
        at = &(*at)->next;
    *at = image;
    return 0;
}
