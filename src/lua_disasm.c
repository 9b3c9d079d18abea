/* lua_disasm.c - kvm.disassemble: machine code as text, by the capstone library. */
#include "lua_core.h"

#include <capstone/capstone.h>

static cs_mode mode_of(lua_State *L, int index)
{
    switch (luaL_checkinteger(L, index)) {
    case 16: return CS_MODE_16;
    case 32: return CS_MODE_32;
    case 64: return CS_MODE_64;
    default: luaL_argerror(L, index, "code is of 16, 32 or 64 bits"); return CS_MODE_16;
    }
}

static void push_instruction(lua_State *L, const cs_insn *insn)
{
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, (lua_Integer)insn->address);
    lua_setfield(L, -2, "address");
    lua_pushinteger(L, insn->size);
    lua_setfield(L, -2, "size");
    lua_pushfstring(L, insn->op_str[0] ? "%s %s" : "%s", insn->mnemonic, insn->op_str);
    lua_setfield(L, -2, "text");
}

/* disassemble(bytes, bits [, address = 0]) -> list of { address=, size=, text= }, in Intel syntax,
 * up to the first byte that begins no instruction. */
int mk_lua_disassemble(lua_State *L)
{
    size_t length;
    const uint8_t *bytes = (const uint8_t *)luaL_checklstring(L, 1, &length);
    cs_mode mode = mode_of(L, 2);
    uint64_t address = (uint64_t)luaL_optinteger(L, 3, 0);
    csh handle;
    lua_newtable(L);
    luaL_checkstack(L, 4, NULL);
    if (cs_open(CS_ARCH_X86, mode, &handle) != CS_ERR_OK)
        return luaL_error(L, "capstone, the disassembler, does not start");
    cs_insn *insn = cs_malloc(handle);
    for (lua_Integer i = 1; insn && cs_disasm_iter(handle, &bytes, &length, &address, insn); i++) {
        push_instruction(L, insn);
        lua_rawseti(L, -2, i);
    }
    cs_free(insn, insn ? 1 : 0);
    cs_close(&handle);
    return 1;
}
