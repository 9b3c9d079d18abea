/* disasm.c - kvm.disassemble: machine code as text, by the capstone library (capstone.h). */
#include "lua/capstone.h"
#include "lua/core.h"

#include <dlfcn.h>
#include <stdio.h>

#define STRING(x) #x
#define NAME(major) "libcapstone.so." STRING(major)

bool mk_capstone_load(struct mk_capstone *cs)
{
    void *library = dlopen(NAME(CS_API_MAJOR), RTLD_LAZY | RTLD_NODELETE);
    if (!library)
        return false;
    *(void **)&cs->open = dlsym(library, "cs_open");
    *(void **)&cs->close = dlsym(library, "cs_close");
    *(void **)&cs->option = dlsym(library, "cs_option");
    *(void **)&cs->malloc = dlsym(library, "cs_malloc");
    *(void **)&cs->free = dlsym(library, "cs_free");
    *(void **)&cs->disasm_iter = dlsym(library, "cs_disasm_iter");
    dlclose(library);
    return cs->open && cs->close && cs->option && cs->malloc && cs->free && cs->disasm_iter;
}

int mk_capstone_missing(lua_State *L)
{
    return mk_lua_error(L, "%s, the disassembler, cannot be loaded", NAME(CS_API_MAJOR));
}

cs_mode mk_capstone_mode(lua_State *L, int index)
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

bool mk_disassemble(const uint8_t *bytes, size_t length, unsigned bits, uint64_t address,
                    char *text, size_t size)
{
    csh handle;
    struct mk_capstone cs;
    cs_mode mode = bits == 64 ? CS_MODE_64 : bits == 32 ? CS_MODE_32 : CS_MODE_16;
    if (!mk_capstone_load(&cs) || cs.open(CS_ARCH_X86, mode, &handle) != CS_ERR_OK)
        return false;
    cs_insn *insn = cs.malloc(handle);
    bool known = insn && cs.disasm_iter(handle, &bytes, &length, &address, insn);
    if (known)
        snprintf(text, size, insn->op_str[0] ? "%s %s" : "%s", insn->mnemonic, insn->op_str);
    cs.free(insn, insn ? 1 : 0);
    cs.close(&handle);
    return known;
}

/* disassemble(bytes, bits [, address = 0]) -> list of { address=, size=, text= }, in Intel syntax,
 * up to the first byte that begins no instruction. */
int mk_lua_disassemble(lua_State *L)
{
    size_t length;
    const uint8_t *bytes = (const uint8_t *)luaL_checklstring(L, 1, &length);
    cs_mode mode = mk_capstone_mode(L, 2);
    uint64_t address = (uint64_t)luaL_optinteger(L, 3, 0);
    csh handle;
    struct mk_capstone cs;
    lua_newtable(L);
    luaL_checkstack(L, 4, NULL);
    if (!mk_capstone_load(&cs) || cs.open(CS_ARCH_X86, mode, &handle) != CS_ERR_OK)
        return mk_capstone_missing(L);
    cs_insn *insn = cs.malloc(handle);
    for (lua_Integer i = 1; insn && cs.disasm_iter(handle, &bytes, &length, &address, insn); i++) {
        push_instruction(L, insn);
        lua_rawseti(L, -2, i);
    }
    cs.free(insn, insn ? 1 : 0);
    cs.close(&handle);
    return 1;
}
