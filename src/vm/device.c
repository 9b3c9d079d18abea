/* device.c - what devices may ask of the vCPU that they serve (kvm/cpu.h). */
#include "vm/vm.h"

#include "kvm/interrupt.h"

static struct mk_vcpu *vcpu_of(struct mk_cpu *cpu)
{
    return MK_CONTAINER(cpu, struct mk_vcpu, cpu);
}

/* A guest whose exits need registers (hypercalls) gets them with every exit from the second on;
 * others do not pay for that. */
static uint64_t cpu_reg(struct mk_cpu *cpu, enum mk_reg reg)
{
    struct mk_vcpu *c = vcpu_of(cpu);
    const struct kvm_regs *r = mk_vcpu_get_regs(c);
    if (c->kvm->sync_regs)
        c->run->kvm_valid_regs |= KVM_SYNC_X86_REGS;
    switch (reg) {
    case MK_RAX: return r->rax;
    case MK_RBX: return r->rbx;
    case MK_RCX: return r->rcx;
    case MK_RDX: return r->rdx;
    case MK_RSI: return r->rsi;
    case MK_RDI: return r->rdi;
    case MK_RIP: return r->rip;
    }
    return 0;
}

static void cpu_end(struct mk_cpu *cpu, enum mk_reason reason, int64_t code, bool whole_vm,
                    const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    mk_vcpu_end_va(vcpu_of(cpu), reason, code, whole_vm, fmt, ap);
    va_end(ap);
}

static void cpu_idle(struct mk_cpu *cpu, unsigned ms)
{
    struct mk_vcpu *c = vcpu_of(cpu);
    if (!mk_interrupt_deliverable(c, c->run->if_flag))
        mk_vcpu_sleep(c, mk_now() + ms * UINT64_C(1000000));
}

static bool cpu_may_continue(struct mk_cpu *cpu)
{
    return mk_vcpu_may_continue(vcpu_of(cpu));
}

static uint64_t cpu_output_room(struct mk_cpu *cpu)
{
    struct mk_vcpu *c = vcpu_of(cpu);
    uint64_t limit = c->vm->output_limit;
    mk_vcpu_wait_for_room(c);
    if (!mk_vcpu_may_continue(c))
        return 0;
    return limit == UINT64_MAX ? limit : limit - mk_vcpu_output_bytes(c) + 1;
}

const struct mk_cpu_ops mk_device_ops = { .reg = cpu_reg,
                                          .end = cpu_end,
                                          .idle = cpu_idle,
                                          .may_continue = cpu_may_continue,
                                          .output_room = cpu_output_room };
