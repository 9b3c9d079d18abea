/* map.c - memory that a script adds to a VM, and takes away, while it does not run. See mem.h. */
#include "vm/vm.h"

#include "files/ram.h"

#include <errno.h>

typedef unsigned long long ull;

int mk_vm_check_map(const struct mk_vm *vm, const struct mk_region *want, struct mk_err *err)
{
    if (mk_mem_check_add(&vm->mem, want, err) < 0)
        return -1;
    char owner[sizeof(((struct mk_hook *)0)->owner)];
    uint64_t where, last = want->gpa + want->size - 1;
    if (want->gpa < MK_KVM_PAGES + MK_KVM_PAGES_SIZE && last >= MK_KVM_PAGES)
        return mk_fail(err, EEXIST,
                       "%s: 0x%llx-0x%llx overlaps pages that KVM needs for itself at "
                       "0x%llx-0x%llx",
                       want->name, (ull)want->gpa, (ull)last, (ull)MK_KVM_PAGES,
                       (ull)MK_KVM_PAGES + MK_KVM_PAGES_SIZE - 1);
    if (!want->read_only &&
        mk_bus_owned((struct mk_bus *)&vm->mmio, want->gpa, last, &where, owner))
        return mk_fail(err, EEXIST, "%s: 0x%llx-0x%llx overlaps %s at 0x%llx (vm.mmio)", want->name,
                       (ull)want->gpa, (ull)last, owner, (ull)where);
    return 0;
}

/* Nothing that was known of its RAM holds for another list of regions. */
static void forget_copy(struct mk_vm *vm)
{
    mk_ram_unref(vm->base);
    vm->base = NULL;
}

/* A VM to which nothing happened yet finds the new memory in the tables of its mode. */
static bool is_new(const struct mk_vm *vm)
{
    bool entered = false;
    for (unsigned i = 0; i < vm->cpus; i++)
        entered |= vm->cpu[i]->has_entry || vm->cpu[i]->ready;
    return !entered && vm->state == MK_VM_IDLE;
}

struct mk_region *mk_vm_map(struct mk_vm *vm, const struct mk_region *want, int fd,
                            struct mk_err *err)
{
    struct mk_region r = *want;
    struct mk_err ignored;
    mk_vm_join(vm);
    r.mapped = true;
    r.in_tables = is_new(vm);
    if (mk_vm_check_map(vm, &r, err) < 0)
        return NULL;
    struct mk_region *added = mk_mem_add(&vm->mem, &r, fd, err);
    if (!added)
        return NULL;
    if (r.kind != MK_SHARED)
        forget_copy(vm);
    if (mk_vm_register_slots(vm, err) == 0 && (!r.in_tables || mk_vm_prepare_memory(vm, err) == 0))
        return added;
    mk_vm_unmap(vm, added, &ignored);
    return NULL;
}

int mk_vm_unmap(struct mk_vm *vm, struct mk_region *region, struct mk_err *err)
{
    uint32_t slot = region->slot;
    bool tables = region->in_tables && is_new(vm);
    mk_vm_join(vm);
    mk_vm_remove_slot(vm, slot);
    if (region->kind != MK_SHARED)
        forget_copy(vm);
    mk_mem_remove(&vm->mem, region);
    int rc = mk_vm_register_slots(vm, err);
    return rc == 0 && tables ? mk_vm_prepare_memory(vm, err) : rc;
}
