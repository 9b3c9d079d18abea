/* trace.c - see trace.h. */
#include "vm/trace.h"

#include "vm/vm.h"
#include "x86/access.h"

void mk_trace(struct mk_vcpu *c, struct mk_trace *event)
{
    const struct mk_vm *vm = c->vm;
    struct kvm_sregs s;
    if (!vm->ops || !vm->ops->trace || !vm->tracing ||
        (event->kind == MK_TRACE_SERVED && !(vm->tracing & MK_TRACE_TIMES)))
        return;
    event->time = mk_now();
    event->rip = mk_access_rip(c, true);
    event->linear =
        mk_vcpu_get_guest_sregs(c, &s) == 0 ? mk_code_address(&s, event->rip) : event->rip;
    vm->ops->trace(vm->ctx, c, event);
}

void mk_trace_interrupt(struct mk_vcpu *c, uint8_t vector)
{
    if (c->vm->tracing)
        mk_trace(c, &(struct mk_trace){ .kind = MK_TRACE_INTERRUPT, .value = vector });
}
