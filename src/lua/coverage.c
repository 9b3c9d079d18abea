/* coverage.c - which blocks and branches of a VM's code were reached, for
 * lua/minikvm/debug/coverage.lua: a set of breakpoints that are over with their first hit, and
 * breakpoints on branches, which look at which way each goes.
 *
 * It does not keep its VM: when that is closed or collected, what was reached stays.
 *
 * A branch is looked at until it went the ways that are asked for, or as often as the script says.
 * Intel SDM volume 1, appendix B (conditions); volume 2, "LOOP", "Jcc". */
#include "debug/debug.h"
#include "lua/core.h"

#include <stdlib.h>
#include <string.h>

#define TYPE "minikvm.core.coverage"
#define RECORD "minikvm.core.record"

enum { TAKEN = 1, NOT_TAKEN = 2 };

struct branch {
    struct mk_lua_coverage *cov;
    struct mk_break *_Atomic b;
    uint64_t address;
    unsigned condition; /* as in blocks.c, condition_of() */
    uint8_t need;
    _Atomic uint8_t seen;
    _Atomic bool removed;
    _Atomic int left; /* hits */
};

struct mk_lua_branches {
    struct mk_lua_branches *next;
    struct branch list[];
};

/* Blocks, and what was reached of them by all VMs that they are looked for in. */
struct record {
    _Atomic unsigned refs;
    struct mk_break_members m;
    uint64_t *reported; /* what coverage_reached() gave out */
};

struct mk_lua_coverage {
    struct mk_lua_member member; /* in none: it is over */
    struct record *record;
    struct mk_break_set *set;
    size_t branch_count;
    struct mk_lua_branches *branches;
};

/* --- branches, on the thread of a vCPU --- */

static bool flag(const struct kvm_regs *r, unsigned bit)
{
    return r->rflags >> bit & 1;
}

enum { CF = 0, PF = 2, ZF = 6, SF = 7, OF = 11 };

/* Appendix B: the lowest bit of a condition's number turns it round. */
static bool jcc_taken(const struct kvm_regs *r, unsigned condition)
{
    bool less = flag(r, SF) != flag(r, OF);
    const bool test[8] = { flag(r, OF), flag(r, CF), flag(r, ZF), flag(r, CF) || flag(r, ZF),
                           flag(r, SF), flag(r, PF), less,        less || flag(r, ZF) };
    return test[condition >> 1 & 7] != (condition & 1);
}

static bool is_taken(const struct kvm_regs *r, unsigned condition)
{
    unsigned kind = condition & 0xff, bytes = condition >> 8;
    uint64_t mask = bytes == 8 ? UINT64_MAX : bytes == 4 ? UINT32_MAX : UINT16_MAX;
    if (kind < 16)
        return jcc_taken(r, kind);
    if (kind == 19) /* JCXZ */
        return (r->rcx & mask) == 0;
    bool repeats = ((r->rcx - 1) & mask) != 0;
    return repeats && (kind == 18 || (kind == 17) == flag(r, ZF));
}

static void remove_branch(struct mk_lua_coverage *cov, struct branch *br)
{
    struct mk_break *b = br->b;
    if (b && !atomic_exchange(&br->removed, true))
        mk_debug_remove(&cov->member.v->vm, b);
}

static bool on_branch(void *ctx, struct mk_vcpu *c)
{
    struct branch *br = ctx;
    bool taken = is_taken(mk_vcpu_get_regs(c), br->condition);
    uint8_t seen = atomic_fetch_or(&br->seen, taken ? TAKEN : NOT_TAKEN);
    seen |= taken ? TAKEN : NOT_TAKEN;
    if ((seen & br->need) == br->need || atomic_fetch_sub(&br->left, 1) <= 1)
        remove_branch(br->cov, br);
    return false;
}

/* --- blocks --- */

static void unref_record(struct record *r)
{
    if (atomic_fetch_sub(&r->refs, 1) > 1)
        return;
    free((void *)r->m.address);
    free((void *)r->m.code);
    free((void *)r->m.reached);
    free(r->reported);
    free(r);
}

static struct record *new_record(size_t count)
{
    struct record *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->refs = 1;
    r->m.count = count;
    r->m.address = calloc(count + 1, sizeof(*r->m.address));
    r->m.code = calloc(count + 1, sizeof(*r->m.code));
    r->m.reached = calloc(count / 64 + 1, sizeof(*r->m.reached));
    r->reported = calloc(count / 64 + 1, sizeof(*r->reported));
    if (r->m.address && r->m.code && r->m.reached && r->reported)
        return r;
    unref_record(r);
    return NULL;
}

static struct record *check_record(lua_State *L, int index)
{
    return *(struct record **)luaL_checkudata(L, index, RECORD);
}

MK_RELEASE(record_gc, RECORD, unref_record)

/* coverage_record(addresses, code) -> record. Addresses: 8 bytes each, in order; code: of each how
 * many bytes are known of it (1 byte), and these (7). */
static int coverage_record(lua_State *L)
{
    size_t bytes, code_bytes;
    const char *addresses = luaL_checklstring(L, 1, &bytes);
    const char *code = luaL_checklstring(L, 2, &code_bytes);
    luaL_argcheck(L, code_bytes == bytes, 2, "not as many as addresses");
    void **owner = mk_push_owner(L, RECORD);
    struct record *r = *owner = new_record(bytes / 8);
    if (!r)
        return luaL_error(L, "not enough memory");
    memcpy((void *)r->m.address, addresses, bytes);
    memcpy((void *)r->m.code, code, bytes);
    return 1;
}

