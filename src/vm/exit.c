/* exit.c - serves what KVM_RUN returned with: one switch over exit reasons.
 *
 * Follows Documentation/virt/kvm/api.rst, section 5 (the kvm_run structure). */
#include "vm/trace.h"
#include "vm/vm.h"

#include "kvm/interrupt.h"

#include <stdio.h>
#include <string.h>

#define SLOW_NS 100000000u /* that the items of one exit may take after the run was to end */

static const char *const names[MK_EXIT_KINDS] = {
    [KVM_EXIT_UNKNOWN] = "unknown",
    [KVM_EXIT_EXCEPTION] = "exception",
    [KVM_EXIT_IO] = "io",
    [KVM_EXIT_HYPERCALL] = "hypercall",
    [KVM_EXIT_DEBUG] = "debug",
    [KVM_EXIT_HLT] = "hlt",
    [KVM_EXIT_MMIO] = "mmio",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window",
    [KVM_EXIT_SHUTDOWN] = "shutdown",
    [KVM_EXIT_FAIL_ENTRY] = "fail_entry",
    [KVM_EXIT_INTR] = "intr",
    [KVM_EXIT_SET_TPR] = "set_tpr",
    [KVM_EXIT_INTERNAL_ERROR] = "internal_error",
    [KVM_EXIT_SYSTEM_EVENT] = "system_event",
    [KVM_EXIT_X86_RDMSR] = "rdmsr",
    [KVM_EXIT_X86_WRMSR] = "wrmsr",
};

const char *mk_exit_name(unsigned kind)
{
    return kind < MK_COUNT(names) ? names[kind] : NULL;
}

void mk_trace(struct mk_vcpu *c, const struct mk_trace *event)
{
    c->vm->ops->trace(c->vm->ctx, c, event);
}

/* Serves an exit of a VM that is traced, and tells when that is done. */
static MK_COLD void serve_traced(struct mk_vcpu *c, void (*serve)(struct mk_vcpu *c, bool traced))
{
    uint64_t began = mk_now();
    serve(c, true);
    mk_trace(c, &(struct mk_trace){ .kind = MK_TRACE_SERVED, .value = began });
}

/* Seldom wanted, and asked for once at an exit: what serves one is compiled twice. */
#define SERVED_INLINE static inline __attribute__((always_inline)) void
#define SERVE(c, serve) ((c)->vm->tracing ? serve_traced(c, serve) : serve(c, false))

static MK_COLD void trace_access(struct mk_vcpu *c, enum mk_trace_kind kind, uint64_t address,
                                 unsigned size, uint64_t value)
{
    struct mk_trace event = { .kind = kind, .size = size, .address = address, .value = value };
    mk_trace(c, &event);
}

static void account(struct mk_vcpu *c, const struct mk_served *served)
{
    c->counters.c += served->c;
    c->counters.lua += served->lua;
    c->counters.none += served->none;
}

/* An item of 1, 2 or 4 bytes of the processor's. */
static uint32_t load_item(const uint8_t *data, uint8_t size)
{
    uint32_t value = data[0];
    if (size > 1)
        value |= (uint32_t)data[1] << 8;
    if (size > 2)
        value |= (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
    return value;
}

static void store_item(uint8_t *data, uint8_t size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)(value >> (8 * i));
}

SERVED_INLINE in_item(struct mk_vcpu *c, uint16_t port, uint8_t size, uint8_t *data,
                      struct mk_served *served, bool traced)
{
    uint64_t value = mk_bus_in(&c->vm->bus, &c->cpu, port, size, served);
    store_item(data, size, (uint32_t)value);
    if (traced)
        trace_access(c, MK_TRACE_IN, port, size, value);
}

SERVED_INLINE out_item(struct mk_vcpu *c, uint16_t port, uint8_t size, const uint8_t *data,
                       struct mk_served *served, bool traced)
{
    uint32_t value = load_item(data, size);
    if (traced)
        trace_access(c, MK_TRACE_OUT, port, size, value);
    mk_bus_out(&c->vm->bus, &c->cpu, port, size, value, served);
}

