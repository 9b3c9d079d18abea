/* elf.c - ELF executables for the 80386 and x86-64: System V ABI (gABI 4.1), chapter 4 "ELF
 * Header" and "Sections", chapter 5 "Program Header"; the processor supplements for i386 and amd64.
 *
 * Headers of both classes are widened to the 64-bit structures and then treated alike. Bytes of the
 * file are copied out before use: nothing in it need be aligned. Errors speak as readelf does. */
#include "image/image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

typedef unsigned long long ull;

/* --- widening --- */

static Elf64_Ehdr wide_header(const Elf32_Ehdr *h)
{
    Elf64_Ehdr w = { .e_type = h->e_type, .e_machine = h->e_machine, .e_version = h->e_version,
                     .e_entry = h->e_entry, .e_phoff = h->e_phoff, .e_shoff = h->e_shoff,
                     .e_ehsize = h->e_ehsize, .e_phentsize = h->e_phentsize,
                     .e_phnum = h->e_phnum, .e_shentsize = h->e_shentsize,
                     .e_shnum = h->e_shnum };
    memcpy(w.e_ident, h->e_ident, EI_NIDENT);
    return w;
}

static Elf64_Phdr wide_segment(const Elf32_Phdr *p)
{
    return (Elf64_Phdr){ .p_type = p->p_type, .p_flags = p->p_flags, .p_offset = p->p_offset,
                         .p_vaddr = p->p_vaddr, .p_paddr = p->p_paddr, .p_filesz = p->p_filesz,
                         .p_memsz = p->p_memsz, .p_align = p->p_align };
}

static Elf64_Shdr wide_section(const Elf32_Shdr *s)
{
    return (Elf64_Shdr){ .sh_type = s->sh_type, .sh_offset = s->sh_offset, .sh_size = s->sh_size,
                         .sh_link = s->sh_link, .sh_entsize = s->sh_entsize };
}

/* Each is called only with a table that was found to lie inside the file. */
static Elf64_Phdr program_header(const struct mk_image *image, const Elf64_Ehdr *h, unsigned i)
{
    const uint8_t *from = image->bytes + h->e_phoff + (uint64_t)i * h->e_phentsize;
    if (h->e_ident[EI_CLASS] == ELFCLASS32) {
        Elf32_Phdr narrow;
        memcpy(&narrow, from, sizeof(narrow));
        return wide_segment(&narrow);
    }
    Elf64_Phdr wide;
    memcpy(&wide, from, sizeof(wide));
    return wide;
}

static Elf64_Shdr section_header(const struct mk_image *image, const Elf64_Ehdr *h, unsigned i)
{
    const uint8_t *from = image->bytes + h->e_shoff + (uint64_t)i * h->e_shentsize;
    if (h->e_ident[EI_CLASS] == ELFCLASS32) {
        Elf32_Shdr narrow;
        memcpy(&narrow, from, sizeof(narrow));
        return wide_section(&narrow);
    }
    Elf64_Shdr wide;
    memcpy(&wide, from, sizeof(wide));
    return wide;
}

/* --- ELF header (gABI chapter 4) --- */

bool mk_elf_is(const struct mk_image *image)
{
    return image->size >= SELFMAG && memcmp(image->bytes, ELFMAG, SELFMAG) == 0;
}

bool mk_elf_is_32(const struct mk_image *image)
{
    return mk_elf_is(image) && image->size > EI_CLASS && image->bytes[EI_CLASS] == ELFCLASS32;
}

static int check_ident(const struct mk_image *image, struct mk_err *err)
{
    const uint8_t *ident = image->bytes;
    if (!mk_elf_is(image))
        return mk_fail(err, ENOEXEC, "%s: not an ELF file: it has the wrong magic bytes at the "
                       "start", image->name);
    if (image->size < EI_NIDENT)
        return mk_fail(err, ENOEXEC, "%s: the file ends within the ELF header", image->name);
    if (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Class 0x%x is neither ELF32 nor ELF64",
                       image->name, ident[EI_CLASS]);
    if (ident[EI_DATA] != ELFDATA2LSB)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Data 0x%x is not 2's complement, little "
                       "endian", image->name, ident[EI_DATA]);
    if (ident[EI_VERSION] != EV_CURRENT)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Version %u in the magic is not 1 (current)",
                       image->name, ident[EI_VERSION]);
    return 0;
}

