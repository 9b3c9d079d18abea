/* symbols.c - names and addresses of an ELF image (gABI chapter 4, "Symbol Table").
 *
 * Symbols are decoded from the file each time: no second table that could grow with a hostile file
 * or cost time when nobody asks. A search looks at every symbol, some 5 ns each. */
#include "image/image.h"

#include <elf.h>
#include <string.h>

static Elf64_Sym raw_symbol(const struct mk_image *image, uint64_t index)
{
    const struct mk_symbol_table *t = &image->plan.symbols;
    Elf64_Sym wide;
    if (t->wide) {
        memcpy(&wide, image->bytes + t->offset + index * sizeof(wide), sizeof(wide));
        return wide;
    }
    Elf32_Sym narrow;
    memcpy(&narrow, image->bytes + t->offset + index * sizeof(narrow), sizeof(narrow));
    return (Elf64_Sym){ .st_name = narrow.st_name, .st_info = narrow.st_info,
                        .st_shndx = narrow.st_shndx, .st_value = narrow.st_value,
                        .st_size = narrow.st_size };
}

/* Functions, objects and labels that are defined in this file. */
static bool names_something(const Elf64_Sym *s)
{
    unsigned type = ELF64_ST_TYPE(s->st_info);
    return (type == STT_NOTYPE || type == STT_OBJECT || type == STT_FUNC) &&
           s->st_shndx != SHN_UNDEF && s->st_shndx != SHN_COMMON;
}

bool mk_image_symbol(const struct mk_image *image, uint64_t index, struct mk_symbol *symbol)
{
    const struct mk_symbol_table *t = &image->plan.symbols;
    if (index >= t->count)
        return false;
    Elf64_Sym s = raw_symbol(image, index);
    if (!names_something(&s) || s.st_name >= t->names_size)
        return false;
    const char *name = (const char *)image->bytes + t->names + s.st_name; /* the last byte is NUL */
    *symbol = (struct mk_symbol){ .name = name, .value = s.st_value, .size = s.st_size,
                                  .type = ELF64_ST_TYPE(s.st_info),
                                  .bind = ELF64_ST_BIND(s.st_info),
                                  .absolute = s.st_shndx == SHN_ABS };
    return name[0] != 0;
}

static unsigned bind_rank(uint8_t bind)
{
    return bind == STB_GLOBAL ? 3 : bind == STB_WEAK ? 2 : 1;
}

bool mk_symbol_find(const struct mk_image *image, const char *name, struct mk_symbol *symbol)
{
    unsigned best = 0;
    struct mk_symbol s;
    for (uint64_t i = 0; i < image->plan.symbols.count && best < 3; i++) {
        if (!mk_image_symbol(image, i, &s) || strcmp(s.name, name) != 0)
            continue;
        if (bind_rank(s.bind) > best) {
            best = bind_rank(s.bind);
            *symbol = s;
        }
    }
    return best > 0;
}

/* One that has a size holds its bytes; a label holds what follows it in its segment. */
static bool holds(const struct mk_symbol *s, const struct mk_segment *segment, uint64_t address)
{
    if (s->absolute || s->value > address)
        return false;
    if (s->size)
        return address - s->value < s->size;
    return s->value >= segment->linear;
}

/* Whether `s` says more of the address than `than`: nearer, then with a size, then global. */
static bool better(const struct mk_symbol *s, const struct mk_symbol *than)
{
    if (s->value != than->value)
        return s->value > than->value;
    if (!s->size != !than->size)
        return s->size != 0;
    return bind_rank(s->bind) > bind_rank(than->bind);
}

bool mk_symbol_at(const struct mk_image *image, uint64_t address, struct mk_symbol *symbol)
{
    const struct mk_segment *segment = mk_plan_segment(&image->plan, address, false);
    bool found = false;
    struct mk_symbol s;
    if (!segment)
        return false;
    for (uint64_t i = 0; i < image->plan.symbols.count; i++) {
        if (!mk_image_symbol(image, i, &s) || !holds(&s, segment, address))
            continue;
        if (!found || better(&s, symbol))
            *symbol = s;
        found = true;
    }
    return found;
}