/* Of an access that nobody serves: why it came here. */
static const char *place_of(const struct mk_vcpu *c, uint64_t address)
{
    if (c->run->exit_reason != KVM_EXIT_MMIO)
        return "";
    return mk_mem_find(&c->vm->mem, address) ? "it is read-only memory and "
                                             : "it is outside RAM and ";
}

static void check_unhandled(struct mk_vcpu *c, const struct mk_served *served, const char *what)
{
    if (served->none && c->vm->unhandled_fault)
        mk_vcpu_end(c, MK_FAULT, 0, false, "%s 0x%llx: %snobody serves it (unhandled=\"fault\")",
                    what, (unsigned long long)served->unhandled_at,
                    place_of(c, served->unhandled_at));
}

/* Several items whose handlers are slow: the run's end need not wait for all of them. `began` is
 * when the first tick came in between. */
static void check_slow(struct mk_vcpu *c, uint64_t *began)
{
    if (!__atomic_load_n(&c->run->immediate_exit, __ATOMIC_RELAXED))
        return;
    if (!*began)
        *began = mk_now();
    else if (mk_now() - *began > SLOW_NS)
        mk_vcpu_may_continue(c);
}

/* Without an order of its own: KVM_RUN, which takes the vCPU's lock before it looks whether to
 * return at once (kvm_vcpu_ioctl() of virt/kvm/kvm_main.c), gives it one. */
static inline void set_in_access(struct mk_vcpu *c, bool on)
{
    atomic_store_explicit(&c->in_access, on, memory_order_relaxed);
}

/* String I/O may bring several items at once. The run ends after the item that asked for it. */
SERVED_INLINE serve_io(struct mk_vcpu *c, bool traced)
{
    struct kvm_run *run = c->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    uint16_t port = run->io.port;
    uint8_t size = run->io.size;
    bool in = run->io.direction == KVM_EXIT_IO_IN;
    c->incomplete = true;
    set_in_access(c, true);
    struct mk_served served = { 0 };
    uint64_t began = 0;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        if (i)
            check_slow(c, &began);
        if (c->end.reason != MK_RUNNING)
            memset(data, 0xff, in ? size : 0);
        else if (in)
            in_item(c, port, size, data, &served, traced);
        else
            out_item(c, port, size, data, &served, traced);
    }
    account(c, &served);
    set_in_access(c, false);
    if (served.collectable && size == 1)
        mk_zones_count_out(&c->vm->zones, port);
    check_unhandled(c, &served, in ? "IN from port" : "OUT to port");
}

/* An access outside RAM, or to a page that is not RAM in the guest's own tables. */
SERVED_INLINE serve_mmio(struct mk_vcpu *c, bool traced)
{
    if (c->assist && c->assist->ops->mmio(c))
        return;
    struct kvm_run *run = c->run;
    struct mk_bus *bus = &c->vm->mmio;
    struct mk_served served = { 0 };
    uint64_t gpa = run->mmio.phys_addr, value = 0;
    if (c->assist)
        gpa = c->assist->ops->address(c, gpa);
    uint8_t size = run->mmio.len <= 8 ? (uint8_t)run->mmio.len : 8;
    c->incomplete = true;
    set_in_access(c, true);
    if (run->mmio.is_write) {
        memcpy(&value, run->mmio.data, size);
        if (traced)
            trace_access(c, MK_TRACE_WRITE, gpa, size, value);
        mk_bus_out(bus, &c->cpu, gpa, size, value, &served);
        if (served.none)
            mk_mem_count_ignored(&c->vm->mem, gpa);
    } else {
        value = mk_bus_in(bus, &c->cpu, gpa, size, &served);
        memcpy(run->mmio.data, &value, size);
        if (traced)
            trace_access(c, MK_TRACE_READ, gpa, size, value);
    }
    account(c, &served);
    set_in_access(c, false);
    check_unhandled(c, &served, run->mmio.is_write ? "write to" : "read from");
}