static int read_header(const struct mk_image *image, Elf64_Ehdr *h, struct mk_err *err)
{
    if (check_ident(image, err) < 0)
        return -1;
    bool narrow = mk_elf_is_32(image);
    size_t size = narrow ? sizeof(Elf32_Ehdr) : sizeof(Elf64_Ehdr);
    if (image->size < size)
        return mk_fail(err, ENOEXEC, "%s: the file ends within the ELF header", image->name);
    if (narrow) {
        Elf32_Ehdr from;
        memcpy(&from, image->bytes, sizeof(from));
        *h = wide_header(&from);
    } else {
        memcpy(h, image->bytes, sizeof(*h));
    }
    if (h->e_version != EV_CURRENT)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Version 0x%x is not 1", image->name,
                       h->e_version);
    if (h->e_ehsize != size)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Size of this header: %u, not %zu",
                       image->name, h->e_ehsize, size);
    return 0;
}

static int check_type(const struct mk_image *image, const Elf64_Ehdr *h, struct mk_err *err)
{
    static const char *const kinds[] = {
        [ET_NONE] = "NONE", [ET_REL] = "REL (Relocatable file): link it first",
        [ET_DYN] = "DYN (Position-Independent Executable or shared object): link it with -static "
                   "-no-pie",
        [ET_CORE] = "CORE (Core file)" };
    if (h->e_type == ET_EXEC)
        return 0;
    if (h->e_type < MK_COUNT(kinds))
        return mk_fail(err, ENOEXEC, "%s: ELF header: Type must be EXEC, not %s", image->name,
                       kinds[h->e_type]);
    return mk_fail(err, ENOEXEC, "%s: ELF header: Type must be EXEC, not 0x%x", image->name,
                   h->e_type);
}

/* The machine that the class must go with: x32 and its like are refused. */
static int check_machine(const struct mk_image *image, const Elf64_Ehdr *h, struct mk_err *err)
{
    bool narrow = h->e_ident[EI_CLASS] == ELFCLASS32;
    if (h->e_machine == (narrow ? EM_386 : EM_X86_64))
        return 0;
    if (h->e_machine == EM_386 || h->e_machine == EM_X86_64)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Class %s with Machine %s", image->name,
                       narrow ? "ELF32" : "ELF64",
                       narrow ? "Advanced Micro Devices X86-64" : "Intel 80386");
    return mk_fail(err, ENOEXEC, "%s: ELF header: Machine %u is neither Intel 80386 nor Advanced "
                   "Micro Devices X86-64", image->name, h->e_machine);
}

static int check_bits(const struct mk_image *image, const Elf64_Ehdr *h,
                      const struct mk_plan_want *want, struct mk_err *err)
{
    bool narrow = h->e_ident[EI_CLASS] == ELFCLASS32;
    if (narrow == (want->bits != 64))
        return 0;
    if (narrow)
        return mk_fail(err, EINVAL, "%s: a program for Intel 80386 does not run in long mode: "
                       "mode=\"protected\" or \"paged\"", image->name);
    return mk_fail(err, EINVAL, "%s: a program for Advanced Micro Devices X86-64 runs in "
                   "mode=\"long\" only", image->name);
}

static int check_program_headers(const struct mk_image *image, const Elf64_Ehdr *h,
                                 struct mk_err *err)
{
    size_t size = h->e_ident[EI_CLASS] == ELFCLASS32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);
    if (h->e_phnum == 0)
        return mk_fail(err, ENOEXEC, "%s: There are no program headers in this file", image->name);
    if (h->e_phnum == PN_XNUM)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Number of program headers: %u: extended "
                       "numbering is not supported", image->name, h->e_phnum);
    if (h->e_phentsize != size)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Size of program headers: %u, not %zu",
                       image->name, h->e_phentsize, size);
    if (!mk_inside(h->e_phoff, (uint64_t)h->e_phnum * size, image->size))
        return mk_fail(err, ENOEXEC, "%s: ELF header: Start of program headers: 0x%llx: %u of them "
                       "do not fit into the file's %zu bytes", image->name, (ull)h->e_phoff,
                       h->e_phnum, image->size);
    return 0;
}

/* --- segments (gABI chapter 5) --- */

