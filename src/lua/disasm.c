/* disasm.c - kvm.disassemble: machine code as text, by the capstone library (capstone.h). */
#include "lua/capstone.h"
#include "lua/core.h"

#include <dlfcn.h>
#include <stdio.h>

#define STRING(x) #x
#define NAME(major) "libcapstone.so." STRING(major)

static bool load(struct mk_capstone *cs)
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

bool mk_capstone_open(struct mk_capstone *cs, unsigned bits, bool detail)
{
    cs_mode mode = bits == 64 ? CS_MODE_64 : bits == 32 ? CS_MODE_32 : CS_MODE_16;
    cs->insn = NULL;
    if (!load(cs) || cs->open(CS_ARCH_X86, mode, &cs->handle) != CS_ERR_OK)
        return false;
    if (detail) /* first: it is in what is allocated */
        cs->option(cs->handle, CS_OPT_DETAIL, CS_OPT_ON);
    cs->insn = cs->malloc(cs->handle);
    if (!cs->insn)
        cs->close(&cs->handle);
    return cs->insn;
}

void mk_capstone_close(struct mk_capstone *cs)
{
    if (!cs->insn)
        return;
    cs->free(cs->insn, 1);
    cs->close(&cs->handle);
    cs->insn = NULL;
}

bool mk_capstone_decode(struct mk_capstone *cs, const uint8_t **bytes, size_t *length,
                        uint64_t *address)
{
    return cs->disasm_iter(cs->handle, bytes, length, address, cs->insn);
}

int mk_capstone_missing(lua_State *L)
{
    return mk_lua_error(L, "%s, the disassembler, cannot be loaded", NAME(CS_API_MAJOR));
}

unsigned mk_check_bits(lua_State *L, int index)
{
    lua_Integer bits = luaL_checkinteger(L, index);
    luaL_argcheck(L, bits == 16 || bits == 32 || bits == 64, index, "code is of 16, 32 or 64 bits");
    return (unsigned)bits;
}

static void push_instruction(lua_State *L, const cs_insn *insn)
{
    lua_createtable(L, 0, 3);
    mk_set_integer(L, "address", insn->address);
    mk_set_integer(L, "size", insn->size);
    lua_pushfstring(L, insn->op_str[0] ? "%s %s" : "%s", insn->mnemonic, insn->op_str);
    lua_setfield(L, -2, "text");
}

bool mk_disassemble(const uint8_t *bytes, size_t length, unsigned bits, uint64_t address,
                    char *text, size_t size)
{
    struct mk_capstone cs;
    bool known =
        mk_capstone_open(&cs, bits, false) && mk_capstone_decode(&cs, &bytes, &length, &address);
    if (known)
        snprintf(text, size, cs.insn->op_str[0] ? "%s %s" : "%s", cs.insn->mnemonic,
                 cs.insn->op_str);
    mk_capstone_close(&cs);
    return known;
}

/* disassemble(bytes, bits [, address = 0]) -> list of { address=, size=, text= }, in Intel syntax,
 * up to the first byte that begins no instruction. */
static int disassemble(lua_State *L)
{
    size_t length;
    const uint8_t *bytes = (const uint8_t *)luaL_checklstring(L, 1, &length);
    unsigned bits = mk_check_bits(L, 2);
    uint64_t address = (uint64_t)luaL_optinteger(L, 3, 0);
    struct mk_capstone cs;
    lua_newtable(L);
    luaL_checkstack(L, 4, NULL);
    if (!mk_capstone_open(&cs, bits, false))
        return mk_capstone_missing(L);
    for (lua_Integer i = 1; mk_capstone_decode(&cs, &bytes, &length, &address); i++) {
        push_instruction(L, cs.insn);
        lua_rawseti(L, -2, i);
    }
    mk_capstone_close(&cs);
    return 1;
}

static const luaL_Reg core[] = { MK_FN(disassemble), MK_END };

MK_EXPORTS = { { .core = core } };
