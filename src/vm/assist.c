/* assist.c - what this host's KVM does not do by itself, and who does it instead. See vm.h. */
#include "vm/vm.h"

#include "base/abi.h"
#include "x86/weak/probe.h"

#include <errno.h>

void mk_vm_attach_assist(struct mk_vm *vm)
{
    vm->assist.alone = vm->cpus == 1;
    for (unsigned i = 0; i < vm->cpus; i++) {
        vm->cpu[i]->c.assist = vm->m.assist ? &mk_assist_ops : NULL;
        vm->cpu[i]->c.assist_ctx = vm->m.assist;
    }
    /* Paging by memory slots has them at linear addresses. */
    mk_pci_use_slots(&vm->pci, !vm->m.assist || vm->mode == MK_MODE_LONG);
}

/* What a kernel is told of the host (docs/abi.md), and whether there is anything to assist with.
 * Real mode does not ask: it has no boot information, and is assisted only after a failure. */
int mk_vm_probe_native(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_native native = { 0 };
    if (vm->mode != MK_MODE_REAL &&
        mk_native_probe(&native, vm->m.kvm, vm->m.fd, MK_MAX_CPUS,
                        mk_mem_writable(&vm->m.mem, 0, MK_PAGE), err) < 0)
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
    vm->m.assist = vm->may_assist && !all ? &vm->assist : NULL;
    mk_vm_attach_assist(vm);
    return 0;
}
