/* dwarf_dies.c - entries of debugging information: what runs at an address, what an entry has. What
 * that means is in lua/minikvm/debug/dies.lua. See dwarf.h. DWARF 5, chapters 2.5 to 2.7.
 *
 * Lua knows an entry by a number. Entries are gone through by libdw's steps, which go forward in
 * the file; how deep and how many is limited here. */
#include "lua/dwarf.h"

#include <stdlib.h>

#define dw mk_libdw

#define SCOPES_MAX 64
#define DIES_MAX (1u << 20)   /* looked at for one question */
#define KNOWN_MAX (1u << 20)  /* entries that Lua knows */
#define OPERATIONS_MAX 256    /* of an expression */
#define BLOCK_MAX (64u << 10) /* bytes of a constant */
#define CHILDREN_MAX 4096     /* of an entry: members, variables, calls */

/* --- entries by number --- */

static void push_die(lua_State *L, struct mk_dwarf *d, const Dwarf_Die *die)
{
    lua_getiuservalue(L, 1, 1);
    if (lua_rawgetp(L, -1, die->addr) == LUA_TNIL) {
        lua_pop(L, 1);
        Dwarf_Die *more = d->die_count == KNOWN_MAX
                              ? NULL
                              : mk_grow(d->dies, &d->die_room, (d->die_count + 1) * sizeof(*more));
        if (!more) {
            lua_pushnil(L);
        } else {
            d->dies = more;
            more[d->die_count++] = *die;
            lua_pushinteger(L, (lua_Integer)d->die_count);
            lua_pushvalue(L, -1);
            lua_rawsetp(L, -3, die->addr);
        }
    }
    lua_remove(L, -2);
}

static Dwarf_Die *check_die(lua_State *L, const struct mk_dwarf *d, int index)
{
    lua_Integer i = luaL_checkinteger(L, index);
    luaL_argcheck(L, i > 0 && (size_t)i <= d->die_count, index, "no such entry");
    return &d->dies[i - 1];
}

/* --- scopes --- */

static bool is_scope(int tag)
{
    return tag == DW_TAG_subprogram || tag == DW_TAG_inlined_subroutine ||
           tag == DW_TAG_lexical_block;
}

static bool has_scopes(int tag)
{
    return tag == DW_TAG_namespace || tag == DW_TAG_structure_type || tag == DW_TAG_class_type;
}

struct search {
    Dwarf_Addr address;
    unsigned left; /* entries to look at */
    unsigned count;
    Dwarf_Die found[SCOPES_MAX]; /* the outermost one first */
};

/* Finds the child that holds the address; looks into namespaces, whose entries have no addresses.
 */
static bool descend(struct search *s, Dwarf_Die *parent, unsigned depth)
{
    Dwarf_Die child;
    if (dw.dwarf_child(parent, &child) != 0 || depth > SCOPES_MAX)
        return false;
    do {
        int tag = dw.dwarf_tag(&child);
        if (is_scope(tag) && dw.dwarf_haspc(&child, s->address) > 0) {
            if (s->count < SCOPES_MAX)
                s->found[s->count++] = child;
            descend(s, &child, depth + 1);
            return true;
        }
        if (has_scopes(tag) && descend(s, &child, depth + 1))
            return true;
    } while (s->left-- > 0 && dw.dwarf_siblingof(&child, &child) == 0);
    return false;
}

/* dwarf.scopes(d, address) -> list of the entries of functions and blocks that hold it, the
 * innermost first; empty when nothing is known; true when the unit's .dwo file is not there */