/* coverage_reached(record) -> what was reached since the last call: indices from 0, 4 bytes each */
static int coverage_reached(lua_State *L)
{
    struct record *r = check_record(L, 1);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (size_t i = 0; i < r->m.count / 64 + 1; i++) {
        uint64_t now = r->m.reached[i];
        for (uint64_t bits = now & ~r->reported[i]; bits; bits &= bits - 1) {
            uint32_t index = (uint32_t)(i * 64 + (unsigned)__builtin_ctzll(bits));
            luaL_addlstring(&b, (const char *)&index, sizeof(index));
        }
        r->reported[i] |= now;
    }
    luaL_pushresult(&b);
    return 1;
}

/* --- in a VM --- */

static struct mk_lua_coverage *check(lua_State *L)
{
    return luaL_checkudata(L, 1, TYPE);
}

/* Lets go of the VM's engine. */
static void finish(struct mk_lua_coverage *cov)
{
    struct mk_lua_vm *v = cov->member.v;
    if (!v)
        return;
    for (size_t i = 0; i < cov->branch_count; i++)
        remove_branch(cov, &cov->branches->list[i]);
    if (cov->set)
        mk_debug_remove_set(&v->vm, cov->set);
    cov->set = NULL;
    unref_record(cov->record);
    cov->record = NULL;
    mk_lua_leave(&cov->member);
}

/* The VM closes. */
static void close_coverage(struct mk_lua_member *member)
{
    do
        mk_vm_stop(&member->v->vm, MK_STOPPED);
    while (!mk_vm_wait(&member->v->vm, MK_FOREVER));
    finish((struct mk_lua_coverage *)member);
}

void mk_lua_free_branches(struct mk_lua_vm *v)
{
    while (v->past_branches) {
        struct mk_lua_branches *past = v->past_branches;
        v->past_branches = past->next;
        free(past);
    }
}

/* A hit may be told at this moment, of a VM that runs: its branches are the VM's then. */
static int coverage_gc(lua_State *L)
{
    struct mk_lua_coverage *cov = check(L);
    struct mk_lua_vm *v = cov->member.v;
    bool runs = v && !mk_vm_wait(&v->vm, 0);
    finish(cov);
    if (!runs)
        free(cov->branches);
    else if (cov->branches) {
        cov->branches->next = v->past_branches;
        v->past_branches = cov->branches;
    }
    cov->branches = NULL;
    cov->branch_count = 0;
    return 0;
}

static bool start_branches(struct mk_lua_coverage *cov, const char *records, int hits,
                           struct mk_err *err)
{
    for (size_t i = 0; i < cov->branch_count; i++, records += 24) {
        struct branch *br = &cov->branches->list[i];
        uint32_t words[2];
        memcpy(&br->address, records, 8);
        memcpy(words, records + 8, 8);
        br->cov = cov;
        br->condition = words[0];
        br->need = (uint8_t)words[1];
        br->left = hits;
        struct mk_break_options o = {
            .address = br->address, .cpu = -1, .hit = on_branch, .ctx = br
        };
        memcpy(&o.code, records + 16, 8);
        br->b = mk_debug_add(&cov->member.v->vm, &o, err);
        if (!br->b)
            return false;
    }
    return true;
}

/* coverage_start(vm, record, branches, hits) -> coverage | nil, text, name. Branches: address (8
 * bytes), condition, which ways to look for (1 taken, 2 not taken; 4 bytes each), code (8, as of a
 * block); each is looked at for so many hits. */
static int coverage_start(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct record *record = check_record(L, 2);
    size_t bytes;
    struct mk_err err = { 0 };
    const char *branches = luaL_checklstring(L, 3, &bytes);
    int hits = (int)luaL_checkinteger(L, 4);
    struct mk_lua_coverage *cov = lua_newuserdatauv(L, sizeof(*cov), 0);
    memset(cov, 0, sizeof(*cov));
    mk_set_type(L, TYPE);
    cov->branches = calloc(1, sizeof(struct mk_lua_branches) + bytes / 24 * sizeof(struct branch));
    if (!cov->branches)
        return luaL_error(L, "not enough memory");
    cov->branch_count = bytes / 24;
    mk_lua_join(v, &cov->member, close_coverage);
    cov->record = record;
    atomic_fetch_add(&record->refs, 1);
    cov->set = mk_debug_add_set(&v->vm, &record->m, &err);
    if (cov->set && start_branches(cov, branches, hits, &err))
        return 1;
    finish(cov);
    return mk_push_err(L, &err);
}

/* coverage_seen(coverage) -> of each branch a byte: 1 it was taken, 2 it was not, 3 both; whether
 * it goes on */
static int coverage_seen(lua_State *L)
{
    struct mk_lua_coverage *cov = check(L);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (size_t i = 0; i < cov->branch_count; i++)
        luaL_addchar(&b, (char)cov->branches->list[i].seen);
    luaL_pushresult(&b);
    lua_pushboolean(L, cov->member.v != NULL);
    return 2;
}

/* coverage_stop(coverage): its breakpoints are gone; what was reached can be had still. */
static int coverage_stop(lua_State *L)
{
    finish(check(L));
    return 0;
}

static const luaL_Reg meta[] = { { "__gc", coverage_gc }, MK_END };
static const luaL_Reg record_meta[] = { { "__gc", record_gc }, MK_END };
static const luaL_Reg core[] = { MK_FN(coverage_record),  MK_FN(coverage_start),
                                 MK_FN(coverage_reached), MK_FN(coverage_seen),
                                 MK_FN(coverage_stop),    MK_END };

MK_EXPORTS = { { .type = TYPE, .meta = meta },
               { .type = RECORD, .meta = record_meta, .core = core } };
