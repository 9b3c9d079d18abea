/* dwarf_dies.c - what runs at an address: functions, those that are inlined there, blocks; their
 * variables and calls. See dwarf.h. DWARF 5, chapters 2.6, 3.3 to 3.5 and 4.1.
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

/* --- entries by number --- */

void mk_push_die(lua_State *L, struct mk_dwarf *d, const Dwarf_Die *die)
{
    lua_getiuservalue(L, 1, 1);
    if (lua_rawgetp(L, -1, die->addr) == LUA_TNIL) {
        lua_pop(L, 1);
        Dwarf_Die *more = d->dies;
        size_t n = d->die_count;
        if (n < KNOWN_MAX && (n == 0 || (n >= 64 && !(n & (n - 1))))) /* the room doubles */
            more = realloc(d->dies, (n ? 2 * n : 64) * sizeof(*more));
        if (!more || d->die_count == KNOWN_MAX) {
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

Dwarf_Die *mk_check_die(lua_State *L, const struct mk_dwarf *d, int index)
{
    lua_Integer i = luaL_checkinteger(L, index);
    luaL_argcheck(L, i > 0 && (size_t)i <= d->die_count, index, "no such entry");
    return &d->dies[i - 1];
}

bool mk_die_number(Dwarf_Die *die, unsigned name, Dwarf_Word *value)
{
    Dwarf_Attribute attr;
    return dw.dwarf_formudata(dw.dwarf_attr_integrate(die, name, &attr), value) == 0;
}

void mk_set_die_number(lua_State *L, Dwarf_Die *die, unsigned name, const char *key)
{
    Dwarf_Word value;
    if (mk_die_number(die, name, &value))
        mk_set_integer(L, key, value);
}

void mk_set_die_name(lua_State *L, Dwarf_Die *die)
{
    const char *name = dw.dwarf_diename(die);
    if (name)
        mk_set_string(L, "name", name);
}

void mk_set_die_type(lua_State *L, struct mk_dwarf *d, Dwarf_Die *die, const char *key)
{
    Dwarf_Attribute attr;
    Dwarf_Die type;
    if (!dw.dwarf_formref_die(dw.dwarf_attr_integrate(die, DW_AT_type, &attr), &type))
        return;
    mk_push_die(L, d, &type);
    lua_setfield(L, -2, key);
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

/* The name of the file whose number in the unit's table is an attribute. */
static void set_file(lua_State *L, Dwarf_Die *die, unsigned name, const char *key)
{
    Dwarf_Die cu;
    Dwarf_Files *files;
    size_t count;
    Dwarf_Word i;
    if (!mk_die_number(die, name, &i) || !dw.dwarf_diecu(die, &cu, NULL, NULL) ||
        dw.dwarf_getsrcfiles(&cu, &files, &count) != 0 || i >= count)
        return;
    mk_push_source(L, &cu, dw.dwarf_filesrc(files, i, NULL, NULL));
    lua_setfield(L, -2, key);
}

static void push_scope(lua_State *L, struct mk_dwarf *d, Dwarf_Die *die)
{
    int tag = dw.dwarf_tag(die);
    Dwarf_Addr low;
    lua_createtable(L, 0, 8);
    mk_set_string(L, "kind",
                  tag == DW_TAG_subprogram           ? "function"
                  : tag == DW_TAG_inlined_subroutine ? "inlined"
                                                     : "block");
    mk_set_die_name(L, die);
    mk_push_die(L, d, die);
    lua_setfield(L, -2, "die");
    if (dw.dwarf_entrypc(die, &low) == 0)
        mk_set_integer(L, "low", low);
    if (tag == DW_TAG_inlined_subroutine) {
        set_file(L, die, DW_AT_call_file, "call_file");
        mk_set_die_number(L, die, DW_AT_call_line, "call_line");
    }
}

/* dwarf.scopes(d, address) -> list of { kind = "function"|"inlined"|"block", name=, die=, low=,
 * call_file=, call_line= }, the innermost first; empty when nothing is known; .split = true when
 * the unit's .dwo file is not there */
static int scopes(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    struct search s = { .address = (uint64_t)luaL_checkinteger(L, 2), .left = DIES_MAX };
    struct mk_unit *unit = mk_dwarf_unit(d, s.address);
    luaL_checkstack(L, 12, NULL);
    lua_newtable(L);
    if (!unit)
        return 1;
    if (unit->dies.addr == unit->top.addr && (dw.dwarf_hasattr(&unit->top, DW_AT_dwo_name) ||
                                              dw.dwarf_hasattr(&unit->top, DW_AT_GNU_dwo_name))) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "split");
    }
    descend(&s, &unit->dies, 0);
    for (unsigned i = 0; i < s.count; i++) {
        push_scope(L, d, &s.found[s.count - 1 - i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
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

/* Sets `key` to the expression that an attribute has for an address, if it has one. */
static void set_expression(lua_State *L, Dwarf_Die *die, unsigned name, const char *key,
                           Dwarf_Addr address)
{
    Dwarf_Attribute attr;
    Dwarf_Op *ops;
    size_t count;
    if (!dw.dwarf_attr_integrate(die, name, &attr) ||
        dw.dwarf_getlocation_addr(&attr, address, &ops, &count, 1) != 1)
        return;
    mk_push_operations(L, &attr, ops, count);
    lua_setfield(L, -2, key);
}

/* dwarf.frame_base(d, die, address) -> the expression of DW_AT_frame_base; nil: it has none */
static int frame_base(lua_State *L)
{
    const struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Die *die = mk_check_die(L, d, 2);
    Dwarf_Addr address = (Dwarf_Addr)luaL_checkinteger(L, 3);
    lua_newtable(L);
    set_expression(L, die, DW_AT_frame_base, "base", address);
    lua_getfield(L, -1, "base");
    return 1;
}

/* --- variables --- */

void mk_set_die_constant(lua_State *L, Dwarf_Die *die, const char *key)
{
    Dwarf_Attribute attr;
    Dwarf_Sword value;
    Dwarf_Block block;
    if (!dw.dwarf_attr_integrate(die, DW_AT_const_value, &attr))
        return;
    if (dw.dwarf_formsdata(&attr, &value) == 0) {
        mk_set_integer(L, key, (uint64_t)value);
    } else if (dw.dwarf_formblock(&attr, &block) == 0 && block.length <= BLOCK_MAX) {
        lua_pushlstring(L, (const char *)block.data, block.length);
        lua_setfield(L, -2, key);
    }
}

static void push_variable(lua_State *L, struct mk_dwarf *d, Dwarf_Die *die, Dwarf_Addr address)
{
    lua_createtable(L, 0, 6);
    mk_set_die_name(L, die);
    mk_set_die_type(L, d, die, "type");
    mk_set_die_number(L, die, DW_AT_decl_line, "line");
    set_expression(L, die, DW_AT_location, "location", address);
    mk_set_die_constant(L, die, "constant");
    if (dw.dwarf_tag(die) == DW_TAG_formal_parameter) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "parameter");
    }
}

/* dwarf.variables(d, die, address) -> list of { name=, type=, line=, location = expression,
 * constant = integer | string, parameter = true } of a scope, in the order of the source */
static int variables(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Die child;
    Dwarf_Addr address = (Dwarf_Addr)luaL_checkinteger(L, 3);
    lua_Integer count = 0;
    luaL_checkstack(L, 14, NULL);
    lua_newtable(L);
    Dwarf_Die parent = *mk_check_die(L, d, 2);
    if (dw.dwarf_child(&parent, &child) != 0)
        return 1;
    do {
        int tag = dw.dwarf_tag(&child);
        if (tag != DW_TAG_variable && tag != DW_TAG_formal_parameter)
            continue;
        push_variable(L, d, &child, address);
        lua_rawseti(L, -2, ++count);
    } while (count < MK_DIES_MAX && dw.dwarf_siblingof(&child, &child) == 0);
    return 1;
}

/* --- calls --- */

/* Whether an entry is the call that returns to an address. */
static bool returns_to(Dwarf_Die *die, Dwarf_Addr address)
{
    Dwarf_Attribute attr;
    Dwarf_Addr back;
    int tag = dw.dwarf_tag(die);
    unsigned name = tag == DW_TAG_call_site       ? DW_AT_call_return_pc
                    : tag == DW_TAG_GNU_call_site ? DW_AT_low_pc
                                                  : 0;
    return name && dw.dwarf_formaddr(dw.dwarf_attr(die, name, &attr), &back) == 0 &&
           back == address;
}

/* Pushes { [register] = expression, name = of the function that is called }. */
static void push_call(lua_State *L, Dwarf_Die *call, Dwarf_Addr address)
{
    bool gnu = dw.dwarf_tag(call) == DW_TAG_GNU_call_site;
    Dwarf_Attribute attr;
    Dwarf_Die child, origin;
    Dwarf_Op *ops;
    size_t count;
    unsigned n = 0;
    lua_newtable(L);
    if (dw.dwarf_formref_die(
            dw.dwarf_attr(call, gnu ? DW_AT_abstract_origin : DW_AT_call_origin, &attr), &origin))
        mk_set_die_name(L, &origin);
    if (dw.dwarf_child(call, &child) != 0)
        return;
    do {
        if (!dw.dwarf_attr(&child, DW_AT_location, &attr) ||
            dw.dwarf_getlocation_addr(&attr, address, &ops, &count, 1) != 1 || count != 1 ||
            !is_register(ops))
            continue;
        set_expression(L, &child, gnu ? DW_AT_GNU_call_site_value : DW_AT_call_value, "value",
                       address);
        if (lua_getfield(L, -1, "value") != LUA_TNIL)
            lua_rawseti(L, -2, (lua_Integer)(ops->atom - DW_OP_reg0));
        else
            lua_pop(L, 1);
        lua_pushnil(L);
        lua_setfield(L, -2, "value");
    } while (++n < MK_DIES_MAX && dw.dwarf_siblingof(&child, &child) == 0);
}

/* dwarf.call(d, address) -> what registers held at the call that returns to this address, as
 * expressions of the caller's frame: { [register] = expression, name = of the function that is
 * called }; nil: not known */
static int call(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Addr address = (Dwarf_Addr)luaL_checkinteger(L, 2);
    struct search s = { .address = address - 1, .left = DIES_MAX };
    struct mk_unit *unit = mk_dwarf_unit(d, s.address);
    Dwarf_Die child;
    luaL_checkstack(L, 14, NULL);
    if (unit)
        descend(&s, &unit->dies, 0);
    for (unsigned i = s.count; i > 0; i--) {
        if (dw.dwarf_child(&s.found[i - 1], &child) != 0)
            continue;
        do {
            if (returns_to(&child, address)) {
                push_call(L, &child, address - 1);
                return 1;
            }
        } while (s.left-- > 0 && dw.dwarf_siblingof(&child, &child) == 0);
    }
    return 0;
}

static const luaL_Reg core[] = { MK_FN(scopes), MK_FN(frame_base), MK_FN(variables), MK_FN(call),
                                 MK_END };

const struct mk_exports mk_dwarf_dies_exports[] = { { .core = core, .table = "dwarf" }, MK_END };
