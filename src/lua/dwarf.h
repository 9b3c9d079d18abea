/* dwarf.h - debugging information of an ELF file, by elfutils' libdw, for lua/minikvm/debug.
 *
 * The library is loaded when the first file is opened. Without it that fails, and nothing else
 * does. All numbers in a file may be wrong: what is followed is counted. Used by the thread that
 * runs Lua, under its lock. DWARF 2 to 5, their extensions by GNU. */
#ifndef MK_LUA_DWARF_H
#define MK_LUA_DWARF_H

#include "codec/bytes.h"
#include "lua/core.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <gelf.h>

#define MK_DWARF "minikvm.dwarf"

/* What is used of it; all of them are looked up. */
#define MK_LIBDW(X)                                                                                \
    X(elf_version)                                                                                 \
    X(elf_begin)                                                                                   \
    X(elf_memory)                                                                                  \
    X(elf_end)                                                                                     \
    X(elf_getphdrnum)                                                                              \
    X(gelf_getphdr)                                                                                \
    X(elf_getshdrstrndx)                                                                           \
    X(elf_nextscn)                                                                                 \
    X(gelf_getshdr)                                                                                \
    X(gelf_getchdr)                                                                                \
    X(elf_strptr)                                                                                  \
    X(elf_getdata)                                                                                 \
    X(dwarf_begin_elf)                                                                             \
    X(dwarf_end)                                                                                   \
    X(dwarf_errno)                                                                                 \
    X(dwarf_errmsg)                                                                                \
    X(dwarf_get_units)                                                                             \
    X(dwarf_cu_info)                                                                               \
    X(dwarf_cu_getdwarf)                                                                           \
    X(dwarf_getelf)                                                                                \
    X(dwarf_diecu)                                                                                 \
    X(dwarf_ranges)                                                                                \
    X(dwarf_entrypc)                                                                               \
    X(dwarf_haspc)                                                                                 \
    X(dwarf_tag)                                                                                   \
    X(dwarf_child)                                                                                 \
    X(dwarf_siblingof)                                                                             \
    X(dwarf_diename)                                                                               \
    X(dwarf_attr)                                                                                  \
    X(dwarf_attr_integrate)                                                                        \
    X(dwarf_hasattr)                                                                               \
    X(dwarf_formstring)                                                                            \
    X(dwarf_formudata)                                                                             \
    X(dwarf_formsdata)                                                                             \
    X(dwarf_formaddr)                                                                              \
    X(dwarf_formblock)                                                                             \
    X(dwarf_formref_die)                                                                           \
    X(dwarf_getsrcfiles)                                                                           \
    X(dwarf_filesrc)                                                                               \
    X(dwarf_getsrclines)                                                                           \
    X(dwarf_getsrc_die)                                                                            \
    X(dwarf_onesrcline)                                                                            \
    X(dwarf_lineaddr)                                                                              \
    X(dwarf_lineno)                                                                                \
    X(dwarf_linecol)                                                                               \
    X(dwarf_linesrc)                                                                               \
    X(dwarf_linebeginstatement)                                                                    \
    X(dwarf_lineendsequence)                                                                       \
    X(dwarf_getlocation_addr)                                                                      \
    X(dwarf_getlocation_attr)                                                                      \
    X(dwarf_getlocation_implicit_value)                                                            \
    X(dwarf_getcfi)                                                                                \
    X(dwarf_getcfi_elf)                                                                            \
    X(dwarf_cfi_end)                                                                               \
    X(dwarf_cfi_addrframe)                                                                         \
    X(dwarf_frame_info)                                                                            \
    X(dwarf_frame_cfa)                                                                             \
    X(dwarf_frame_register)

struct mk_libdw {
#define MK_POINTER(name) __typeof__(name) *name;
    MK_LIBDW(MK_POINTER)
#undef MK_POINTER
};

extern struct mk_libdw mk_libdw; /* filled in before a file is open */

/* A compilation unit: `top` is where its lines are, `dies` where its functions are, which is
 * another one when they are in a .dwo file. */
struct mk_unit {
    Dwarf_Die top, dies;
};

/* Addresses of a unit, those in the file: [low, high). */
struct mk_unit_range {
    uint64_t low, high;
    uint32_t unit;
};

struct mk_dwarf {
    Elf *elf; /* NULL: closed */
    Dwarf *info;
    char *copy; /* of a file that is in memory */
    int fd;     /* -1: it is in memory */
    bool split; /* .dwo files may be opened */
    struct mk_unit *units;
    size_t unit_count, unit_room;
    struct mk_unit_range *ranges; /* by `low` */
    size_t range_count, range_room;
    Dwarf_Die *dies; /* that Lua knows by number */
    size_t die_count, die_room;
    Dwarf_CFI *cfi[2]; /* .debug_frame, .eh_frame */
    bool has_cfi;
    Dwarf_Frame *frame; /* the one looked at */
};

struct mk_dwarf *mk_check_dwarf(lua_State *L);
/* The unit that an address of the file belongs to; NULL: none. */
struct mk_unit *mk_dwarf_unit(const struct mk_dwarf *d, uint64_t address);
/* Whether something of the file is loaded at this address: ranges of functions that the linker left
 * out begin at 0. */
bool mk_dwarf_loaded(const struct mk_dwarf *d, uint64_t address);

/* Pushes { operation, number, number, offset, operation, ... }; `attr`: which it is of, or NULL. */
void mk_push_operations(lua_State *L, Dwarf_Attribute *attr, const Dwarf_Op *ops, size_t count);
/* Pushes the file's name as the compiler was told it; nil when there is none. */
void mk_push_source(lua_State *L, Dwarf_Die *cu, const char *path);

#endif
