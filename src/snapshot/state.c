/* state.c - takes and sets all of a VM but its RAM. See snapshot.h. */
#include "snapshot/snapshot.h"

#include "base/abi.h"
#include "snapshot/cpu.h"
#include "x86/mode.h"

#include <errno.h>

/* --- capture --- */

/* What a vCPU of a paused VM has come to, for a run that goes on from there. */
static const struct mk_end paused_end = { .reason = MK_STOPPED,
                                          .resumable = true,
                                          .text = "paused" };

static int save_cpu(struct mk_vm *vm, unsigned index, struct mk_codec *k)
{
    struct mk_vcpu *c = &vm->cpu[index]->c;
    struct mk_cpu_state cpu;
    if (mk_cpu_save(c, &cpu, k->err) < 0)
        return -1;
    struct mk_end end = c->end;
    if (vm->state == MK_VM_RUNNING && end.reason == MK_RUNNING)
        c->end = paused_end;
    mk_bytes_u8(k->out, vm->cpu[index]->ready);
    mk_cpu_code(k, c, &cpu);
    c->end = end;
    mk_cpu_state_free(&cpu);
    return mk_codec_failed(k) ? -1 : 0;
}

int mk_state_save(struct mk_vm *vm, struct mk_state *s, struct mk_err *err)
{
    *s = (struct mk_state){ .vm_state = vm->state == MK_VM_RUNNING ? MK_VM_ENDED : vm->state,
                            .time = mk_clock_now(&vm->clock),
                            .input = mk_console_tell(&vm->console),
                            .paging = mk_vm_assists_paging(vm) };
    if (vm->assist)
        s->deferred = vm->assist->deferred;
    struct mk_codec k = { .out = &s->cpus, .err = err };
    int rc = 0;
    for (unsigned i = 0; i < vm->cpus && rc == 0; i++)
        rc = save_cpu(vm, i, &k);
    if (rc == 0)
        rc = mk_devs_save(&vm->devices, s->time, &s->devices, err);
    if (rc < 0)
        mk_state_free(s);
    return rc;
}

void mk_state_free(struct mk_state *s)
{
    mk_bytes_free(&s->cpus);
    mk_bytes_free(&s->devices);
}

/* --- restore --- */

/* 32-bit paging that this host's KVM does not run. A snapshot may come from a host that does, or
 * go to one. */
static bool wants_assist(const struct mk_vm *vm, const struct mk_state *s,
                         const struct kvm_sregs *r)
{
    bool paging32 = r->cr0 & MK_CR0_PG && !(r->efer & MK_EFER_LME);
    bool native = vm->boot_features & MK_BOOT_PAGING_NATIVE;
    return paging32 && !native && (s->paging || vm->mode != MK_MODE_REAL);
}

static int apply_paging(struct mk_vm *vm, const struct mk_state *s, struct kvm_sregs *sregs,
                        struct mk_err *err)
{
    bool without_slots = vm->slots_later;
    vm->slots_later = false;
    if (!wants_assist(vm, s, sregs))
        return without_slots ? mk_mem_register(&vm->mem, vm->fd, err) : mk_vm_end_paging(vm, err);
    if (vm->assist)
        vm->assist->deferred = s->deferred;
    return mk_vm_set_paging(vm, sregs, err);
}

static int load_cpus(struct mk_vm *vm, const struct mk_state *s, bool check, struct mk_err *err)
{
    struct mk_codec k = { .in = { .at = s->cpus.data, .left = s->cpus.length }, .err = err };
    for (unsigned i = 0; i < vm->cpus && !k.bad; i++) {
        struct mk_cpu_state cpu = { 0 };
        vm->cpu[i]->ready = mk_reader_u8(&k.in);
        mk_cpu_code(&k, &vm->cpu[i]->c, &cpu);
        struct kvm_sregs sregs = cpu.sregs;
        if (!k.bad && !check)
            k.bad = (i == 0 && apply_paging(vm, s, &sregs, err) < 0) ||
                    mk_cpu_load(&vm->cpu[i]->c, &cpu, &sregs, err) < 0;
        mk_cpu_state_free(&cpu);
    }
    mk_codec_check(&k, k.in.left == 0);
    return k.bad ? -1 : 0;
}

/* The VM is paused: its threads go on from what was restored, but for vCPUs that had come to their
 * end while others had not. */
static void go_on(struct mk_vm *vm)
{
    bool resumes = false;
    for (unsigned i = 0; i < vm->cpus; i++)
        resumes |= vm->cpu[i]->c.end.resumable;
    for (unsigned i = 0; i < vm->cpus; i++) {
        struct mk_end *end = &vm->cpu[i]->c.end;
        if (!resumes || (end->reason != MK_HALT && end->reason != MK_EXIT))
            *end = (struct mk_end){ 0 };
    }
}

int mk_state_load(struct mk_vm *vm, const struct mk_state *s, enum mk_load how, struct mk_err *err)
{
    if (how != MK_LOAD_HOOKS && load_cpus(vm, s, how == MK_LOAD_CHECK, err) < 0)
        return -1;
    if (how == MK_LOAD_ALL) {
        mk_clock_set(&vm->clock, s->time);
        mk_console_seek(&vm->console, &s->input);
        if (vm->state == MK_VM_RUNNING)
            go_on(vm);
        else
            mk_vm_set_state(vm, s->vm_state);
    }
    return mk_devs_load(&vm->devices, s->time, &s->devices, how, err);
}
