/* state.c - takes and sets all of a VM but its RAM. See snapshot.h. */
#include "snapshot/snapshot.h"

#include "base/abi.h"
#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- capture --- */

static void capture_devices(struct mk_vm *vm, struct mk_state *s)
{
    mk_uart_save(&vm->uart, &s->uart);
    for (unsigned i = 0; i < vm->cpus; i++) {
        s->call[i].pending = vm->hypercall.answer[i].pending;
        s->call[i].value = vm->hypercall.answer[i].value;
        s->block[i].pending = vm->file.answer[i].pending;
        s->block[i].value = (uint32_t)vm->file.answer[i].value;
    }
    if (!vm->has_pic)
        return;
    mk_pit_save(&vm->pit, &s->pit); /* settles what is due: before the PIC it goes to */
    mk_i8042_save(&vm->keyboard, &s->keyboard);
    mk_pic_save(&vm->pic, &s->pic);
}

static bool capture_hooks(struct mk_vm *vm, struct mk_state *s)
{
    mk_bus_save(&vm->m.bus, &s->hooks[0]);
    mk_bus_save(&vm->m.mmio, &s->hooks[1]);
    mk_bus_save(&vm->m.msrs, &s->hooks[2]);
    return !s->hooks[0].failed && !s->hooks[1].failed && !s->hooks[2].failed;
}

static void capture_paging(const struct mk_vm *vm, struct mk_state *s)
{
    const struct mk_assist *a = &vm->assist;
    s->paging = a->shadow.on;
    s->cr3 = a->shadow.cr3;
    s->large = a->shadow.large;
    s->late.pending = a->late.pending;
    s->late.linear = a->late.linear;
    s->late.rip = a->late.rip;
    s->late.length = a->late.length;
    memcpy(s->late.data, a->late.data, sizeof(s->late.data));
}

int mk_state_capture(struct mk_vm *vm, struct mk_state *s, struct mk_err *err)
{
    *s = (struct mk_state){ .vm_state = vm->state, .time = mk_clock_now(&vm->m.clock) };
    for (unsigned i = 0; i < vm->cpus; i++) {
        if (mk_cpu_capture(&vm->cpu[i], &s->cpu[i], err) < 0)
            goto failed;
        s->cpu[i].ready = vm->ready[i];
        if (!mk_file_save(&vm->file, i, &s->wire[i])) {
            mk_fail_errno(err, ENOMEM, "vm \"%s\": snapshot", vm->name);
            goto failed;
        }
    }
    capture_devices(vm, s);
    capture_paging(vm, s);
    if (!mk_console_save(&vm->m.console, &s->console) || !capture_hooks(vm, s)) {
        mk_fail_errno(err, ENOMEM, "vm \"%s\": snapshot", vm->name);
        goto failed;
    }
    if (mk_fsbox_save(&vm->fsbox, &s->files, err) == 0)
        return 0;
failed:
    mk_state_free(s);
    return -1;
}

void mk_state_free(struct mk_state *s)
{
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        mk_cpu_state_free(&s->cpu[i]);
        free(s->wire[i].data);
        s->wire[i].data = NULL;
    }
    mk_console_state_free(&s->console);
    mk_fsbox_state_free(&s->files);
    for (unsigned i = 0; i < MK_COUNT(s->hooks); i++)
        mk_bytes_free(&s->hooks[i]);
}

/* --- restore --- */

/* The PIC first: the others then move its lines from where they were, and find them as they want
 * them. */
static int apply_devices(struct mk_vm *vm, const struct mk_state *s, struct mk_err *err)
{
    for (unsigned i = 0; i < vm->cpus; i++) {
        vm->hypercall.answer[i].pending = s->call[i].pending;
        vm->hypercall.answer[i].value = s->call[i].value;
        vm->file.answer[i].pending = s->block[i].pending;
        vm->file.answer[i].value = (int32_t)s->block[i].value;
        if (mk_file_load(&vm->file, i, &s->wire[i], err) < 0)
            return -1;
    }
    if (vm->has_pic) {
        mk_pic_load(&vm->pic, &s->pic);
        if (mk_i8042_load(&vm->keyboard, &s->keyboard, err) < 0 ||
            mk_pit_load(&vm->pit, &s->pit, err) < 0)
            return -1;
    }
    mk_uart_load(&vm->uart, &s->uart);
    return 0;
}

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
    vm->assist.late.pending = s->late.pending;
    vm->assist.late.linear = s->late.linear;
    vm->assist.late.rip = s->late.rip;
    vm->assist.late.length = s->late.length;
    memcpy(vm->assist.late.data, s->late.data, sizeof(s->late.data));
    if (shadow->on && !mk_shadow_stale(shadow, &vm->m.mem, sregs->cr3, sregs->cr4 & MK_CR4_PSE))
        return 0;
    return mk_assist_paging(&vm->assist, &vm->m.mem, vm->m.fd, sregs, err);
}

void mk_state_fill_hooks(struct mk_vm *vm, const struct mk_state *s)
{
    mk_bus_load(&vm->m.bus, s->hooks[0].data, s->hooks[0].length);
    mk_bus_load(&vm->m.mmio, s->hooks[1].data, s->hooks[1].length);
    mk_bus_load(&vm->m.msrs, s->hooks[2].data, s->hooks[2].length);
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
    if (apply_devices(vm, s, err) < 0)
        return -1;
    if (!mk_console_load(&vm->m.console, &s->console))
        return mk_fail_errno(err, ENOMEM, "vm \"%s\": restore", vm->name);
    if (mk_fsbox_load(&vm->fsbox, &s->files, err) < 0)
        return -1;
    mk_state_fill_hooks(vm, s);
    vm->state = s->vm_state;
    return 0;
}
