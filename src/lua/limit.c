/* limit.c - see limit.h. */
#include "lua/limit.h"

#include "debug/instruction.h"
#include "lua/core.h"

#include <stdio.h>
#include <string.h>

/* As interpreters do at Ctrl-C: mk_lua_interrupted() knows it by these. */
#define EVERY (LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT)

/* --- the hook --- */

static const char *reason_of(enum mk_due due)
{
    switch (due) {
    case MK_DUE_DEADLINE: return "the run's deadline passed";
    case MK_DUE_STOP: return "stopped from outside";
    default: return "it took too long";
    }
}

static void raise_due(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    const struct mk_lua *lua = mk_lua_get(L);
    struct mk_watchdog *g = lua->watchdog;
    if (!g || !g->due) { /* left over in a coroutine from a call that has ended */
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (!g->raised)
        mk_lua_where(L, g->text, sizeof(g->text));
    if (g->text[0] == '?') /* a coroutine of C functions alone */
        mk_lua_where(g->co, g->text, sizeof(g->text));
    g->raised = true;
    g->armed = 0;
    lua_pushfstring(L, "%s: %s", g->text, reason_of(g->due));
    lua_error(L);
}

void mk_watchdog_arm(lua_State *L)
{
    lua_sethook(L, raise_due, EVERY, 1);
}

/* In a signal handler, on the thread that runs Lua. Once it has been armed, `base` does not run Lua
 * code when the next signal finds that the hook was not there: only then the coroutines above it
 * may be looked for, whose stacks would change meanwhile otherwise. Setting a hook walks all frames
 * of a stack: that of a deep recursion may take longer than there is between two signals. So it is
 * done again for the 1st, 2nd, 4th, 8th, 16th and each further 16th signal alone, and the code gets
 * on in between. Not ever more seldom: code that takes the hook off all the time is met by luck. */
static void arm_all(struct mk_watchdog *g, lua_State *base)
{
    unsigned before = g->armed++;
    if ((before & (before - 1)) && before % 16)
        return;
    mk_watchdog_arm(base);
    for (lua_State *co = before ? mk_lua_resumed(base) : NULL; co; co = mk_lua_resumed(co))
        mk_watchdog_arm(co);
}

/* The call is due: system calls that it blocks in return from the next signal on. */
static void end_call(struct mk_watchdog *g, lua_State *base)
{
    if (!g->interrupts)
        mk_kick_interrupt_syscalls(true);
    g->interrupts = true;
    arm_all(g, base);
}

void mk_watchdog_end_script(struct mk_lua *lua, struct mk_watchdog *g)
{
    atomic_store(&lua->ending, true);
    if (!lua->away)
        end_call(g, lua->base);
    else if (lua_gethook(lua->main) != raise_due)
        mk_watchdog_arm(lua->main);
}

/* --- watchdogs --- */

/* Only its own thread writes these, and orders nothing by them. */
static unsigned get(_Atomic unsigned *field)
{
    return atomic_load_explicit(field, memory_order_relaxed);
}

static void set(_Atomic unsigned *field, unsigned value)
{
    atomic_store_explicit(field, value, memory_order_relaxed);
}

MK_HOT void mk_watchdog_enter(struct mk_lua *lua, struct mk_watchdog *g, lua_State *co)
{
    unsigned depth = get(&g->depth);
    if (depth == 0) {
        set(&g->calls, get(&g->calls) + 1);
        atomic_store_explicit(&g->used, 0, memory_order_relaxed);
        atomic_store_explicit(&g->due, MK_DUE_NOT, memory_order_relaxed);
        g->raised = false;
        g->armed = 0;
        g->co = co;
    }
    lua->base = co;
    lua->watchdog = g;
    set(&g->depth, depth + 1);
}

MK_HOT void mk_watchdog_leave(struct mk_watchdog *g, lua_State *co)
{
    unsigned depth = get(&g->depth) - 1;
    set(&g->depth, depth);
    if (depth > 0 || !g->due)
        return;
    lua_sethook(co, NULL, 0, 0);
    if (g->interrupts)
        mk_kick_interrupt_syscalls(false);
    g->interrupts = false;
}

void mk_watchdog_suspend(struct mk_watchdog *g, struct mk_watchdog *kept)
{
    uint64_t since = g->seen == g->calls ? g->since : mk_now();
    kept->depth = get(&g->depth);
    kept->used = g->used + (mk_now() - since);
    kept->due = g->due;
    kept->raised = g->raised;
    kept->armed = g->armed;
    kept->interrupts = g->interrupts;
    kept->co = g->co;
    memcpy(kept->text, g->text, sizeof(g->text));
    g->interrupts = false;
    set(&g->depth, 0);
}

/* It is a new call to the I/O thread. */
void mk_watchdog_resume(struct mk_watchdog *g, const struct mk_watchdog *kept, uint64_t ns,
                        enum mk_reason reason)
{
    bool ends = reason != MK_RUNNING && !kept->due;
    g->used = kept->used;
    g->ran = kept->used + ns;
    g->due = !ends ? kept->due : reason == MK_DEADLINE ? MK_DUE_DEADLINE : MK_DUE_STOP;
    g->raised = kept->raised;
    g->armed = kept->armed;
    g->interrupts = kept->interrupts;
    g->co = kept->co;
    memcpy(g->text, kept->text, sizeof(g->text));
    set(&g->calls, get(&g->calls) + 1);
    set(&g->depth, kept->depth);
}

/* --- handlers --- */

static enum mk_due end_requested(const struct mk_lua_vm *v, struct mk_vcpu *c, uint64_t now)
{
    const struct mk_lua *lua = v->lua;
    if (atomic_load(&c->requests) & MK_REQ_STOP)
        return atomic_load(&c->stop_reason) == MK_DEADLINE ? MK_DUE_DEADLINE : MK_DUE_STOP;
    if (now >= v->vm.deadline)
        return MK_DUE_DEADLINE;
    bool waits = v->in_run || atomic_load(&lua->script_waits);
    return waits && mk_lua_interrupted(lua, v->in_run ? v->hook_before : lua_gethook(lua->main))
               ? MK_DUE_STOP
               : MK_DUE_NOT;
}

static enum mk_due check_call(const struct mk_lua_vm *v, struct mk_vcpu *c, struct mk_watchdog *g,
                              uint64_t now)
{
    if (now - g->since >= v->handler_ns)
        return MK_DUE_HANDLER;
    enum mk_due due = end_requested(v, c, now);
    if (due && !g->asked)
        g->asked = now;
    return due && now - g->asked >= MK_GRACE_NS ? due : MK_DUE_NOT;
}

/* --- what is said about it --- */

static void instruction(const uint8_t *code, unsigned length, unsigned bits, uint64_t rip,
                        char *text, size_t size)
{
    if (mk_disassemble(code, length, bits, rip, text, size))
        return;
    int used = snprintf(text, size, length ? "bytes" : "no RAM there");
    for (unsigned i = 0; i < length && i < 8; i++)
        used += snprintf(text + used, size - (size_t)used, " %02x", code[i]);
}

/* "rip 0x1004: in al, dx" */
static void describe_guest(struct mk_vcpu *c, char *text, size_t size)
{
    struct kvm_sregs s;
    uint8_t code[15];
    char insn[100];
    uint64_t rip = mk_access_rip(c);
    if (c->run->exit_reason == KVM_EXIT_MMIO && c->run->mmio.is_write) {
        snprintf(text, size, "the write before rip 0x%llx", (unsigned long long)rip);
        return; /* KVM has moved on, and how long the instruction was is anybody's guess */
    }
    if (mk_vcpu_get_guest_sregs(c, &s) < 0) {
        snprintf(text, size, "rip 0x%llx", (unsigned long long)rip);
        return;
    }
    unsigned length = mk_fetch_code(c->mem, &s, rip, code, sizeof(code));
    instruction(code, length, mk_code_bits(&s), rip, insn, sizeof(insn));
    snprintf(text, size, "rip 0x%llx: %s", (unsigned long long)rip, insn);
}

/* What the handler answered: as its glue said, or else the exit that is being served. */
static void describe_handler(const struct mk_lua_vm *v, unsigned cpu, char *text, size_t size)
{
    const struct kvm_run *run = v->vm.cpu[cpu]->c.run;
    if (v->cpu[cpu]->what)
        snprintf(text, size, "%s", v->cpu[cpu]->what);
    else if (run->exit_reason == KVM_EXIT_IO)
        snprintf(text, size, "the handler of port 0x%x", run->io.port);
    else if (run->exit_reason == KVM_EXIT_MMIO)
        snprintf(text, size, "the handler of address 0x%llx",
                 (unsigned long long)run->mmio.phys_addr);
    else if (run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR)
        snprintf(text, size, "the handler of MSR 0x%x", run->msr.index);
    else
        snprintf(text, size, "a handler");
}

void mk_limit_describe(struct mk_lua_vm *v, unsigned cpu)
{
    describe_guest(&v->vm.cpu[cpu]->c, v->cpu[cpu]->waiting, sizeof(v->cpu[cpu]->waiting));
}

bool mk_lua_overdue(void *ctx, struct mk_vcpu *c)
{
    struct mk_lua_vm *v = ctx;
    struct mk_watchdog *g = &v->cpu[c->cpu.index]->watchdog;
    unsigned call = g->calls;
    if (g->depth == 0)
        return false;
    uint64_t now = mk_now();
    if (call != g->seen) {
        g->since = now - g->used;
        g->asked = 0;
        g->seen = call;
    }
    enum mk_due why = g->due_call == call ? MK_DUE_NOT : check_call(v, c, g, now);
    if (why) {
        g->why = why;
        g->ran = now - g->since;
        g->due_call = call; /* the last: now it counts */
    }
    return g->due || g->due_call == call;
}

/* The call that was found due may be over, and another one in progress. */
void mk_lua_kicked(void *ctx, struct mk_vcpu *c)
{
    struct mk_lua_vm *v = ctx;
    struct mk_watchdog *g = &v->cpu[c->cpu.index]->watchdog;
    if (g->depth == 0 || v->cpu[c->cpu.index]->waits)
        return;
    bool found = g->due_call == g->calls;
    if (found && !g->due)
        g->due = g->why;
    if (g->due)
        end_call(g, v->lua->base);
}

static enum mk_reason end_reason(enum mk_due due, struct mk_vcpu *c)
{
    enum mk_reason asked = (enum mk_reason)atomic_load(&c->stop_reason);
    if (due == MK_DUE_DEADLINE)
        return MK_DEADLINE;
    return due == MK_DUE_STOP ? (asked ? asked : MK_STOPPED) : MK_ERROR;
}

bool mk_limit_end_vm(struct mk_lua_vm *v, unsigned cpu)
{
    struct mk_vcpu *c = &v->vm.cpu[cpu]->c;
    const struct mk_watchdog *g = &v->cpu[cpu]->watchdog;
    char handler[60], why[60];
    if (!g->due || !g->raised)
        return false;
    if (g->due != MK_DUE_HANDLER && c->end.reason == MK_ERROR)
        return true; /* another handler failed, that is why this one was ended */
    describe_handler(v, cpu, handler, sizeof(handler));
    if (g->due == MK_DUE_HANDLER)
        snprintf(why, sizeof(why), "its limit is %g s", (double)v->handler_ns / 1e9);
    else
        snprintf(why, sizeof(why), "%s", reason_of(g->due));
    c->end.reason = MK_RUNNING; /* also when it has ended: with the guest's last line */
    mk_vcpu_end(c, end_reason(g->due, c), 0, true,
                "%s: %s was ended after %.1f s: %s; the guest waits at %s", g->text, handler,
                (double)g->ran / 1e9, why, v->cpu[cpu]->waiting);
    return true;
}