static int scopes(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    struct search s = { .address = (uint64_t)luaL_checkinteger(L, 2), .left = DIES_MAX };
    struct mk_unit *unit = mk_dwarf_unit(d, s.address);
    lua_newtable(L);
    if (!unit)
        return 1;
    descend(&s, &unit->dies, 0);
    for (unsigned i = 0; i < s.count; i++) {
        push_die(L, d, &s.found[s.count - 1 - i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushboolean(L, unit->dies.addr == unit->top.addr &&
                           (dw.dwarf_hasattr(&unit->top, DW_AT_dwo_name) ||
                            dw.dwarf_hasattr(&unit->top, DW_AT_GNU_dwo_name)));
    return 2;
}

/* --- expressions --- */

static bool is_register(const Dwarf_Op *op)
{
    return op->atom >= DW_OP_reg0 && op->atom <= DW_OP_reg31;
}

/* The register whose value at the function's entry an operation is; -1: none, or more than that. */
static int entry_register(Dwarf_Attribute *attr, const Dwarf_Op *op)
{
    Dwarf_Attribute inner;
    Dwarf_Op *ops;
    size_t count;
    if ((op->atom == DW_OP_entry_value || op->atom == DW_OP_GNU_entry_value) &&
        dw.dwarf_getlocation_attr(attr, op, &inner) == 0 &&
        dw.dwarf_getlocation_addr(&inner, 0, &ops, &count, 1) == 1 && count == 1 &&
        is_register(ops))
        return (int)ops->atom - DW_OP_reg0;
    return -1;
}

/* What an operation refers to elsewhere in the file: an address by its index, or a constant. */
static void push_operation(lua_State *L, Dwarf_Attribute *attr, const Dwarf_Op *op)
{
    Dwarf_Attribute other;
    Dwarf_Addr address;
    Dwarf_Block block;
    bool indexed = op->atom == DW_OP_addrx || op->atom == DW_OP_GNU_addr_index;
    if (attr && indexed && dw.dwarf_getlocation_attr(attr, op, &other) == 0 &&
        dw.dwarf_formaddr(&other, &address) == 0) {
        lua_pushinteger(L, DW_OP_addr);
        lua_pushinteger(L, (lua_Integer)address);
    } else if (attr && op->atom == DW_OP_implicit_value &&
               dw.dwarf_getlocation_implicit_value(attr, op, &block) == 0 &&
               block.length <= BLOCK_MAX) {
        lua_pushinteger(L, op->atom);
        lua_pushlstring(L, (const char *)block.data, block.length);
    } else {
        int entry = attr ? entry_register(attr, op) : -1;
        lua_pushinteger(L, entry >= 0 ? DW_OP_entry_value : op->atom);
        lua_pushinteger(L, entry >= 0 ? entry : (lua_Integer)op->number);
    }
}

void mk_push_operations(lua_State *L, Dwarf_Attribute *attr, const Dwarf_Op *ops, size_t count)
{
    if (count > OPERATIONS_MAX)
        count = 0;
    luaL_checkstack(L, 6, NULL);
    lua_createtable(L, (int)count * 4, 0);
    for (size_t i = 0; i < count; i++) {
        push_operation(L, attr, &ops[i]);
        lua_rawseti(L, -3, (lua_Integer)i * 4 + 2);
        lua_rawseti(L, -2, (lua_Integer)i * 4 + 1);
        lua_pushinteger(L, (lua_Integer)ops[i].number2);
        lua_rawseti(L, -2, (lua_Integer)i * 4 + 3);
        lua_pushinteger(L, (lua_Integer)ops[i].offset);
        lua_rawseti(L, -2, (lua_Integer)i * 4 + 4);
    }
}

/* --- attributes --- */

static bool push_expression(lua_State *L, Dwarf_Attribute *attr, Dwarf_Addr address)
{
    Dwarf_Op *ops;
    size_t count;
    if (dw.dwarf_getlocation_addr(attr, address, &ops, &count, 1) != 1)
        return false;
    mk_push_operations(L, attr, ops, count);
    return true;
}

static bool push_constant(lua_State *L, Dwarf_Attribute *attr)
{
    Dwarf_Sword value;
    Dwarf_Block block;
    if (dw.dwarf_formsdata(attr, &value) == 0)
        lua_pushinteger(L, (lua_Integer)value);
    else if (dw.dwarf_formblock(attr, &block) == 0 && block.length <= BLOCK_MAX)
        lua_pushlstring(L, (const char *)block.data, block.length);
    else
        return false;
    return true;
}

/* The name of a file by its number in the unit's table. */
static bool push_file(lua_State *L, Dwarf_Die *die, Dwarf_Word i)
{
    Dwarf_Die cu;
    Dwarf_Files *files;
    size_t count;
    if (!dw.dwarf_diecu(die, &cu, NULL, NULL) || dw.dwarf_getsrcfiles(&cu, &files, &count) != 0 ||
        i >= count)
        return false;
    mk_push_source(L, &cu, dw.dwarf_filesrc(files, i, NULL, NULL));
    return true;
}

enum kind { NUMBER, FILE_NAME, ADDRESS, ENTRY, CONSTANT, EXPRESSION };
static const char *const kinds[] = { "number",   "file",       "address", "die",
                                     "constant", "expression", NULL };

static bool push_attribute(lua_State *L, struct mk_dwarf *d, Dwarf_Die *die, Dwarf_Attribute *attr,
                           enum kind kind)
{
    Dwarf_Word value;
    Dwarf_Die other;
    switch (kind) {
    case ADDRESS:
        if (dw.dwarf_formaddr(attr, &value) != 0)
            return false;
        lua_pushinteger(L, (lua_Integer)value);
        return true;
    case ENTRY:
        if (!dw.dwarf_formref_die(attr, &other))
            return false;
        push_die(L, d, &other);
        return true;
    case CONSTANT: return push_constant(L, attr);
    case EXPRESSION: return push_expression(L, attr, (Dwarf_Addr)luaL_optinteger(L, 5, 0));
    default: break;
    }
    if (dw.dwarf_formudata(attr, &value) != 0)
        return false;
    if (kind == FILE_NAME)
        return push_file(L, die, value);
    lua_pushinteger(L, (lua_Integer)value);
    return true;
}

/* dwarf.get(d, die, attribute, "number" | "file" | "address" | "die" | "constant" | "expression"
 * [, address]) -> what an entry has, or what it is an instance of; nil: it has none of that kind.
 * Of an expression, the one for this address: { operation, number, number, offset, … } */
static int get(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Die die = *check_die(L, d, 2);
    enum kind kind = (enum kind)luaL_checkoption(L, 4, NULL, kinds);
    Dwarf_Attribute attr;
    luaL_checkstack(L, 14, NULL);
    if (!dw.dwarf_attr_integrate(&die, (unsigned)luaL_checkinteger(L, 3), &attr))
        return 0;
    return push_attribute(L, d, &die, &attr, kind);
}

/* dwarf.about(d, die) -> tag, name | nil, where its code begins | nil */
static int about(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Die *die = check_die(L, d, 2);
    Dwarf_Addr low;
    lua_pushinteger(L, dw.dwarf_tag(die));
    lua_pushstring(L, dw.dwarf_diename(die));
    if (dw.dwarf_entrypc(die, &low) != 0)
        return 2;
    lua_pushinteger(L, (lua_Integer)low);
    return 3;
}

static bool is_one_of(lua_State *L, int from, int tag)
{
    bool any = lua_gettop(L) < from;
    for (int i = from; i <= lua_gettop(L) && !any; i++)
        any = lua_tointeger(L, i) == tag;
    return any;
}

/* dwarf.children(d, die, tag …) -> list of those with one of these tags, in the order of the file
 */
static int children(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Die parent = *check_die(L, d, 2), child;
    lua_Integer count = 0;
    unsigned left = DIES_MAX;
    luaL_checkstack(L, 6, NULL);
    lua_newtable(L);
    lua_replace(L, 2);
    if (dw.dwarf_child(&parent, &child) == 0)
        do {
            if (!is_one_of(L, 3, dw.dwarf_tag(&child)))
                continue;
            push_die(L, d, &child);
            lua_rawseti(L, 2, ++count);
        } while (count < CHILDREN_MAX && left-- > 0 && dw.dwarf_siblingof(&child, &child) == 0);
    lua_settop(L, 2);
    return 1;
}

static const luaL_Reg core[] = { MK_FN(scopes), MK_FN(get), MK_FN(about), MK_FN(children), MK_END };

MK_EXPORTS = { { .core = core, .table = "dwarf" } };