/* An MSR that a script hooked, or that KVM does not know (api.rst 5, KVM_EXIT_X86_RDMSR). */
SERVED_INLINE serve_msr(struct mk_vcpu *c, bool traced)
{
    struct kvm_run *run = c->run;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
    struct mk_bus *bus = &c->vm->msrs;
    struct mk_served served = { 0 };
    uint32_t index = run->msr.index;
    c->msr_refused = false;
    if (write)
        mk_bus_out(bus, &c->cpu, index, 8, run->msr.data, &served);
    else
        run->msr.data = mk_bus_in(bus, &c->cpu, index, 8, &served);
    if (traced)
        trace_access(c, write ? MK_TRACE_WRMSR : MK_TRACE_RDMSR, index, 8, run->msr.data);
    account(c, &served);
    run->msr.error = c->msr_refused || served.none;
    c->incomplete = true;
    check_unhandled(c, &served, write ? "WRMSR to" : "RDMSR of");
}

/* The bytes at CS:RIP, as far as they are mapped to RAM. */
static void fetch_code(struct mk_vcpu *c)
{
    struct kvm_sregs s;
    c->code_length = 0;
    if (mk_vcpu_get_guest_sregs(c, &s) < 0)
        return;
    c->code_length = mk_fetch_code(c->mem, &s, mk_vcpu_get_regs(c)->rip, c->code, sizeof(c->code));
}

static void describe_code(struct mk_vcpu *c, char *text, size_t size)
{
    int used = snprintf(text, size, "at rip 0x%llx%s", (unsigned long long)mk_vcpu_get_regs(c)->rip,
                        c->code_length ? " (bytes" : ", where no RAM is");
    for (unsigned i = 0; i < c->code_length; i++)
        used += snprintf(text + used, size - (size_t)used, " %02x", c->code[i]);
    if (c->code_length)
        snprintf(text + used, size - (size_t)used, ")");
}

static void emulation_failed(struct mk_vcpu *c)
{
    char where[100];
    const struct kvm_run *run = c->run;
    fetch_code(c);
    if (run->emulation_failure.ndata >= 3 &&
        run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
        c->code_length = run->emulation_failure.insn_size;
        if (c->code_length > sizeof(run->emulation_failure.insn_bytes))
            c->code_length = sizeof(run->emulation_failure.insn_bytes);
        memcpy(c->code, run->emulation_failure.insn_bytes, c->code_length);
    }
    describe_code(c, where, sizeof(where));
    const char *missing = mk_vm_missing_assist();
    mk_vcpu_end(c, MK_FAULT, 0, false, "KVM could not run the instruction %s%s%s", where,
                missing ? "; " : "", missing ? missing : "");
}

static void internal_error(struct mk_vcpu *c)
{
    if (c->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        if (!c->assist || !c->assist->ops->failure(c))
            emulation_failed(c);
    } else {
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM internal error, suberror %u",
                    c->run->internal.suberror);
    }
}

/* AMD's SVM leaves the state undefined after a shutdown, and KVM resets the vCPU: what is left is
 * the reset vector (Intel SDM volume 3, table 10-1). */
static bool state_lost(struct mk_vcpu *c)
{
    struct kvm_sregs s;
    return mk_vcpu_get_sregs(c, &s) == 0 && mk_vcpu_get_regs(c)->rip == 0xfff0 &&
           s.cs.base == 0xffff0000 && !(s.cr0 & MK_CR0_PE);
}

static void shut_down(struct mk_vcpu *c)
{
    char where[100];
    if (c->assist && c->assist->ops->shutdown(c))
        return;
    if (state_lost(c)) {
        mk_vcpu_end(c, MK_SHUTDOWN, 0, false,
                    "triple fault after rip 0x%llx, the last place it was "
                    "seen at: this KVM resets the vCPU then, its registers are lost",
                    (unsigned long long)c->last_rip);
        return;
    }
    fetch_code(c);
    describe_code(c, where, sizeof(where));
    mk_vcpu_end(c, MK_SHUTDOWN, 0, false,
                "triple fault %s: an exception could not be delivered, "
                "nor the double fault that followed; look at the IDT and the stack",
                where);
}

