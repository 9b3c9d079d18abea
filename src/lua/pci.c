/* pci.c - vm.pci: functions of the PCI bus and the windows of their BARs, behind kvm.pci
 * (lua/minikvm/device/pci.lua, which checks options). Runs on the thread that runs Lua.
 *
 * A function is a userdata that holds a reference to the core's. */
#include "lua/hooks.h"

#include <string.h>

/* --- functions --- */

/* MK_PCI_CONFIG bytes. */
static const uint8_t *check_config(lua_State *L, int index)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, index, &length);
    luaL_argcheck(L, length == MK_PCI_CONFIG, index, "configuration space has 256 bytes");
    return (const uint8_t *)bytes;
}

/* pci_new(vm.pci, name, initial, writable) -> function */
static int pci_new(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_PCI);
    struct mk_err err;
    const char *name = luaL_checkstring(L, 2);
    const uint8_t *initial = check_config(L, 3), *writable = check_config(L, 4);
    lua_getiuservalue(L, 1, 1);
    struct mk_pci_fn **fn = mk_new_child(L, lua_gettop(L), sizeof(*fn), MK_PCI_FN);
    *fn = mk_pci_fn_new(&v->vm.pci, name, initial, writable, &err);
    return *fn ? 1 : mk_lua_error(L, "%s", err.text);
}

MK_RELEASE(fn_gc, MK_PCI_FN, mk_pci_fn_unref)

struct mk_pci_fn *mk_check_pci_fn(lua_State *L)
{
    mk_check_child(L, 1, MK_PCI_FN);
    return *(struct mk_pci_fn **)lua_touserdata(L, 1);
}

/* What went wrong in the core is the script's definition. */
static int done(lua_State *L, int rc, const struct mk_err *err)
{
    if (rc < 0)
        mk_lua_error(L, "%s", err->text);
    lua_pushinteger(L, rc);
    return 1;
}

/* pci_ram(function, number, at, size) */
static int pci_ram(lua_State *L)
{
    struct mk_pci_fn *fn = mk_check_pci_fn(L);
    struct mk_err err;
    unsigned number = (unsigned)luaL_checkinteger(L, 2);
    luaL_argcheck(L, number < MK_PCI_BARS, 2, "a BAR is 0 to 5");
    return done(L,
                mk_pci_add_ram(fn, number, (uint64_t)luaL_checkinteger(L, 3),
                               (uint64_t)luaL_checkinteger(L, 4), &err),
                &err);
}

/* What a device itself does with RAM in its BAR: the bytes at index `at` on, so many. */
static uint8_t *check_ram(lua_State *L, uint64_t length)
{
    const struct mk_pci_fn *fn = mk_check_pci_fn(L);
    lua_Integer number = luaL_checkinteger(L, 2), at = luaL_checkinteger(L, 3);
    luaL_argcheck(L, number >= 0 && number < MK_PCI_BARS, 2, "a BAR is 0 to 5");
    const struct mk_pci_bar *bar = fn->bar[number];
    if (!bar || !bar->ram)
        mk_lua_error(L, "pci: %s: BAR %d has no RAM", fn->name, (int)number);
    if (at < 0 || (uint64_t)at < bar->ram_at ||
        !mk_inside((uint64_t)at - bar->ram_at, length, bar->ram_size))
        mk_lua_error(L, "pci: %s: %llu bytes at 0x%llx of BAR %d are not all in its RAM", fn->name,
                     (unsigned long long)length, (unsigned long long)at, (int)number);
    return bar->ram + ((uint64_t)at - bar->ram_at);
}

/* pci_ram_read(function, number, at, length) -> bytes; pci_ram_write(function, number, at, bytes)
 */
static int pci_ram_read(lua_State *L)
{
    lua_Integer length = luaL_checkinteger(L, 4);
    luaL_argcheck(L, length >= 0, 4, "a length is 0 or more");
    lua_pushlstring(L, (const char *)check_ram(L, (uint64_t)length), (size_t)length);
    return 1;
}

static int pci_ram_write(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 4, &length);
    memcpy(check_ram(L, length), bytes, length);
    return 0;
}

