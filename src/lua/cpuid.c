/* cpuid.c - the list of CPUID leaves of a VM, which lua/minikvm/vm/cpuid.lua shapes. */
#include "lua/core.h"

#include <linux/kvm.h>

/* cpuid(vm.cpuid) -> { { leaf, subleaf, indexed, eax, ebx, ecx, edx }, ... } */
static int cpuid(lua_State *L)
{
    const struct mk_lua_vm *v = mk_check_child(L, 1, MK_CPUID);
    const struct kvm_cpuid2 *list = mk_vm_cpuid(&v->vm);
    lua_createtable(L, (int)list->nent, 0);
    for (unsigned i = 0; i < list->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &list->entries[i];
        lua_createtable(L, 0, 8);
        mk_set_integer(L, "leaf", e->function);
        mk_set_integer(L, "subleaf", e->index);
        mk_set_integer(L, "flags", e->flags);
        mk_set_integer(L, "eax", e->eax);
        mk_set_integer(L, "ebx", e->ebx);
        mk_set_integer(L, "ecx", e->ecx);
        mk_set_integer(L, "edx", e->edx);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static struct kvm_cpuid_entry2 cpuid_entry(lua_State *L, int index)
{
    return (struct kvm_cpuid_entry2){ .function = (uint32_t)mk_integer_field(L, index, "leaf", 0),
                                      .index = (uint32_t)mk_integer_field(L, index, "subleaf", 0),
                                      .flags = (uint32_t)mk_integer_field(L, index, "flags", 0),
                                      .eax = (uint32_t)mk_integer_field(L, index, "eax", 0),
                                      .ebx = (uint32_t)mk_integer_field(L, index, "ebx", 0),
                                      .ecx = (uint32_t)mk_integer_field(L, index, "ecx", 0),
                                      .edx = (uint32_t)mk_integer_field(L, index, "edx", 0) };
}

/* set_cpuid(vm.cpuid, list as cpuid() gives it) -> true | nil, text, name */
static int set_cpuid(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_CPUID);
    struct mk_err err;
    size_t count = lua_rawlen(L, 2);
    mk_check_stopped(L, v, "cpuid");
    struct kvm_cpuid2 *list =
        lua_newuserdatauv(L, sizeof(*list) + count * sizeof(list->entries[0]), 0);
    *list = (struct kvm_cpuid2){ .nent = (uint32_t)count };
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        list->entries[i] = cpuid_entry(L, lua_gettop(L));
        lua_pop(L, 1);
    }
    if (v->vm.state != MK_VM_IDLE)
        return mk_lua_error(L,
                            "vm \"%s\" has run: its CPUID can be changed before that, or after "
                            "reset()",
                            v->vm.name);
    if (mk_vm_set_cpuid(&v->vm, list, &err) < 0)
        return mk_push_err(L, &err);
    lua_pushboolean(L, true);
    return 1;
}

static const luaL_Reg core[] = { MK_FN(cpuid), MK_FN(set_cpuid), MK_END };

const struct mk_exports mk_cpuid_exports[] = { { .type = MK_CPUID, .core = core }, MK_END };
