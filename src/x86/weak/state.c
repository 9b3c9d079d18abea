/* state.c - see state.h. */
#include "x86/weak/state.h"

#include "x86/mode.h"

#include <string.h>

bool mk_weak_begin(struct mk_weak_exit *x, struct mk_vcpu *c)
{
    x->c = c;
    x->a = mk_weak_of(c);
    if (mk_vcpu_get_state(c, &x->s) < 0)
        return false;
    mk_vcpu_show_paging(c, &x->s.sregs);
    x->mask = mk_code_bits(&x->s.sregs) == 64 ? UINT64_MAX : UINT32_MAX;
    return true;
}

/* KVM queues #UD when it reports an emulation failure; whatever we do instead replaces it. */
void mk_weak_clear_exception(struct mk_weak_exit *x)
{
    memset(&x->s.events.exception, 0, sizeof(x->s.events.exception));
}

bool mk_weak_commit(struct mk_weak_exit *x)
{
    mk_vcpu_hide_paging(x->c, &x->s.sregs);
    x->c->run->ready_for_interrupt_injection = 0; /* this state's events would overwrite it */
    return mk_vcpu_set_state(x->c, &x->s) == 0;
}

void mk_weak_raise(struct mk_weak_exit *x, uint8_t vector, uint32_t code)
{
    mk_weak_clear_exception(x);
    x->s.events.exception.injected = 1;
    x->s.events.exception.nr = vector;
    x->s.events.exception.has_error_code = 1;
    x->s.events.exception.error_code = code;
    mk_weak_commit(x);
}

bool mk_weak_copy(const struct mk_weak_exit *x, uint64_t linear, void *data, size_t length,
                  bool write)
{
    return mk_linear_copy(x->c->mem, &x->s.sregs, linear & x->mask, data, length, write) == length;
}