static int check_segment(const struct mk_image *image, const Elf64_Ehdr *h, const Elf64_Phdr *p,
                         unsigned i, struct mk_err *err)
{
    uint64_t top = h->e_ident[EI_CLASS] == ELFCLASS32 ? UINT32_MAX : UINT64_MAX;
    if (p->p_filesz > p->p_memsz)
        return mk_fail(err, ENOEXEC, "%s: program header %u: LOAD: FileSiz 0x%llx is larger than "
                       "MemSiz 0x%llx", image->name, i, (ull)p->p_filesz, (ull)p->p_memsz);
    if (!mk_inside(p->p_offset, p->p_filesz, image->size))
        return mk_fail(err, ENOEXEC, "%s: program header %u: LOAD: Offset 0x%llx + FileSiz 0x%llx "
                       "lies beyond the file's %zu bytes", image->name, i, (ull)p->p_offset,
                       (ull)p->p_filesz, image->size);
    if (p->p_memsz && p->p_memsz - 1 > top - p->p_vaddr)
        return mk_fail(err, ENOEXEC, "%s: program header %u: LOAD: VirtAddr 0x%llx + MemSiz 0x%llx "
                       "wraps around", image->name, i, (ull)p->p_vaddr, (ull)p->p_memsz);
    if (p->p_memsz && p->p_memsz - 1 > top - p->p_paddr)
        return mk_fail(err, ENOEXEC, "%s: program header %u: LOAD: PhysAddr 0x%llx + MemSiz 0x%llx "
                       "wraps around", image->name, i, (ull)p->p_paddr, (ull)p->p_memsz);
    if (p->p_align & (p->p_align - 1))
        return mk_fail(err, ENOEXEC, "%s: program header %u: LOAD: Align 0x%llx is not a power of "
                       "2", image->name, i, (ull)p->p_align);
    return 0;
}

/* Linked high and with no physical addresses of their own (p_paddr = p_vaddr), segments go where
 * the mode maps their addresses to. */
static uint64_t physical(const struct mk_plan_want *want, const Elf64_Phdr *p)
{
    if (want->bits == 16)
        return p->p_paddr + want->at; /* their sum is checked: the first is below 4 GiB */
    if (want->high && p->p_paddr >= want->high && !mk_inside(p->p_paddr, p->p_memsz, want->limit))
        return p->p_paddr - want->high;
    return p->p_paddr;
}

static int add_segment(const struct mk_image *image, const struct mk_plan_want *want,
                       const Elf64_Phdr *p, struct mk_plan *plan, struct mk_err *err)
{
    if (p->p_memsz == 0)
        return 0;
    if (plan->count == MK_SEGMENTS_MAX)
        return mk_fail(err, E2BIG, "%s: more than %d program headers of Type LOAD", image->name,
                       MK_SEGMENTS_MAX);
    plan->segment[plan->count++] = (struct mk_segment){
        .at = physical(want, p), .linear = p->p_vaddr, .offset = p->p_offset,
        .file_bytes = p->p_filesz, .mem_bytes = p->p_memsz };
    return 0;
}

static int add_segments(const struct mk_image *image, const struct mk_plan_want *want,
                        const Elf64_Ehdr *h, struct mk_plan *plan, struct mk_err *err)
{
    for (unsigned i = 0; i < h->e_phnum; i++) {
        Elf64_Phdr p = program_header(image, h, i);
        if (p.p_type == PT_INTERP)
            return mk_fail(err, ENOEXEC, "%s: program header %u: INTERP: it is dynamically linked: "
                           "link it with -static", image->name, i);
        if (p.p_type != PT_LOAD)
            continue;
        if (check_segment(image, h, &p, i, err) < 0 || add_segment(image, want, &p, plan, err) < 0)
            return -1;
    }
    if (plan->count == 0)
        return mk_fail(err, ENOEXEC, "%s: no program header of Type LOAD: there is nothing to load",
                       image->name);
    return 0;
}

/* The entry is linear; some linker scripts make it physical instead. Neither matters when the
 * caller starts it elsewhere. */
static int find_entry(const struct mk_image *image, const struct mk_plan_want *want,
                      const Elf64_Ehdr *h, struct mk_plan *plan, struct mk_err *err)
{
    plan->entry = h->e_entry;
    if (want->has_entry || want->entry_symbol)
        return 0;
    if (mk_plan_segment(plan, h->e_entry, false) || mk_plan_segment(plan, h->e_entry, true))
        return 0;
    return mk_fail(err, ENOEXEC, "%s: ELF header: Entry point address 0x%llx lies in no LOAD "
                   "segment", image->name, (ull)h->e_entry);
}