/* HLT: with interrupts on it lasts until one comes, without burning a core; or until the VM, while
 * it is paused, is restored. */
SERVED_INLINE halted(struct mk_vcpu *c, bool traced)
{
    struct mk_vm *vm = c->vm;
    if (traced)
        trace_access(c, MK_TRACE_HLT, 0, 0, 0);
    mk_vm_serve_due(vm, c); /* a doorbell may have been rung */
    bool enabled = mk_vcpu_get_regs(c)->rflags & MK_RFLAGS_IF;
    unsigned loads = c->loads;
    while (c->end.reason == MK_RUNNING && c->loads == loads) {
        if (mk_interrupt_deliverable(c, enabled))
            return;
        bool asleep = !enabled || !mk_vm_can_wake(vm);
        /* A request, such as to stop, comes first; but with interrupts off it has ended before. */
        uint32_t requests = atomic_load(&c->requests) & ~(enabled ? 0u : MK_REQ_STOP);
        if (asleep && !requests) {
            mk_vcpu_end(c, MK_HALT, 0, false, "HLT with interrupts %s and nothing to wake it",
                        enabled ? "on" : "off");
            return;
        }
        mk_vcpu_sleep(c, UINT64_MAX);
        mk_vcpu_handle_events(c);
    }
}

/* --- coalesced output --- */

MK_HOT void mk_vcpu_drain(struct mk_vcpu *c)
{
    struct kvm_coalesced_mmio_ring *ring = c->ring;
    if (!ring)
        return;
    const uint32_t slots = (MK_PAGE - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio);
    while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
        const struct kvm_coalesced_mmio *entry = &ring->coalesced_mmio[ring->first];
        struct mk_served served = { .coalesced = true };
        if (entry->pio && entry->len == 1)
            mk_bus_out(&c->vm->bus, &c->cpu, (uint16_t)entry->phys_addr, 1, entry->data[0],
                       &served);
        c->counters.coalesced++;
        __atomic_store_n(&ring->first, (ring->first + 1) % slots, __ATOMIC_RELEASE);
    }
}

/* --- the switch --- */

MK_HOT void mk_vcpu_exit(struct mk_vcpu *c)
{
    const struct kvm_run *run = c->run;
    unsigned kind = run->exit_reason;
    c->counters.exits++;
    c->counters.by[kind < MK_EXIT_KINDS ? kind : KVM_EXIT_UNKNOWN]++;
    if (kind == KVM_EXIT_IO) { /* by far the most frequent: without a jump table */
        SERVE(c, serve_io);
        return;
    }
    switch (kind) {
    case KVM_EXIT_MMIO: SERVE(c, serve_mmio); break;
    case KVM_EXIT_X86_RDMSR: SERVE(c, serve_msr); break;
    case KVM_EXIT_X86_WRMSR: SERVE(c, serve_msr); break;
    case KVM_EXIT_HLT: SERVE(c, halted); break;
    case KVM_EXIT_IRQ_WINDOW_OPEN: break; /* what waits is offered before the next entry */
    case KVM_EXIT_SET_TPR:
        if (c->vm->tracing)
            trace_access(c, MK_TRACE_CR8, 0, 0, run->cr8);
        break;
    case KVM_EXIT_SHUTDOWN: shut_down(c); break;
    case KVM_EXIT_INTERNAL_ERROR: internal_error(c); break;
    case KVM_EXIT_FAIL_ENTRY:
        mk_vcpu_end(c, MK_FAULT, 0, false, "the processor refuses the vCPU's state, reason 0x%llx",
                    (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM stopped the vCPU with exit %u (%s)", kind,
                    mk_exit_name(kind) ? mk_exit_name(kind) : "unknown to minikvm");
    }
}
