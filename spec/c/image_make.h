/* image_make.h - makes small ELF files and Multiboot kernels field by field, good until somebody
 * changes a field; for test_image.c and fuzz_image.c. */
#ifndef IMAGE_MAKE_H
#define IMAGE_MAKE_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MAKE_SIZE 4096u
#define MAKE_PHDRS 0x40u
#define MAKE_CODE 0x100u   /* 16 bytes of 0xc0 and up */
#define MAKE_DATA 0x140u   /* 8 bytes of 0xd0 and up */
#define MAKE_SYMBOLS 0x180u
#define MAKE_NAMES 0x240u
#define MAKE_SHDRS 0x280u
#define MAKE_HEADER 0x800u /* of Multiboot */

#define MAKE_TEXT_AT 0x2000u
#define MAKE_DATA_AT 0x3000u
#define MAKE_BSS 0x1800u
#define MAKE_SYMBOL_COUNT 8u

/* An ELF file in the wide structures; make_elf() narrows them for ELFCLASS32. */
struct make {
    Elf64_Ehdr e;
    Elf64_Phdr p[3];
    Elf64_Shdr s[3];
    Elf64_Sym sym[MAKE_SYMBOL_COUNT];
    char names[0x40];
    uint32_t multiboot[8]; /* written when the first is not 0 */
    uint8_t bytes[MAKE_SIZE];
    size_t size;
};

static inline uint32_t make_name(struct make *m, const char *name)
{
    size_t at = 1;
    while (m->names[at])
        at += strlen(m->names + at) + 1;
    strcpy(m->names + at, name);
    return (uint32_t)at;
}

static inline void make_symbol(struct make *m, unsigned i, const char *name, uint64_t value,
                               uint64_t size, unsigned bind, unsigned type)
{
    m->sym[i] = (Elf64_Sym){ .st_name = make_name(m, name), .st_value = value, .st_size = size,
                             .st_info = (unsigned char)(bind << 4 | type), .st_shndx = 1 };
}

static inline void make_symbols(struct make *m)
{
    make_symbol(m, 1, "a.c", 0, 0, STB_LOCAL, STT_FILE);
    make_symbol(m, 2, "start", MAKE_TEXT_AT, 0, STB_GLOBAL, STT_NOTYPE);
    make_symbol(m, 3, "main", MAKE_TEXT_AT + 4, 8, STB_LOCAL, STT_FUNC);
    make_symbol(m, 4, "main", MAKE_TEXT_AT + 8, 4, STB_GLOBAL, STT_FUNC);
    make_symbol(m, 5, "table", MAKE_DATA_AT, 8, STB_GLOBAL, STT_OBJECT);
    make_symbol(m, 6, "STACK", 0x4000, 0, STB_GLOBAL, STT_NOTYPE);
    m->sym[6].st_shndx = SHN_ABS;
    make_symbol(m, 7, "missing", 0, 0, STB_GLOBAL, STT_NOTYPE);
    m->sym[7].st_shndx = SHN_UNDEF;
}

static inline void make_sections(struct make *m, bool wide)
{
    size_t entry = wide ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
    m->s[1] = (Elf64_Shdr){ .sh_type = SHT_SYMTAB, .sh_offset = MAKE_SYMBOLS, .sh_link = 2,
                            .sh_size = MAKE_SYMBOL_COUNT * entry, .sh_entsize = entry };
    m->s[2] = (Elf64_Shdr){ .sh_type = SHT_STRTAB, .sh_offset = MAKE_NAMES,
                            .sh_size = sizeof(m->names) };
}

/* A program of two LOAD segments, the second with bss, and a NOTE. */
static inline void make_good(struct make *m, int class)
{
    bool wide = class == ELFCLASS64;
    memset(m, 0, sizeof(*m));
    m->e = (Elf64_Ehdr){ .e_ident = { 0x7f, 'E', 'L', 'F', (unsigned char)class, ELFDATA2LSB, 1 },
        .e_type = ET_EXEC, .e_machine = wide ? EM_X86_64 : EM_386, .e_version = 1,
        .e_entry = MAKE_TEXT_AT, .e_phoff = MAKE_PHDRS, .e_shoff = MAKE_SHDRS,
        .e_ehsize = wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr),
        .e_phentsize = wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr), .e_phnum = 3,
        .e_shentsize = wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr), .e_shnum = 3 };
    m->p[0] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = MAKE_CODE, .p_vaddr = MAKE_TEXT_AT,
                            .p_paddr = MAKE_TEXT_AT, .p_filesz = 16, .p_memsz = 16,
                            .p_align = 1 };
    m->p[1] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = UINT32_MAX, .p_filesz = 1 };
    m->p[2] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = MAKE_DATA, .p_vaddr = MAKE_DATA_AT,
                            .p_paddr = MAKE_DATA_AT, .p_filesz = 8, .p_memsz = 8 + MAKE_BSS,
                            .p_align = 4 };
    make_sections(m, wide);
    make_symbols(m);
    m->size = MAKE_SIZE;
}

