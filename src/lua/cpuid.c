/* cpuid.c - the list of CPUID leaves of a VM, which lua/minikvm/vm/cpuid.lua shapes. */
#include "lua/core.h"

#include <linux/kvm.h>
#include <string.h>

#define ENTRY sizeof(struct kvm_cpuid_entry2)

/* cpuid(vm.cpuid) -> the bytes of its struct kvm_cpuid_entry2s */
static int cpuid(lua_State *L)
{
    const struct mk_lua_vm *v = mk_check_child(L, 1, MK_CPUID);
    const struct kvm_cpuid2 *list = mk_vm_cpuid(&v->vm);
    lua_pushlstring(L, (const char *)list->entries, list->nent * ENTRY);
    return 1;
}

/* set_cpuid(vm.cpuid, bytes as cpuid() gives them) -> vm.cpuid | nil, text, name */
static int set_cpuid(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_CPUID);
    struct mk_err err;
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    luaL_argcheck(L, length % ENTRY == 0, 2, "no list of struct kvm_cpuid_entry2");
    mk_check_stopped(L, v, "cpuid");
    if (v->vm.state != MK_VM_IDLE)
        return mk_lua_error(L,
                            "vm \"%s\" has run: its CPUID can be changed before that, or after "
                            "reset()",
                            v->vm.name);
    struct kvm_cpuid2 *list = lua_newuserdatauv(L, sizeof(*list) + length, 0);
    *list = (struct kvm_cpuid2){ .nent = (uint32_t)(length / ENTRY) };
    memcpy(list->entries, bytes, length);
    return mk_push_self(L, mk_vm_set_cpuid(&v->vm, list, &err), &err);
}

static const luaL_Reg core[] = { MK_FN(cpuid), MK_FN(set_cpuid), MK_END };

MK_EXPORTS = { { .type = MK_CPUID, .core = core } };
