/* hooks.h - what the glue of hooks shares: ranges of ports, memory and MSRs, and the object
 * that a hook of the script is. */
#ifndef MK_LUA_HOOKS_H
#define MK_LUA_HOOKS_H

#include "dev/prim.h"
#include "lua/core.h"

/* The target of a handle; freed when the bus lets go of the hook. */
struct mk_lua_hook {
    struct mk_lua_vm *v;
    struct mk_bus *bus;
    struct mk_hook *hook;
    struct mk_prim *prim;    /* const, latch, fifo, source, match */
    int read_ref, write_ref; /* LUA_NOREF: none */
    bool with_next, tap;
    bool removed; /* under the Lua lock */
};

/* What is hooked. */
struct mk_range {
    struct mk_lua_vm *v;
    struct mk_bus *bus;
    uint64_t first, last;
};

/* What scripts hook in a BAR: its bus (dev/bus.h). User value 2 has the handles. */
struct mk_window {
    struct mk_bus *bus;
    uint64_t size;
    bool closed; /* the function is detached */
};
/* Pushes one; `owner` is a child of the VM, and lives as long. */
void mk_window_push(lua_State *L, int owner, struct mk_bus *bus, uint64_t size);
/* The handle on top belongs to the window at index 1, if that is one. */
void mk_window_keep(lua_State *L);

/* The VM and the bus of vm.ports, vm.mmio, vm.msrs or a window at index 1. */
struct mk_range mk_check_bus(lua_State *L);
/* The same, first and last at 2 and 3; and that the VM is open. */
struct mk_range mk_check_range(lua_State *L);

/* Puts the hook on its bus, and its handle, on top, into place. `h` is the caller's no more; raises
 * when memory ran out or KVM refuses. The functions' references must be in `h` already. */
int mk_hook_place(lua_State *L, const struct mk_range *r, struct mk_lua_hook *h,
                  const struct mk_io_ops *ops, void *self, const char *owner);
/* A new hook of the VM; raises when memory ran out. Pushes its handle; the object is at index 1.
 * What Lua allocates until mk_hook_place() would lose the hook if it raised. */
struct mk_lua_hook *mk_hook_new(lua_State *L, const struct mk_range *r);

#endif
