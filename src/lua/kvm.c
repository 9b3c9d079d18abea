/* kvm.c - KVM's device as a Lua state has it open, and the I/O thread beside it.
 *
 * Asking KVM for the processor's features takes longer than all else that opens it. The program
 * lets the I/O thread do that while it loads its parts written in Lua. */
#include "lua/core.h"

static struct {
    atomic_bool begun;
    struct mk_io_timer timer; /* set to now: the I/O thread calls */
    bool over;
    int status;
    struct mk_kvm kvm;
    struct mk_err err;
} early;

static void open_early(void *unused)
{
    (void)unused;
    early.status = mk_kvm_open(&early.kvm, &early.err);
    early.over = true;
}

void mk_lua_begin_kvm(void)
{
    if (mk_io_ref(&early.err) < 0)
        return; /* the first VM tells why */
    early.timer.fire = open_early;
    early.begun = true;
    mk_io_arm(&early.timer, 0);
}

/* The caller holds the I/O thread. */
static int open_kvm(struct mk_kvm *kvm, struct mk_err *err)
{
    if (!atomic_exchange(&early.begun, false))
        return mk_kvm_open(kvm, err);
    mk_io_disarm(&early.timer);
    mk_io_unref();
    if (!early.over)
        return mk_kvm_open(kvm, err);
    *kvm = early.kvm;
    *err = early.err;
    return early.status;
}

void mk_lua_end_kvm(void)
{
    if (!atomic_exchange(&early.begun, false))
        return;
    mk_io_disarm(&early.timer);
    mk_io_unref();
    if (early.over && early.status == 0)
        mk_kvm_close(&early.kvm);
}

int mk_lua_open_kvm(struct mk_lua *lua, struct mk_err *err)
{
    if (lua->kvm_open)
        return 0;
    if (mk_io_ref(err) < 0) /* until the state is closed: starting it takes longer than a run */
        return -1;
    lua->kvm_open = open_kvm(&lua->kvm, err) == 0;
    if (!lua->kvm_open)
        mk_io_unref();
    return lua->kvm_open ? 0 : -1;
}