/* With address fields (flags bit 16) that load the whole file at 0x10000, or without. */
static inline void make_multiboot(struct make *m, bool addresses)
{
    uint32_t flags = addresses ? 0x10003 : 3;
    make_good(m, ELFCLASS32);
    m->multiboot[0] = 0x1badb002;
    m->multiboot[1] = flags;
    m->multiboot[3] = 0x10000 + MAKE_HEADER;
    m->multiboot[4] = 0x10000;
    m->multiboot[5] = 0x10000 + MAKE_SIZE;
    m->multiboot[6] = 0x10000 + MAKE_SIZE + MAKE_BSS;
    m->multiboot[7] = 0x10000 + MAKE_CODE;
}

/* --- writing --- */

static inline void make_narrow(struct make *m)
{
    Elf32_Ehdr e = { .e_type = m->e.e_type, .e_machine = m->e.e_machine,
        .e_version = m->e.e_version, .e_entry = (Elf32_Addr)m->e.e_entry,
        .e_phoff = (Elf32_Off)m->e.e_phoff, .e_shoff = (Elf32_Off)m->e.e_shoff,
        .e_ehsize = m->e.e_ehsize, .e_phentsize = m->e.e_phentsize, .e_phnum = m->e.e_phnum,
        .e_shentsize = m->e.e_shentsize, .e_shnum = m->e.e_shnum };
    memcpy(e.e_ident, m->e.e_ident, EI_NIDENT);
    memcpy(m->bytes, &e, sizeof(e));
    for (unsigned i = 0; i < 3; i++) {
        const Elf64_Phdr *w = &m->p[i];
        Elf32_Phdr p = { .p_type = w->p_type, .p_offset = (Elf32_Off)w->p_offset,
            .p_vaddr = (Elf32_Addr)w->p_vaddr, .p_paddr = (Elf32_Addr)w->p_paddr,
            .p_filesz = (Elf32_Word)w->p_filesz, .p_memsz = (Elf32_Word)w->p_memsz,
            .p_align = (Elf32_Word)w->p_align };
        Elf32_Shdr s = { .sh_type = m->s[i].sh_type, .sh_offset = (Elf32_Off)m->s[i].sh_offset,
            .sh_size = (Elf32_Word)m->s[i].sh_size, .sh_link = m->s[i].sh_link,
            .sh_entsize = (Elf32_Word)m->s[i].sh_entsize };
        memcpy(m->bytes + MAKE_PHDRS + i * sizeof(p), &p, sizeof(p));
        memcpy(m->bytes + MAKE_SHDRS + i * sizeof(s), &s, sizeof(s));
    }
    for (unsigned i = 0; i < MAKE_SYMBOL_COUNT; i++) {
        const Elf64_Sym *w = &m->sym[i];
        Elf32_Sym s = { .st_name = w->st_name, .st_value = (Elf32_Addr)w->st_value,
            .st_size = (Elf32_Word)w->st_size, .st_info = w->st_info, .st_shndx = w->st_shndx };
        memcpy(m->bytes + MAKE_SYMBOLS + i * sizeof(s), &s, sizeof(s));
    }
}

/* Writes the structures into m->bytes; returns m->size. */
static inline size_t make_elf(struct make *m)
{
    memset(m->bytes, 0, sizeof(m->bytes));
    for (unsigned i = 0; i < 16; i++)
        m->bytes[MAKE_CODE + i] = (uint8_t)(0xc0 + i);
    for (unsigned i = 0; i < 8; i++)
        m->bytes[MAKE_DATA + i] = (uint8_t)(0xd0 + i);
    if (m->e.e_ident[EI_CLASS] == ELFCLASS32) {
        make_narrow(m);
    } else {
        memcpy(m->bytes, &m->e, sizeof(m->e));
        memcpy(m->bytes + MAKE_PHDRS, m->p, sizeof(m->p));
        memcpy(m->bytes + MAKE_SHDRS, m->s, sizeof(m->s));
        memcpy(m->bytes + MAKE_SYMBOLS, m->sym, sizeof(m->sym));
    }
    memcpy(m->bytes + MAKE_NAMES, m->names, sizeof(m->names));
    m->multiboot[2] = -(m->multiboot[0] + m->multiboot[1]);
    if (m->multiboot[0])
        memcpy(m->bytes + MAKE_HEADER, m->multiboot, sizeof(m->multiboot));
    return m->size;
}

#endif
