/* dwarf_frames.c - call-frame information: where a function's caller and its registers are. See
 * dwarf.h. DWARF 5, chapter 6.4, and .eh_frame of the Linux Standard Base. */
#include "lua/dwarf.h"

#include <stdlib.h>

#define dw mk_libdw

#define REGISTERS 17 /* the general ones and the return address: 0 to 16 (i386: 0 to 8) */

/* The frame at an address: from .debug_frame, then from .eh_frame; NULL: none is known. */
static Dwarf_Frame *find_frame(struct mk_dwarf *d, Dwarf_Addr address)
{
    if (!d->has_cfi) {
        d->cfi[0] = d->info ? dw.dwarf_getcfi(d->info) : NULL;
        d->cfi[1] = dw.dwarf_getcfi_elf(d->elf);
        d->has_cfi = true;
    }
    free(d->frame);
    d->frame = NULL;
    for (unsigned i = 0; i < 2; i++)
        if (d->cfi[i] && dw.dwarf_cfi_addrframe(d->cfi[i], address, &d->frame) == 0)
            return d->frame;
    return d->frame = NULL;
}

/* Adds the rule of one register to the table on top: an expression; false: undefined; nothing: the
 * caller's value is in it. */
static void set_rule(lua_State *L, Dwarf_Frame *frame, int number)
{
    Dwarf_Op memory[3], *ops;
    size_t count;
    if (dw.dwarf_frame_register(frame, number, memory, &ops, &count) != 0)
        return;
    if (count == 0 && !ops)
        return;
    if (count == 0)
        lua_pushboolean(L, 0);
    else
        mk_push_operations(L, NULL, ops, count);
    lua_rawseti(L, -2, number);
}

/* dwarf.frame(d, address) -> { cfa = expression, rules = { [register] = expression | false }, ra =
 * register, signal = boolean, from=, to= } | nil: not known. Registers have the numbers of DWARF.
 */
static int frame(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Addr from = 0, to = 0;
    Dwarf_Op *ops;
    size_t count;
    bool is_signal = false;
    Dwarf_Frame *f = find_frame(d, (Dwarf_Addr)luaL_checkinteger(L, 2));
    int ra = f ? dw.dwarf_frame_info(f, &from, &to, &is_signal) : -1;
    if (ra < 0 || ra >= REGISTERS || dw.dwarf_frame_cfa(f, &ops, &count) != 0 || count == 0)
        return 0;
    luaL_checkstack(L, 10, NULL);
    lua_createtable(L, 0, 6);
    mk_push_operations(L, NULL, ops, count);
    lua_setfield(L, -2, "cfa");
    mk_set_integer(L, "ra", (uint64_t)ra);
    mk_set_integer(L, "from", from);
    mk_set_integer(L, "to", to);
    lua_pushboolean(L, is_signal);
    lua_setfield(L, -2, "signal");
    lua_newtable(L);
    for (int i = 0; i < REGISTERS; i++)
        set_rule(L, f, i);
    lua_setfield(L, -2, "rules");
    return 1;
}

static const luaL_Reg core[] = { MK_FN(frame), MK_END };

MK_EXPORTS = { { .core = core, .table = "dwarf" } };
