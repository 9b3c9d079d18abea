/* dwarf_types.c - types of variables. See dwarf.h. DWARF 5, chapter 5. */
#include "lua/dwarf.h"

#define dw mk_libdw

static const char *kind_of(int tag)
{
    switch (tag) {
    case DW_TAG_base_type: return "base";
    case DW_TAG_pointer_type:
    case DW_TAG_reference_type:
    case DW_TAG_rvalue_reference_type: return "pointer";
    case DW_TAG_structure_type:
    case DW_TAG_class_type: return "struct";
    case DW_TAG_union_type: return "union";
    case DW_TAG_enumeration_type: return "enum";
    case DW_TAG_array_type: return "array";
    case DW_TAG_typedef: return "typedef";
    case DW_TAG_const_type: return "const";
    case DW_TAG_volatile_type: return "volatile";
    case DW_TAG_restrict_type:
    case DW_TAG_atomic_type: return "qualified";
    case DW_TAG_subroutine_type: return "function";
    default: return "other";
    }
}

static void push_member(lua_State *L, struct mk_dwarf *d, Dwarf_Die *die)
{
    lua_createtable(L, 0, 6);
    mk_set_die_name(L, die);
    mk_set_die_type(L, d, die, "type");
    mk_set_die_number(L, die, DW_AT_data_member_location, "offset");
    mk_set_die_number(L, die, DW_AT_bit_size, "bit_size");
    mk_set_die_number(L, die, DW_AT_data_bit_offset, "data_bit_offset");
    mk_set_die_number(L, die, DW_AT_bit_offset,
                      "bit_offset"); /* of DWARF 2 and 3: from the highest bit */
    mk_set_die_number(L, die, DW_AT_byte_size, "size");
}

/* One dimension of an array: how many; -1 when that is not known. */
static void push_dimension(lua_State *L, Dwarf_Die *die)
{
    Dwarf_Word count;
    if (!mk_die_number(die, DW_AT_count, &count))
        count = mk_die_number(die, DW_AT_upper_bound, &count) ? count + 1 : (Dwarf_Word)-1;
    lua_pushinteger(L, (lua_Integer)count);
}

/* Pushes the list of what a type has of entries with this tag. */
static void push_children(lua_State *L, struct mk_dwarf *d, Dwarf_Die *type, int wanted)
{
    Dwarf_Die child;
    lua_Integer count = 0;
    lua_newtable(L);
    if (dw.dwarf_child(type, &child) != 0)
        return;
    do {
        if (dw.dwarf_tag(&child) != wanted)
            continue;
        if (wanted == DW_TAG_member) {
            push_member(L, d, &child);
        } else if (wanted == DW_TAG_subrange_type) {
            push_dimension(L, &child);
        } else {
            lua_createtable(L, 0, 2);
            mk_set_die_name(L, &child);
            mk_set_die_constant(L, &child, "value");
        }
        lua_rawseti(L, -2, ++count);
    } while (count < MK_DIES_MAX && dw.dwarf_siblingof(&child, &child) == 0);
}

/* dwarf.type(d, die) -> { kind=, name=, size=, encoding=, of = die, members = { { name=, type=,
 * offset=, bit_size=, data_bit_offset=, bit_offset=, size= }, … }, counts = { n, … }, values = { {
 * name=, value= }, … } }: what its kind has of these */
static int type(lua_State *L)
{
    struct mk_dwarf *d = mk_check_dwarf(L);
    Dwarf_Die die = *mk_check_die(L, d, 2);
    int tag = dw.dwarf_tag(&die);
    const char *kind = kind_of(tag);
    luaL_checkstack(L, 14, NULL);
    lua_createtable(L, 0, 6);
    mk_set_string(L, "kind", kind);
    mk_set_die_name(L, &die);
    mk_set_die_number(L, &die, DW_AT_byte_size, "size");
    mk_set_die_number(L, &die, DW_AT_encoding, "encoding");
    mk_set_die_type(L, d, &die, "of");
    if (kind[0] == 's' || kind[0] == 'u') {
        push_children(L, d, &die, DW_TAG_member);
        lua_setfield(L, -2, "members");
    } else if (tag == DW_TAG_array_type) {
        push_children(L, d, &die, DW_TAG_subrange_type);
        lua_setfield(L, -2, "counts");
    } else if (tag == DW_TAG_enumeration_type) {
        push_children(L, d, &die, DW_TAG_enumerator);
        lua_setfield(L, -2, "values");
    }
    return 1;
}

static const luaL_Reg core[] = { MK_FN(type), MK_END };

const struct mk_exports mk_dwarf_types_exports[] = { { .core = core, .table = "dwarf" }, MK_END };
