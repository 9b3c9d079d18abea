/* assist.c - what this host's KVM does not do by itself, and who does it instead: the one file that
 * knows of x86/weak, which may be left out of a build. See vm.h, and struct mk_assist in vcpu.h.
 *
 * While an assist does a VM's paging, its memory slots are the assist's. */
#include "vm/vm.h"

#include "base/abi.h"
#include "x86/weak/assist.h"
#include "x86/weak/probe.h"

#include <errno.h>

/* --- which there is --- */

void mk_vm_attach_assist(struct mk_vm *vm)
{
    if (vm->assist)
        vm->assist->alone = vm->cpus == 1;
    for (unsigned i = 0; i < vm->cpus; i++)
        vm->cpu[i]->c.assist = vm->assist;
    /* Paging by memory slots is for 32-bit modes, and has them at linear addresses. */
    mk_pci_use_slots(&vm->pci, !vm->assist || vm->mode == MK_MODE_LONG);
}

void mk_vm_reset_assist(struct mk_vm *vm)
{
    if (vm->assist)
        vm->assist->ops->reset(vm->assist);
}

void mk_vm_free_assist(struct mk_vm *vm)
{
    if (vm->assist)
        vm->assist->ops->free(vm->assist);
    vm->assist = NULL;
}

static int set_assist(struct mk_vm *vm, bool wanted, struct mk_err *err)
{
    if (!wanted)
        mk_vm_free_assist(vm);
    else if (!vm->assist && mk_assist_new(&vm->assist) < 0)
        return mk_fail_errno(err, ENOMEM, "what stands in for KVM");
    mk_vm_attach_assist(vm);
    return 0;
}

/* What a kernel is told of the host (docs/abi.md), and whether there is anything to assist with.
 * Real mode does not ask: it has no boot information, and is assisted only after a failure. */
int mk_vm_probe_native(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_native native = { 0 };
    if (vm->mode != MK_MODE_REAL && mk_native_probe(&native, vm->kvm, vm->fd, MK_MAX_CPUS,
                                                    mk_mem_writable(&vm->mem, 0, MK_PAGE), err) < 0)
        return -1;
    vm->boot_features |= (native.paging32 ? MK_BOOT_PAGING_NATIVE : 0) |
                         (native.int_n ? MK_BOOT_INT_NATIVE : 0) |
                         (native.iret ? MK_BOOT_IRET_NATIVE : 0);
    if (vm->mode == MK_MODE_PAGED && vm->cpus > 1 && !native.paging32)
        return mk_fail(err, ENOTSUP,
                       "vm \"%s\": this KVM does not run 32-bit paging, and what stands in for it "
                       "serves one vCPU, not %u: use a host with VT-x or AMD-V",
                       vm->name, vm->cpus);
    bool all = native.paging32 && native.int_n && native.iret;
    return set_assist(vm, vm->may_assist && !all, err);
}

const char *mk_vm_missing_assist(void)
{
    return mk_assist_missing();
}

/* --- paging --- */

bool mk_vm_assists_paging(const struct mk_vm *vm)
{
    return vm->assist && *vm->assist->paging;
}

int mk_vm_no_paging(const struct mk_vm *vm, struct mk_err *err)
{
    const char *missing = mk_assist_missing();
    return mk_fail(err, ENOTSUP,
                   "vm \"%s\": this KVM does not run 32-bit paging (it drops CR0.PG): %s", vm->name,
                   missing ? missing : "leave assist on, or use a host with VT-x or AMD-V");
}

int mk_vm_set_paging(struct mk_vm *vm, struct kvm_sregs *sregs, struct mk_err *err)
{
    struct mk_assist *a = vm->assist;
    if (!a)
        return mk_vm_no_paging(vm, err);
    sregs->cr0 &= ~(uint64_t)MK_CR0_PG;
    return a->ops->set_paging(a, &vm->mem, vm->fd, sregs, err);
}

int mk_vm_end_paging(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_assist *a = vm->assist;
    return a ? a->ops->end_paging(a, &vm->mem, vm->fd, err) : 0;
}

/* --- memory slots --- */

int mk_vm_register_slots(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_assist *a = vm->assist;
    if (vm->fd < 0) /* after a reset that failed there is nothing that has slots */
        return 0;
    return mk_vm_assists_paging(vm) ? a->ops->rebuild_slots(a, &vm->mem, vm->fd, err)
                                    : mk_mem_register(&vm->mem, vm->fd, err);
}

void mk_vm_remove_slot(struct mk_vm *vm, uint32_t slot)
{
    struct mk_assist *a = vm->assist;
    if (mk_vm_assists_paging(vm))
        a->ops->remove_slots(a, &vm->mem, vm->fd);
    else
        mk_mem_slot(&vm->mem, vm->fd, &(struct mk_slot){ .number = slot });
}

int mk_vm_sync_log(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_assist *a = vm->assist;
    struct mk_mem *mem = &vm->mem;
    int rc =
        mk_vm_assists_paging(vm) ? a->ops->sync_log(a, mem, vm->fd) : mk_mem_sync_log(mem, vm->fd);
    return rc < 0 ? mk_fail_errno(err, errno, "vm \"%s\": KVM's log of writes", vm->name) : 0;
}
