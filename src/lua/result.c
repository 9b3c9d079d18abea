/* result.c - what run() and wait() return: the reason and the table of information. */
#include "lua/core.h"

#include <stdio.h>
#include <stdlib.h>

static void add_counters(struct mk_counters *sum, const struct mk_counters *c)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)c;
    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++) /* it has no other fields */
        to[i] += from[i];
}

static void push_counters(lua_State *L, const struct mk_counters *c)
{
    mk_set_integer(L, "entries", c->entries);
    mk_set_integer(L, "exits", c->exits);
    mk_set_integer(L, "assists", c->assists);
    lua_newtable(L);
    for (unsigned i = 0; i < MK_EXIT_KINDS; i++)
        if (c->by[i])
            mk_set_integer(L, mk_exit_name(i) ? mk_exit_name(i) : "other", c->by[i]);
    lua_setfield(L, -2, "by");
    lua_createtable(L, 0, 4);
    mk_set_integer(L, "c", c->c);
    mk_set_integer(L, "lua", c->lua);
    mk_set_integer(L, "none", c->none);
    mk_set_integer(L, "coalesced", c->coalesced);
    lua_setfield(L, -2, "served");
}

static void set_code(lua_State *L, const struct mk_vcpu *c)
{
    char hex[3 * sizeof(c->code) + 1] = "";
    for (unsigned i = 0; i < c->code_length; i++)
        snprintf(hex + 3 * i, 4, "%02x ", c->code[i]);
    if (c->code_length)
        hex[3 * c->code_length - 1] = 0;
    mk_set_string(L, "bytes", hex);
}

/* The vectors delivered last, newest last. */
static void push_interrupts(lua_State *L, const struct mk_vcpu *c)
{
    uint64_t kept = MK_COUNT(c->irq.last);
    uint64_t first = c->irq.delivered > kept ? c->irq.delivered - kept : 0;
    lua_newtable(L);
    for (uint64_t i = first; i < c->irq.delivered; i++) {
        lua_pushinteger(L, c->irq.last[i % kept]);
        lua_rawseti(L, -2, (lua_Integer)(i - first + 1));
    }
    lua_setfield(L, -2, "interrupts");
}

static void push_end(lua_State *L, struct mk_lua_vm *v, const struct mk_vcpu *c)
{
    mk_set_string(L, "reason", mk_reason_name(c->end.reason));
    mk_set_string(L, "text", c->end.text);
    mk_set_integer(L, "rip", mk_vcpu_get_regs(&v->vm.cpu[c->cpu.index]->c)->rip);
    if (c->end.reason == MK_EXIT)
        mk_set_integer(L, "code", (uint64_t)c->end.code);
    if (c->end.reason == MK_FAULT || c->end.reason == MK_SHUTDOWN) {
        set_code(L, c);
        push_interrupts(L, c);
    }
    if (v->cpu[c->cpu.index]->waiting[0])
        mk_set_string(L, "waiting", v->cpu[c->cpu.index]->waiting);
    if (v->cpu[c->cpu.index]->traceback)
        mk_set_string(L, "traceback", v->cpu[c->cpu.index]->traceback);
}

void mk_forget_result(struct mk_lua_vm *v)
{
    for (unsigned i = 0; i < v->cpus; i++) {
        free(v->cpu[i]->traceback);
        v->cpu[i]->traceback = NULL;
        v->cpu[i]->waiting[0] = 0;
        v->cpu[i]->set = NULL;
    }
}

int mk_push_result(lua_State *L, struct mk_lua_vm *v)
{
    const struct mk_vcpu *verdict = mk_vm_deciding_cpu(&v->vm);
    struct mk_counters sum = { 0 };
    lua_pushstring(L, mk_reason_name(verdict->end.reason));
    lua_createtable(L, 0, 12);
    push_end(L, v, verdict);
    lua_createtable(L, (int)v->vm.cpus, 1);
    for (unsigned i = 0; i < v->vm.cpus; i++) {
        add_counters(&sum, &v->vm.cpu[i]->c.counters);
        lua_createtable(L, 0, 8);
        push_end(L, v, &v->vm.cpu[i]->c);
        push_counters(L, &v->vm.cpu[i]->c.counters);
        lua_rawseti(L, -2, i);
    }
    lua_setfield(L, -2, "cpu");
    push_counters(L, &sum);
    if (verdict->end.reason == MK_BREAK) {
        mk_push_stop(L, v);
        lua_setfield(L, -2, "stop");
    }
    mk_set_seconds(L, "seconds", (v->vm.ended - v->vm.began));
    return 2;
}