/* pci_attach(function, slot << 3 | function) */
static int pci_attach(lua_State *L)
{
    struct mk_pci_fn *fn = mk_check_pci_fn(L);
    struct mk_err err;
    lua_Integer devfn = luaL_checkinteger(L, 2);
    luaL_argcheck(L, devfn >= 0 && devfn < MK_PCI_FUNCTIONS, 2, "no such function");
    return done(L, mk_pci_attach(fn, (uint8_t)devfn, &err), &err);
}

static int pci_detach(lua_State *L)
{
    mk_pci_detach(mk_check_pci_fn(L));
    return 0;
}

/* pci_irq(function, level) -> the capability by which a message is due instead of INTx, its control
 * | nil */
static int pci_irq(lua_State *L)
{
    struct mk_pci_fn *fn = mk_check_pci_fn(L);
    mk_lua_flush_output();
    uint16_t control;
    uint8_t cap = mk_pci_set_irq(fn, lua_toboolean(L, 2), &control);
    if (!cap)
        return 0;
    lua_pushinteger(L, cap);
    lua_pushinteger(L, control);
    return 2;
}

/* pci_line(function) -> the PIC's line, nil: none */
static int pci_line(lua_State *L)
{
    int line = mk_pci_irq_line(mk_check_pci_fn(L));
    return mk_push_optional(L, line >= 0, (uint64_t)line);
}

static int pci_master(lua_State *L)
{
    lua_pushboolean(L, mk_pci_is_master(mk_check_pci_fn(L)));
    return 1;
}

/* pci_place(function, number) -> address | nil */
static int pci_place(lua_State *L)
{
    struct mk_pci_fn *fn = mk_check_pci_fn(L);
    lua_Integer number = luaL_checkinteger(L, 2);
    uint64_t at = 0;
    luaL_argcheck(L, number >= 0 && number < MK_PCI_BARS, 2, "a BAR is 0 to 5");
    bool is = mk_pci_bar_place(fn, (unsigned)number, &at);
    return mk_push_optional(L, is, at);
}

/* --- the bus --- */

/* pci_on(vm.pci [, true]) -> whether the bus is there; `true` makes it so. */
static int pci_on(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_PCI);
    struct mk_err err;
    if (lua_toboolean(L, 2) && mk_pci_enable(&v->vm.pci, &err) < 0)
        mk_lua_error(L, "%s", err.text);
    lua_pushboolean(L, v->vm.pci.on);
    return 1;
}

/* pci_name(vm.pci, slot << 3 | function) -> the name of the function that is there, or nil */
static int pci_name(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_PCI);
    const struct mk_pci_fn *fn = atomic_load(&v->vm.pci.fn[luaL_checkinteger(L, 2) & 0xff]);
    lua_pushstring(L, fn ? fn->name : NULL);
    return 1;
}

/* pci_window(function [, number]) -> that of a BAR, or of configuration space */
static int pci_window(lua_State *L)
{
    struct mk_pci_fn *fn = mk_check_pci_fn(L);
    lua_Integer number = luaL_optinteger(L, 2, -1);
    luaL_argcheck(L, number < MK_PCI_BARS && (number < 0 || fn->bar[number]), 2, "no such BAR");
    if (number >= 0)
        mk_window_push(L, 1, &fn->bar[number]->bus, fn->bar[number]->size);
    else
        mk_window_push(L, 1, &fn->window, MK_PCI_CONFIG);
    return 1;
}

static const luaL_Reg core[] = { MK_FN(pci_new),      MK_FN(pci_ram),
                                 MK_FN(pci_ram_read), MK_FN(pci_ram_write),
                                 MK_FN(pci_attach),   MK_FN(pci_detach),
                                 MK_FN(pci_irq),      MK_FN(pci_line),
                                 MK_FN(pci_master),   MK_FN(pci_place),
                                 MK_FN(pci_on),       MK_FN(pci_name),
                                 MK_FN(pci_window),   MK_END };
static const luaL_Reg fn_meta[] = { { "__gc", fn_gc }, MK_END };

MK_EXPORTS = { { .type = MK_PCI }, { .type = MK_PCI_FN, .meta = fn_meta, .core = core } };
