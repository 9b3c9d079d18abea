/* vm_load.c - where images go in each mode, and how a vCPU gets to its first instruction. */
#include "vm.h"

#include "abi.h"

#include <errno.h>
#include <string.h>

typedef unsigned long long ull;

/* --- placement: fills in the defaults and checks the sums --- */

static int no_room(const struct mk_image *image, const struct mk_load *load, uint64_t room,
                   struct mk_err *err)
{
    return mk_fail(err, EFBIG, "%s: %zu bytes do not fit at 0x%llx: there is room for %llu",
                   image->name, image->size, (ull)load->at, (ull)room);
}

static int place_real(const struct mk_vm *vm, const struct mk_image *image, struct mk_load *load,
                      struct mk_err *err)
{
    uint64_t ram = vm->m.mem.size;
    bool window = load->at == MK_DEFAULT;
    if (window)
        load->at = (int64_t)load->cpu * MK_REAL_WINDOW;
    uint64_t room = (uint64_t)load->at < ram ? ram - (uint64_t)load->at : 0;
    if (window && room > MK_REAL_WINDOW)
        room = MK_REAL_WINDOW;
    if (image->size > room)
        return no_room(image, load, room, err);
    if (load->segment == MK_DEFAULT && (load->at & 15 || load->at >> 4 > 0xffff))
        return mk_fail(err, EINVAL, "%s: at = 0x%llx is no segment's start: give segment= and "
                       "entry=", image->name, (ull)load->at);
    if (load->segment == MK_DEFAULT)
        load->segment = load->at >> 4;
    if (load->entry == MK_DEFAULT)
        load->entry = 0;
    if ((uint64_t)load->segment > 0xffff || (uint64_t)load->entry > 0xffff ||
        (uint64_t)(load->segment * 16 + load->entry) >= ram)
        return mk_fail(err, EINVAL, "%s: entry 0x%llx:0x%llx is outside RAM or not a real-mode "
                       "address", image->name, (ull)load->segment, (ull)load->entry);
    return 0;
}

/* Above the tables below 0x1000, and clear of those above: the page directory in paged mode, the
 * page tables and a page of stack in long mode. */
static int place_flat(const struct mk_vm *vm, const struct mk_image *image, struct mk_load *load,
                      struct mk_err *err)
{
    bool paged = vm->mode == MK_MODE_PAGED;
    uint64_t end = vm->mode == MK_MODE_LONG ? vm->tables - MK_PAGE : vm->m.mem.size;
    if (load->at == MK_DEFAULT)
        load->at = MK_LOAD_BASE;
    uint64_t at = (uint64_t)load->at;
    if (at < MK_LOAD_BASE)
        return mk_fail(err, EINVAL, "%s: at = 0x%llx: the GDT, the IDT and the boot information lie "
                       "below 0x%x", image->name, (ull)at, MK_LOAD_BASE);
    if (paged && at < MK_PAGE_DIR + MK_PAGE)
        end = at < MK_PAGE_DIR ? MK_PAGE_DIR : at; /* the directory is in the way */
    if (!mk_inside(at, image->size, end))
        return no_room(image, load, at < end ? end - at : 0, err);
    if (load->entry == MK_DEFAULT)
        load->entry = paged ? load->at + MK_HIGH_BASE : load->at;
    return 0;
}

static int place(const struct mk_vm *vm, const struct mk_image *image, struct mk_load *load,
                 struct mk_err *err)
{
    if (load->cpu >= vm->cpus)
        return mk_fail(err, EINVAL, "%s: cpu %u: vm \"%s\" has %u", image->name, load->cpu,
                       vm->name, vm->cpus);
    if (vm->mode != MK_MODE_REAL && load->segment != MK_DEFAULT)
        return mk_fail(err, EINVAL, "%s: segment= is for real mode", image->name);
    return vm->mode == MK_MODE_REAL ? place_real(vm, image, load, err)
                                    : place_flat(vm, image, load, err);
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
    return fits ? 0 : mk_fail(err, EINVAL, "vm \"%s\": memory of %llu bytes is too small for this "
                              "mode", vm->name, (ull)vm->m.mem.size);
}

static struct mk_start start_state(const struct mk_vm *vm, const struct mk_load *load,
                                   const struct kvm_sregs *fresh)
{
    const struct mk_mem *mem = &vm->m.mem;
    uint64_t entry = (uint64_t)load->entry;
    struct mk_start start = { .sregs = *fresh };
    switch (vm->mode) {
    case MK_MODE_LONG: mk_long_start(&start, mem, &vm->mapping, vm->tables, entry); break;
    case MK_MODE_PAGED: mk_prot_start(&start, mem, (uint32_t)entry, true); break;
    case MK_MODE_PROTECTED: mk_prot_start(&start, mem, (uint32_t)entry, false); break;
    default: mk_real_start(&start, (uint16_t)load->segment, (uint16_t)load->entry); break;
    }
    return start;
}

/* Where the first instruction would be fetched from, as the page tables stand. */
static int check_entry(const struct mk_vm *vm, const struct mk_start *start,
                       const struct mk_load *load, struct mk_err *err)
{
    uint64_t entry = (uint64_t)load->entry;
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

int mk_vm_aim(struct mk_vm *vm, const struct mk_load *load, struct mk_err *err)
{
    struct mk_vcpu *c = &vm->cpu[load->cpu];
    struct kvm_sregs fresh;
    if (mk_vcpu_sregs(c, &fresh) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u", vm->name, load->cpu);
    struct mk_start start = start_state(vm, load, &fresh);
    if (check_entry(vm, &start, load, err) < 0)
        return -1;
    if (set_sregs(vm, c, &start.sregs, err) < 0)
        return -1;
    if (mk_vcpu_set_regs(c, &start.regs) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": cpu %u: KVM refuses the registers", vm->name,
                             load->cpu);
    vm->start[load->cpu] = *load;
    vm->aimed[load->cpu] = vm->ready[load->cpu] = true;
    return 0;
}

int mk_vm_load(struct mk_vm *vm, struct mk_image *image, const struct mk_load *load,
               struct mk_err *err)
{
    struct mk_load where = *load;
    struct mk_err why = { 0 };
    if (place(vm, image, &where, err) < 0 || mk_vm_aim(vm, &where, &why) < 0) {
        if (why.code)
            mk_fail(err, why.code, "%s: %.300s", image->name, why.text);
        mk_image_free(image);
        return -1;
    }
    image->at = (uint64_t)where.at;
    mk_mem_write(&vm->m.mem, image->at, image->bytes, image->size);
    struct mk_image **at = &vm->images; /* in order: a reset loads them again */
    while (*at)
        at = &(*at)->next;
    *at = image;
    return 0;
}
