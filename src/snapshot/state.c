/* state.c - takes and sets all of a VM but its RAM. See snapshot.h. */
#include "snapshot/snapshot.h"

#include "base/abi.h"
#include "x86/mode.h"

#include <errno.h>

/* --- capture --- */

int mk_state_capture(struct mk_vm *vm, struct mk_state *s, struct mk_err *err)
{
    *s = (struct mk_state){ .vm_state = vm->state, .time = mk_clock_now(&vm->m.clock),
                            .input = mk_console_tell(&vm->m.console),
                            .paging = vm->assist.shadow.on, .late = vm->assist.late };
    int rc = 0;
    for (unsigned i = 0; i < vm->cpus && rc == 0; i++) {
        rc = mk_cpu_capture(&vm->cpu[i], &s->cpu[i], err);
        s->cpu[i].ready = vm->ready[i];
    }
    if (rc == 0)
        rc = mk_devs_save(&vm->devices, s->time, &s->devices, err);
    if (rc < 0)
        mk_state_free(s);
    return rc;
}

void mk_state_free(struct mk_state *s)
{
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        mk_cpu_state_free(&s->cpu[i]);
    mk_bytes_free(&s->devices);
}

/* --- restore --- */

/* 32-bit paging that this host's KVM does not run. A snapshot may come from a host that does, or
 * go to one. */
static bool wants_assist(const struct mk_vm *vm, const struct mk_state *s)
{
    const struct kvm_sregs *r = &s->cpu[0].sregs;
    bool paging32 = r->cr0 & MK_CR0_PG && !(r->efer & MK_EFER_LME);
    bool native = vm->boot_features & MK_BOOT_PAGING_NATIVE;
    return paging32 && !native && (s->paging || vm->mode != MK_MODE_REAL);
}

static int apply_paging(struct mk_vm *vm, const struct mk_state *s, struct kvm_sregs *sregs,
                        struct mk_err *err)
{
    struct mk_shadow *shadow = &vm->assist.shadow;
    if (!wants_assist(vm, s)) {
        vm->assist.late.pending = false;
        return mk_shadow_leave(shadow, &vm->m.mem, vm->m.fd, err);
    }
    if (!vm->m.assist)
        return mk_fail(err, ENOTSUP, "vm \"%s\": this KVM does not run 32-bit paging: leave assist "
                       "on, or use a host with VT-x or AMD-V", vm->name);
    sregs->cr0 &= ~(uint64_t)MK_CR0_PG;
    vm->assist.late = s->late;
    if (shadow->on && !mk_shadow_stale(shadow, &vm->m.mem, sregs->cr3, sregs->cr4 & MK_CR4_PSE))
        return 0;
    return mk_assist_paging(&vm->assist, &vm->m.mem, vm->m.fd, sregs, err);
}

void mk_state_fill_hooks(struct mk_vm *vm, const struct mk_state *s)
{
    mk_devs_load(&vm->devices, s->time, &s->devices, MK_LOAD_HOOKS, NULL);
}

int mk_state_apply(struct mk_vm *vm, const struct mk_state *s, struct mk_err *err)
{
    for (unsigned i = 0; i < vm->cpus; i++) {
        struct kvm_sregs sregs = s->cpu[i].sregs;
        if ((i == 0 && apply_paging(vm, s, &sregs, err) < 0) ||
            mk_cpu_apply(&vm->cpu[i], &s->cpu[i], &sregs, err) < 0)
            return -1;
        vm->ready[i] = s->cpu[i].ready;
    }
    mk_clock_set(&vm->m.clock, s->time);
    mk_console_seek(&vm->m.console, &s->input);
    if (mk_devs_load(&vm->devices, s->time, &s->devices, MK_LOAD_ALL, err) < 0)
        return -1;
    vm->state = s->vm_state;
    return 0;
}