int mk_elf_plan(const struct mk_image *image, const struct mk_plan_want *want,
                struct mk_plan *plan, struct mk_err *err)
{
    Elf64_Ehdr h;
    if (read_header(image, &h, err) < 0 || check_type(image, &h, err) < 0 ||
        check_machine(image, &h, err) < 0 || check_bits(image, &h, want, err) < 0 ||
        check_program_headers(image, &h, err) < 0 ||
        add_segments(image, want, &h, plan, err) < 0 ||
        find_entry(image, want, &h, plan, err) < 0)
        return -1;
    plan->bits = want->bits;
    return mk_elf_symbols(image, plan, err);
}

/* --- the symbol table (gABI chapter 4, "Sections", "String Table", "Symbol Table") --- */

static int check_sections(const struct mk_image *image, const Elf64_Ehdr *h, struct mk_err *err)
{
    size_t size = h->e_ident[EI_CLASS] == ELFCLASS32 ? sizeof(Elf32_Shdr) : sizeof(Elf64_Shdr);
    if (h->e_shentsize != size)
        return mk_fail(err, ENOEXEC, "%s: ELF header: Size of section headers: %u, not %zu",
                       image->name, h->e_shentsize, size);
    if (!mk_inside(h->e_shoff, (uint64_t)h->e_shnum * size, image->size))
        return mk_fail(err, ENOEXEC, "%s: ELF header: Start of section headers: 0x%llx: %u of them "
                       "do not fit into the file's %zu bytes: is it cut short?", image->name,
                       (ull)h->e_shoff, h->e_shnum, image->size);
    return 0;
}

static int check_names(const struct mk_image *image, const Elf64_Shdr *names, unsigned i,
                       struct mk_err *err)
{
    if (names->sh_type != SHT_STRTAB)
        return mk_fail(err, ENOEXEC, "%s: section %u, the symbols' Link: Type is not STRTAB",
                       image->name, i);
    if (!mk_inside(names->sh_offset, names->sh_size, image->size))
        return mk_fail(err, ENOEXEC, "%s: section %u: STRTAB: Offset 0x%llx + Size 0x%llx lies "
                       "beyond the file's %zu bytes", image->name, i, (ull)names->sh_offset,
                       (ull)names->sh_size, image->size);
    if (names->sh_size == 0 || image->bytes[names->sh_offset + names->sh_size - 1] != 0)
        return mk_fail(err, ENOEXEC, "%s: section %u: STRTAB: it does not end with a null byte",
                       image->name, i);
    return 0;
}

static int use_symbols(const struct mk_image *image, const Elf64_Ehdr *h, const Elf64_Shdr *table,
                       unsigned i, struct mk_symbol_table *symbols, struct mk_err *err)
{
    bool wide = h->e_ident[EI_CLASS] == ELFCLASS64;
    size_t size = wide ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
    if (table->sh_entsize != size)
        return mk_fail(err, ENOEXEC, "%s: section %u: SYMTAB: EntSize 0x%llx is not 0x%zx",
                       image->name, i, (ull)table->sh_entsize, size);
    if (!mk_inside(table->sh_offset, table->sh_size, image->size) || table->sh_size % size)
        return mk_fail(err, ENOEXEC, "%s: section %u: SYMTAB: Offset 0x%llx + Size 0x%llx lies "
                       "beyond the file's %zu bytes or has half an entry", image->name, i,
                       (ull)table->sh_offset, (ull)table->sh_size, image->size);
    if (table->sh_link >= h->e_shnum)
        return mk_fail(err, ENOEXEC, "%s: section %u: SYMTAB: Link %u: there are %u sections",
                       image->name, i, table->sh_link, h->e_shnum);
    Elf64_Shdr names = section_header(image, h, table->sh_link);
    if (check_names(image, &names, table->sh_link, err) < 0)
        return -1;
    *symbols = (struct mk_symbol_table){ .offset = table->sh_offset, .wide = wide,
                                         .count = table->sh_size / size,
                                         .names = names.sh_offset, .names_size = names.sh_size };
    return 0;
}

int mk_elf_symbols(const struct mk_image *image, struct mk_plan *plan, struct mk_err *err)
{
    Elf64_Ehdr h;
    if (read_header(image, &h, err) < 0)
        return -1;
    if (h.e_shnum == 0 || h.e_shoff == 0)
        return 0;
    if (check_sections(image, &h, err) < 0)
        return -1;
    for (unsigned i = 0; i < h.e_shnum; i++) {
        Elf64_Shdr s = section_header(image, &h, i);
        if (s.sh_type == SHT_SYMTAB)
            return use_symbols(image, &h, &s, i, &plan->symbols, err);
    }
    return 0;
}
