/* test_image.c - good images of every format and bad ones of every kind, made byte by byte, planned
 * and put into RAM. No KVM, no Lua.
 *
 * cc -D_GNU_SOURCE -Isrc spec/c/test_image.c src/image*.c src/kvm/mem.c src/kvm/kvm.c src/base/err.c
 * Prints TAP. With an argument: loads an ELF file of that many MiB and says how fast it went. */
#include "image/image.h"
#include "image_make.h"
#include "tap.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define RAM (4u << 20)
#define OLD 0xa5 /* what RAM holds before */

static struct mk_mem mem;
static struct mk_err err;
static struct make m;

static struct mk_plan_want wants(unsigned bits)
{
    return (struct mk_plan_want){ .bits = bits, .paging = bits == 64, .limit = RAM };
}

static struct mk_image *made(void)
{
    make_elf(&m);
    return mk_image_copy("test.elf", m.bytes, m.size, &err);
}

/* Plans m as made now; NULL when it was refused. */
static struct mk_image *planned(const struct mk_plan_want *want)
{
    struct mk_image *image = made();
    err = (struct mk_err){ 0 };
    if (mk_image_plan(image, want, &err) == 0)
        return image;
    mk_image_free(image);
    return NULL;
}

static void fill_ram(void)
{
    memset(mem.ram, OLD, mem.size);
}

/* Whether [from, to) of RAM holds nothing but this byte. */
static bool all(uint64_t from, uint64_t to, uint8_t byte)
{
    while (from < to && mem.ram[from] == byte)
        from++;
    return from == to;
}

static uint32_t ram32(uint64_t at)
{
    uint32_t value = 0xdeadbeef;
    mk_mem_read(&mem, at, &value, sizeof(value));
    return value;
}

static bool ram_text(uint64_t at, const char *text)
{
    return mk_mem_at(&mem, at, strlen(text) + 1) && !strcmp((char *)mem.ram + at, text);
}

/* --- ELF --- */

static void check_loaded(const char *title)
{
    char name[100];
    snprintf(name, sizeof(name), "%s: code, data and bss are in RAM, nothing else changed", title);
    tap_ok(all(0, MAKE_TEXT_AT, OLD) && mem.ram[MAKE_TEXT_AT] == 0xc0 &&
           mem.ram[MAKE_TEXT_AT + 15] == 0xcf && all(MAKE_TEXT_AT + 16, MAKE_DATA_AT, OLD) &&
           mem.ram[MAKE_DATA_AT] == 0xd0 && mem.ram[MAKE_DATA_AT + 7] == 0xd7 &&
           all(MAKE_DATA_AT + 8, MAKE_DATA_AT + 8 + MAKE_BSS, 0) &&
           all(MAKE_DATA_AT + 8 + MAKE_BSS, RAM, OLD), name);
}

static void test_elf(int class, unsigned bits)
{
    struct mk_plan_want want = wants(bits);
    make_good(&m, class);
    struct mk_image *image = planned(&want);
    if (!tap_ok(image != NULL, "elf: a good file is taken")) {
        printf("# %s\n", err.text);
        return;
    }
    const struct mk_plan *plan = &image->plan;
    tap_is(plan->format, MK_FORMAT_ELF, "elf: it is recognized");
    tap_is(plan->bits, bits, "elf: bits");
    tap_is(plan->count, 2, "elf: segments");
    tap_is((long long)plan->entry, MAKE_TEXT_AT, "elf: entry");
    tap_is(plan->has_regs, 0, "elf: registers are the mode's");
    for (int i = 0; i < 2; i++) {
        fill_ram();
        tap_ok(mk_image_apply(image, &mem), "elf: it goes into RAM");
        check_loaded(i ? "elf, a second time" : "elf");
    }
    struct mk_mem small = { .ram = mem.ram, .size = MAKE_DATA_AT + 8 + MAKE_BSS - 1 };
    fill_ram();
    tap_ok(!mk_image_apply(image, &small) && all(0, RAM, OLD),
           "elf: RAM smaller than planned stays as it was");
    mk_image_free(image);
}

static void test_elf_high(void)
{
    struct mk_plan_want want = wants(32);
    want.paging = true;
    want.high = 0x80000000;
    make_good(&m, ELFCLASS32);
    m.e.e_entry += 0x80000000;
    m.p[0].p_vaddr = m.p[0].p_paddr = MAKE_TEXT_AT + 0x80000000;
    struct mk_image *image = planned(&want);
    tap_ok(image && image->plan.segment[0].at == MAKE_TEXT_AT &&
           image->plan.entry == MAKE_TEXT_AT + 0x80000000,
           "elf: linked high without physical addresses, it goes where the mode maps them");
    mk_image_free(image);
    m.p[0].p_paddr = MAKE_TEXT_AT;
    image = planned(&want);
    tap_ok(image && image->plan.segment[0].at == MAKE_TEXT_AT &&
           image->plan.entry == MAKE_TEXT_AT + 0x80000000,
           "elf: physical addresses are used, the entry stays linear");
    mk_image_free(image);
    want = wants(32);
    image = planned(&want);
    tap_ok(image && image->plan.entry == MAKE_TEXT_AT, "elf: without paging it is physical");
    mk_image_free(image);
    m.e.e_entry = MAKE_TEXT_AT + 3;
    want.paging = true;
    image = planned(&want);
    tap_ok(image && image->plan.entry == MAKE_TEXT_AT + 3,
           "elf: an entry that is a physical address stays one");
    mk_image_free(image);
}

static void test_elf_real(void)
{
    struct mk_plan_want want = wants(16);
    want.has_at = true;
    want.at = 0x40000;
    make_good(&m, ELFCLASS32);
    struct mk_image *image = planned(&want);
    tap_ok(image && image->plan.segment[0].at == 0x40000 + MAKE_TEXT_AT &&
           image->plan.entry == MAKE_TEXT_AT && image->plan.cs == -1 && image->plan.bits == 16 &&
           image->at == 0x40000,
           "elf in real mode: addresses are relative to the window");
    mk_image_free(image);
}

static void test_elf_entry(void)
{
    struct mk_plan_want want = wants(64);
    make_good(&m, ELFCLASS64);
    want.entry_symbol = "main";
    struct mk_image *image = planned(&want);
    tap_ok(image && image->plan.entry == MAKE_TEXT_AT + 8, "entry by symbol: the global one");
    mk_image_free(image);
    want.entry_symbol = "nothing";
    tap_ok(!planned(&want) && err.code == ENOENT && strstr(err.text, "\"nothing\""),
           "entry by symbol: one that is not there is named");
    m.e.e_shoff = m.e.e_shnum = 0;
    tap_ok(!planned(&want) && err.code == ENOENT && strstr(err.text, "no symbol table"),
           "entry by symbol: a stripped file is told apart");
    want.has_entry = true;
    want.entry = UINT64_C(0xffffffff80001234);
    m.e.e_entry = 1;
    image = planned(&want);
    tap_ok(image && image->plan.entry == UINT64_C(0xffffffff80001234),
           "entry given: it is taken as it is, and the file's own does not matter");
    mk_image_free(image);
}

static void test_symbols(int class, unsigned bits)
{
    struct mk_plan_want want = wants(bits);
    struct mk_symbol s;
    unsigned seen = 0;
    make_good(&m, class);
    struct mk_image *image = planned(&want);
    for (uint64_t i = 0; i <= image->plan.symbols.count; i++)
        seen += mk_image_symbol(image, i, &s);
    tap_is(seen, 5, "symbols: what is defined and not a file");
    tap_ok(mk_symbol_find(image, "main", &s) && s.value == MAKE_TEXT_AT + 8 && s.size == 4,
           "symbols: of two the global one is found");
    tap_ok(mk_symbol_find(image, "STACK", &s) && s.absolute && s.value == 0x4000,
           "symbols: an absolute one");
    tap_ok(!mk_symbol_find(image, "missing", &s) && !mk_symbol_find(image, "a.c", &s) &&
           !mk_symbol_find(image, "", &s), "symbols: no undefined, file or nameless ones");
    tap_ok(mk_symbol_at(image, MAKE_TEXT_AT + 3, &s) && !strcmp(s.name, "start"),
           "symbol at: a label holds what follows it");
    tap_ok(mk_symbol_at(image, MAKE_TEXT_AT + 11, &s) && s.value == MAKE_TEXT_AT + 8,
           "symbol at: of two functions the nearer");
    tap_ok(mk_symbol_at(image, MAKE_TEXT_AT + 12, &s) && !strcmp(s.name, "start"),
           "symbol at: not a function that has ended");
    tap_ok(!mk_symbol_at(image, MAKE_DATA_AT + 8, &s) && !mk_symbol_at(image, 0x4000, &s) &&
           !mk_symbol_at(image, 0, &s) && !mk_symbol_at(image, UINT64_MAX, &s),
           "symbol at: nothing where nothing is");
    mk_image_free(image);
}

/* --- bad ELF files --- */

static void refused(unsigned bits, const char *words, const char *name)
{
    struct mk_plan_want want = wants(bits);
    want.format = MK_FORMAT_ELF;
    struct mk_image *image = planned(&want);
    if (!tap_ok(!image && strstr(err.text, words), name))
        printf("# wanted \"%s\"\n# got    \"%s\"\n", words, image ? "(accepted)" : err.text);
    mk_image_free(image);
}

/* Makes a good file of the class, does the statement to it, and wants these words. */
#define BAD(class, words, statement) do { \
        make_good(&m, ELFCLASS##class); \
        statement; \
        refused(class, words, "bad ELF" #class ": " #statement); \
    } while (0)
#define BAD_BOTH(words, statement) do { \
        BAD(32, words, statement); \
        BAD(64, words, statement); \
    } while (0)

static void test_bad_headers(void)
{
    BAD_BOTH("wrong magic bytes", m.e.e_ident[0] = 0x7e);
    BAD_BOTH("wrong magic bytes", m.size = 3);
    BAD_BOTH("ends within the ELF header", m.size = 4);
    BAD_BOTH("ends within the ELF header", m.size = 15);
    BAD_BOTH("ends within the ELF header", m.size = 16);
    BAD(32, "ends within the ELF header", m.size = sizeof(Elf32_Ehdr) - 1);
    BAD(64, "ends within the ELF header", m.size = sizeof(Elf64_Ehdr) - 1);
    BAD_BOTH("Class 0x0", m.e.e_ident[EI_CLASS] = 0);
    BAD_BOTH("Class 0x3", m.e.e_ident[EI_CLASS] = 3);
    BAD_BOTH("Data 0x2", m.e.e_ident[EI_DATA] = ELFDATA2MSB);
    BAD_BOTH("Data 0x0", m.e.e_ident[EI_DATA] = 0);
    BAD_BOTH("Version 0", m.e.e_ident[EI_VERSION] = 0);
    BAD_BOTH("Version 0x2", m.e.e_version = 2);
    BAD_BOTH("not NONE", m.e.e_type = ET_NONE);
    BAD_BOTH("REL (Relocatable file)", m.e.e_type = ET_REL);
    BAD_BOTH("-no-pie", m.e.e_type = ET_DYN);
    BAD_BOTH("CORE", m.e.e_type = ET_CORE);
    BAD_BOTH("not 0xffff", m.e.e_type = 0xffff);
    BAD_BOTH("Machine 40", m.e.e_machine = EM_ARM);
    BAD(32, "Class ELF32 with Machine Advanced", m.e.e_machine = EM_X86_64);
    BAD(64, "Class ELF64 with Machine Intel 80386", m.e.e_machine = EM_386);
    BAD_BOTH("Size of this header: 0", m.e.e_ehsize = 0);
    BAD_BOTH("Size of this header: 65535", m.e.e_ehsize = 0xffff);
    BAD_BOTH("Entry point address 0x0", m.e.e_entry = 0);
    BAD_BOTH("Entry point address 0x2010", m.e.e_entry = MAKE_TEXT_AT + 16);
    BAD(64, "Entry point address 0xffff", m.e.e_entry = UINT64_MAX);
    make_good(&m, ELFCLASS32);
    refused(64, "does not run in long mode", "bad: an 80386 program in long mode");
    make_good(&m, ELFCLASS64);
    refused(32, "mode=\"long\" only", "bad: an x86-64 program in protected mode");
    refused(16, "mode=\"long\" only", "bad: an x86-64 program in real mode");
}

static void test_bad_program_headers(void)
{
    BAD_BOTH("There are no program headers", m.e.e_phnum = 0);
    BAD_BOTH("extended numbering", m.e.e_phnum = PN_XNUM);
    BAD_BOTH("65534 of them do not fit", m.e.e_phnum = PN_XNUM - 1);
    BAD_BOTH("Size of program headers: 0", m.e.e_phentsize = 0);
    BAD_BOTH("Size of program headers: 31", m.e.e_phentsize = 31);
    BAD_BOTH("Start of program headers: 0x1000", m.e.e_phoff = MAKE_SIZE);
    BAD_BOTH("Start of program headers: 0xfc0", m.e.e_phoff = MAKE_SIZE - 64);
    BAD_BOTH("Start of program headers: 0xffffffff", m.e.e_phoff = UINT32_MAX);
    BAD(64, "Start of program headers: 0xffffffffffffffff", m.e.e_phoff = UINT64_MAX);
    BAD(64, "Start of program headers: 0xffffffffffffffc0", m.e.e_phoff = -UINT64_C(64));
    BAD_BOTH("nothing to load", m.p[0].p_type = m.p[2].p_type = PT_NOTE);
    BAD_BOTH("nothing to load", m.p[0].p_filesz = m.p[0].p_memsz = 0; m.p[2].p_type = PT_NULL);
    BAD_BOTH("dynamically linked", m.p[1].p_type = PT_INTERP);
}

static void test_bad_segments(void)
{
    BAD_BOTH("FileSiz 0x11 is larger than MemSiz 0x10", m.p[0].p_filesz = 17);
    BAD_BOTH("FileSiz 0x10 is larger than MemSiz 0x0", m.p[0].p_memsz = 0);
    BAD_BOTH("lies beyond the file's", m.p[0].p_offset = MAKE_SIZE - 15);
    BAD_BOTH("lies beyond the file's", m.p[0].p_offset = UINT32_MAX);
    BAD_BOTH("lies beyond the file's", m.p[0].p_filesz = m.p[0].p_memsz = UINT32_MAX);
    BAD(64, "lies beyond the file's", m.p[0].p_offset = UINT64_MAX);
    BAD(64, "lies beyond the file's", m.p[0].p_filesz = m.p[0].p_memsz = UINT64_MAX);
    BAD(64, "lies beyond the file's", m.p[0].p_offset = UINT64_MAX - 15);
    BAD(32, "VirtAddr 0xfffffff1 + MemSiz 0x10 wraps", m.p[0].p_vaddr = UINT32_MAX - 14);
    BAD(64, "VirtAddr 0xfffffffffffffff1 + MemSiz 0x10 wraps", m.p[0].p_vaddr = UINT64_MAX - 14);
    BAD(32, "PhysAddr 0xfffffff1 + MemSiz 0x10 wraps", m.p[0].p_paddr = UINT32_MAX - 14);
    BAD(64, "PhysAddr 0xfffffffffffffff1 + MemSiz 0x10 wraps", m.p[0].p_paddr = UINT64_MAX - 14);
    BAD_BOTH("wraps", m.p[2].p_memsz = UINT32_MAX; m.p[2].p_vaddr = -UINT64_C(8));
    BAD_BOTH("Align 0x3", m.p[0].p_align = 3);
    BAD_BOTH("do not fit at 0x3ffff1: there is room for 15", m.p[0].p_paddr = RAM - 15);
    BAD_BOTH("do not fit at 0x400000: there is room for 0", m.p[0].p_paddr = RAM);
    BAD(32, "do not fit at 0xfffffff0", m.p[0].p_paddr = UINT32_MAX - 15);
    BAD(64, "do not fit at 0xfffffffffffffff0", m.p[0].p_paddr = UINT64_MAX - 15);
    BAD_BOTH("do not fit at 0x3000", m.p[2].p_memsz = RAM);
    BAD(64, "bytes do not fit at 0x3000", m.p[2].p_memsz = UINT64_MAX - MAKE_DATA_AT);
    BAD_BOTH("segments 0 and 1 overlap in memory at 0x300f", m.p[0].p_paddr = MAKE_DATA_AT + 15);
    BAD_BOTH("segments 0 and 1 overlap in memory at 0x3000", m.p[0].p_paddr = MAKE_DATA_AT - 15);
    BAD_BOTH("segments 0 and 1 overlap", m.p[0].p_paddr = MAKE_DATA_AT + 8 + MAKE_BSS - 1);
}

static void test_bad_symbols(void)
{
    BAD_BOTH("Size of section headers: 1", m.e.e_shentsize = 1);
    BAD_BOTH("is it cut short?", m.e.e_shoff = MAKE_SIZE - 1);
    BAD_BOTH("is it cut short?", m.e.e_shoff = UINT32_MAX);
    BAD(64, "is it cut short?", m.e.e_shoff = UINT64_MAX);
    BAD_BOTH("is it cut short?", m.e.e_shnum = 0xffff);
    BAD_BOTH("is it cut short?", m.size = MAKE_SHDRS + 70);
    BAD_BOTH("SYMTAB: EntSize 0x0", m.s[1].sh_entsize = 0);
    BAD_BOTH("SYMTAB: Offset 0x1000", m.s[1].sh_offset = MAKE_SIZE);
    BAD_BOTH("half an entry", m.s[1].sh_size++);
    BAD_BOTH("SYMTAB: Offset", m.s[1].sh_size = m.s[1].sh_entsize * 1000);
    BAD(64, "SYMTAB: Offset", m.s[1].sh_size = UINT64_MAX / 24 * 24);
    BAD_BOTH("Link 3: there are 3 sections", m.s[1].sh_link = 3);
    BAD_BOTH("Link 4294967295", m.s[1].sh_link = UINT32_MAX);
    BAD_BOTH("Type is not STRTAB", m.s[1].sh_link = 0);
    BAD_BOTH("Type is not STRTAB", m.s[1].sh_link = 1);
    BAD_BOTH("STRTAB: Offset 0xffffffff", m.s[2].sh_offset = UINT32_MAX);
    BAD_BOTH("STRTAB: Offset", m.s[2].sh_size = UINT32_MAX);
    BAD(64, "STRTAB: Offset", m.s[2].sh_size = UINT64_MAX);
    BAD_BOTH("does not end with a null byte", m.s[2].sh_size = 0);
    BAD_BOTH("does not end with a null byte", m.names[sizeof(m.names) - 1] = 'x');
}

/* Each names nothing, and is no reason to refuse the program. */
static void test_odd_symbols(void)
{
    struct mk_plan_want want = wants(64);
    struct mk_symbol s;
    make_good(&m, ELFCLASS64);
    m.sym[2].st_name = UINT32_MAX;
    m.sym[3].st_name = sizeof(m.names);
    m.sym[4].st_name = 0;
    m.sym[5].st_value = UINT64_MAX - 1;
    m.sym[5].st_size = UINT64_MAX;
    struct mk_image *image = planned(&want);
    tap_ok(image && !mk_symbol_find(image, "main", &s) && !mk_symbol_find(image, "start", &s) &&
           mk_symbol_find(image, "table", &s) && !mk_symbol_at(image, MAKE_DATA_AT, &s),
           "odd symbols: names outside the string table are passed over");
    mk_image_free(image);
}

static void test_many_segments(void)
{
    static uint8_t file[sizeof(Elf64_Ehdr) + (MK_SEGMENTS_MAX + 1) * sizeof(Elf64_Phdr)];
    struct mk_plan_want want = wants(64);
    make_good(&m, ELFCLASS64);
    m.e.e_phoff = sizeof(m.e);
    m.e.e_shnum = 0;
    for (unsigned i = 0; i <= MK_SEGMENTS_MAX; i++) {
        Elf64_Phdr p = { .p_type = PT_LOAD, .p_paddr = 0x2000 + i, .p_vaddr = 0x2000 + i,
                         .p_filesz = 1, .p_memsz = 1 };
        memcpy(file + sizeof(m.e) + i * sizeof(p), &p, sizeof(p));
    }
    for (unsigned n = MK_SEGMENTS_MAX; n <= MK_SEGMENTS_MAX + 1; n++) {
        m.e.e_phnum = (Elf64_Half)n;
        memcpy(file, &m.e, sizeof(m.e));
        struct mk_image *image = mk_image_copy("many", file, sizeof(file), &err);
        int rc = mk_image_plan(image, &want, &err);
        if (n == MK_SEGMENTS_MAX)
            tap_ok(rc == 0 && image->plan.count == n, "as many segments as there may be");
        else
            tap_ok(rc < 0 && err.code == E2BIG && image->plan.count == 0, "one segment too many");
        mk_image_free(image);
    }
}

static void test_kept(void)
{
    static const struct mk_keep keep[] = { { 0, 0x1000, "the low tables" },
                                           { 0x100000, 0x1000, "the page directory" },
                                           { 0, 0, "nothing" } };
    struct mk_plan_want want = wants(64);
    want.keep = keep;
    want.keeps = MK_COUNT(keep);
    make_good(&m, ELFCLASS64);
    struct mk_image *image = planned(&want);
    tap_ok(image != NULL, "kept ranges: a program between them is taken");
    mk_image_free(image);
    m.p[0].p_paddr = 0xfff;
    tap_ok(!planned(&want) && strstr(err.text, "at = 0xfff: the low tables lie below 0x1000"),
           "kept ranges: not in the first one");
    m.p[0].p_paddr = 0x100fff;
    tap_ok(!planned(&want) && strstr(err.text, "room for 0 before the page directory"),
           "kept ranges: not in the second one");
    m.p[0].p_paddr = 0x100000 - 15;
    tap_ok(!planned(&want) && err.code == EFBIG && strstr(err.text, "room for 15 before the "
           "page directory"), "kept ranges: not into the second one");
    m.p[0].p_paddr = 0x101000;
    image = planned(&want);
    tap_ok(image != NULL, "kept ranges: right behind one is free");
    mk_image_free(image);
}

/* --- flat, boot sector, recognition --- */

static enum mk_format detect(const uint8_t *bytes, size_t size, unsigned bits, bool paging)
{
    struct mk_image *image = mk_image_copy("image", bytes, size, &err);
    enum mk_format format = mk_image_detect(image, bits, paging);
    mk_image_free(image);
    return format;
}

static void test_detect(void)
{
    make_good(&m, ELFCLASS64);
    make_elf(&m);
    tap_is(detect(m.bytes, m.size, 64, true), MK_FORMAT_ELF, "detect: ELF");
    tap_is(detect(m.bytes, 4, 16, false), MK_FORMAT_ELF, "detect: the magic number is enough");
    tap_is(detect(m.bytes, 3, 16, false), MK_FORMAT_FLAT, "detect: half of it is not");
    tap_is(detect(m.bytes, 1, 64, true), MK_FORMAT_FLAT, "detect: one byte");
    make_multiboot(&m, false);
    make_elf(&m);
    tap_is(detect(m.bytes, m.size, 32, false), MK_FORMAT_MULTIBOOT, "detect: Multiboot in ELF");
    tap_is(detect(m.bytes, m.size, 32, true), MK_FORMAT_ELF, "detect: ... with paging it is ELF");
    m.bytes[0] = 0;
    tap_is(detect(m.bytes, m.size, 32, false), MK_FORMAT_FLAT,
           "detect: no address fields and no ELF, so flat");
    make_multiboot(&m, true);
    make_elf(&m);
    m.bytes[0] = 0;
    tap_is(detect(m.bytes, m.size, 32, false), MK_FORMAT_MULTIBOOT, "detect: address fields");
    tap_is(detect(m.bytes, MAKE_HEADER + 31, 32, false), MK_FORMAT_FLAT, "detect: ... cut short");
    m.bytes[MAKE_HEADER + 8]++;
    tap_is(detect(m.bytes, m.size, 32, false), MK_FORMAT_FLAT, "detect: a wrong checksum");
    uint8_t sector[1024] = { [510] = 0x55, [511] = 0xaa };
    tap_is(detect(sector, 512, 16, false), MK_FORMAT_BOOT, "detect: a boot sector");
    tap_is(detect(sector, 512, 32, false), MK_FORMAT_FLAT, "detect: ... not in protected mode");
    tap_is(detect(sector, 1024, 16, false), MK_FORMAT_FLAT, "detect: ... not of a larger image");
    sector[511] = 0xab;
    tap_is(detect(sector, 512, 16, false), MK_FORMAT_FLAT, "detect: ... not without signature");
}

static void test_flat(void)
{
    struct mk_plan_want want = wants(32);
    want.paging = true;
    want.has_at = true;
    want.at = 0x1000;
    want.has_entry = true;
    want.entry = 0x80001000;
    struct mk_image *image = mk_image_copy("flat", "abc", 3, &err);
    tap_ok(mk_image_plan(image, &want, &err) == 0 && image->plan.segment[0].at == 0x1000 &&
           image->plan.entry == 0x80001000 && image->plan.bits == 0,
           "flat: place and entry as wanted");
    fill_ram();
    tap_ok(mk_image_apply(image, &mem) && all(0, 0x1000, OLD) && all(0x1003, RAM, OLD) &&
           !memcmp(mem.ram + 0x1000, "abc", 3), "flat: it is where it was wanted");
    for (uint64_t at = 0; at < 4; at++) {
        static const uint64_t bad[] = { RAM - 2, RAM, UINT64_MAX, UINT64_MAX - 2 };
        want.at = bad[at];
        tap_ok(mk_image_plan(image, &want, &err) < 0 && err.code == EFBIG &&
               image->plan.count == 0, "flat: not outside RAM");
    }
    mk_image_free(image);
}

static void test_boot(void)
{
    struct mk_plan_want want = wants(16);
    uint8_t disk[1024] = { [0] = 0xf4, [510] = 0x55, [511] = 0xaa, [512] = 0x11 };
    want.format = MK_FORMAT_BOOT;
    struct mk_image *image = mk_image_copy("disk", disk, sizeof(disk), &err);
    tap_ok(mk_image_plan(image, &want, &err) == 0 && image->plan.cs == 0 &&
           image->plan.entry == 0x7c00 && image->plan.has_regs && image->plan.edx == 0x80,
           "boot: CS:IP = 0:0x7c00, DL = 0x80");
    fill_ram();
    tap_ok(mk_image_apply(image, &mem) && all(0, 0x7c00, OLD) && mem.ram[0x7c00] == 0xf4 &&
           mem.ram[0x7dff] == 0xaa && all(0x7e00, RAM, OLD), "boot: the first sector and no more");
    want.bits = 32;
    tap_ok(mk_image_plan(image, &want, &err) < 0 && strstr(err.text, "real mode"),
           "boot: in real mode only");
    want.bits = 16;
    want.limit = 0x7dff;
    tap_ok(mk_image_plan(image, &want, &err) < 0 && err.code == EFBIG, "boot: RAM too small");
    mk_image_free(image);
    want.limit = RAM;
    for (size_t size = 510; size <= 512; size++) {
        disk[510] = size == 512 ? 0 : 0x55;
        image = mk_image_copy("disk", disk, size, &err);
        tap_ok(mk_image_plan(image, &want, &err) < 0 && strstr(err.text, "signature"),
               "boot: no signature");
        mk_image_free(image);
    }
}

/* --- Multiboot --- */

static void check_info(const struct mk_image *image, const char *line)
{
    uint64_t info = image->plan.ebx;
    tap_is(image->plan.eax, 0x2badb002, "multiboot: EAX");
    tap_is(ram32(info), 0x24d, "multiboot: memory, command line, modules, map and name are there");
    tap_is(ram32(info + 4), 640, "multiboot: mem_lower");
    tap_is(ram32(info + 8), RAM / 1024 - 1024, "multiboot: mem_upper");
    tap_ok(ram_text(ram32(info + 16), line), "multiboot: command line");
    tap_ok(ram_text(ram32(info + 64), "minikvm"), "multiboot: loader's name");
}

static void check_map(uint64_t info)
{
    static const uint32_t want[3][6] = { { 20, 0, 0, 0xa0000, 0, 1 },
                                         { 20, 0xa0000, 0, 0x60000, 0, 2 },
                                         { 20, 0x100000, 0, RAM - 0x100000, 0, 1 } };
    uint32_t have[3][6];
    mk_mem_read(&mem, ram32(info + 48), have, sizeof(have));
    tap_ok(ram32(info + 44) == sizeof(want) && !memcmp(have, want, sizeof(want)),
           "multiboot: memory map");
}

static void test_multiboot(bool addresses)
{
    struct mk_plan_want want = wants(32);
    want.command_line = "verbose root=1";
    make_multiboot(&m, addresses);
    struct mk_image *image = made();
    for (int i = 0; i < 2; i++)
        mk_image_add_module(image, mk_image_copy("mod", "module", 6, &err), i ? "b arg" : NULL,
                            &err);
    fill_ram();
    if (!tap_ok(mk_image_plan(image, &want, &err) == 0 && mk_image_apply(image, &mem),
                "multiboot: a good kernel is taken"))
        printf("# %s\n", err.text);
    tap_is((long long)image->plan.entry, addresses ? 0x10000 + MAKE_CODE : MAKE_TEXT_AT,
           "multiboot: entry");
    check_info(image, want.command_line);
    uint64_t info = image->plan.ebx, mods = ram32(info + 24);
    check_map(info);
    tap_is(ram32(info + 20), 2, "multiboot: number of modules");
    tap_is(ram32(mods), 0x100000, "multiboot: the first module is above the first MiB");
    tap_is(ram32(mods + 16), 0x101000, "multiboot: the next one on the next page");
    tap_is(ram32(mods + 20), 0x101006, "multiboot: and its end");
    tap_ok(!memcmp(mem.ram + 0x101000, "module", 6), "multiboot: its bytes");
    tap_ok(ram_text(ram32(mods + 8), "mod") && ram_text(ram32(mods + 24), "b arg"),
           "multiboot: strings of modules");
    if (addresses)
        tap_ok(!memcmp(mem.ram + 0x10000, m.bytes, MAKE_SIZE) &&
               all(0x10000 + MAKE_SIZE, 0x10000 + MAKE_SIZE + MAKE_BSS, 0) &&
               all(0x10000 + MAKE_SIZE + MAKE_BSS, 0x100000, OLD), "multiboot: image and bss");
    mk_image_free(image);
}

static void test_multiboot_places(void)
{
    static const struct mk_keep keep[] = { { 0, 0x2800, "low" }, { 0x100800, 0x1000, "high" } };
    struct mk_plan_want want = wants(32);
    want.keep = keep;
    want.keeps = MK_COUNT(keep);
    make_multiboot(&m, true);
    struct mk_image *image = made();
    mk_image_add_module(image, mk_image_copy("mod", m.bytes, MAKE_SIZE, &err), "", &err);
    tap_ok(mk_image_plan(image, &want, &err) == 0 && image->plan.info_at == 0x3000 &&
           image->modules->at == 0x102000, "multiboot: kept ranges are stepped over");
    want.info_at = 0x10123;
    tap_ok(mk_image_plan(image, &want, &err) == 0 && image->plan.info_at == 0x13000,
           "multiboot: the information goes to a place given, or behind what is there");
    want.limit = 0x102fff;
    tap_ok(mk_image_plan(image, &want, &err) < 0 && err.code == EFBIG &&
           strstr(err.text, "no room in memory for mod of 4096 bytes"),
           "multiboot: a module without room is named");
    mk_image_free(image);
    want.info_at = 0;
    want.limit = 0x13000;
    image = planned(&want);
    tap_ok(image && mk_image_apply(image, &mem) && ram32(image->plan.info_at + 8) == 0 &&
           ram32(image->plan.info_at + 4) == 0x13000 / 1024 &&
           ram32(image->plan.info_at + 44) == 24, "multiboot: less than 640 KiB are told as such");
    mk_image_free(image);
}

/* Does the statement to a good kernel with address fields, and wants these words. */
#define BAD_KERNEL(words, statement) do { \
        struct mk_plan_want want = wants(32); \
        want.format = MK_FORMAT_MULTIBOOT; \
        make_multiboot(&m, true); \
        statement; \
        struct mk_image *image = planned(&want); \
        if (!tap_ok(!image && strstr(err.text, words), "bad Multiboot: " #statement)) \
            printf("# wanted \"%s\"\n# got    \"%s\"\n", words, image ? "(accepted)" : err.text); \
        mk_image_free(image); \
    } while (0)

static void test_bad_multiboot(void)
{
    BAD_KERNEL("no Multiboot header", m.multiboot[0] = 0x1badb003);
    BAD_KERNEL("no Multiboot header", m.multiboot[0] = 0x2badb002);
    BAD_KERNEL("no Multiboot header", m.size = MAKE_HEADER + 31);
    BAD_KERNEL("no Multiboot header", m.size = MAKE_HEADER + 11);
    BAD_KERNEL("video mode", m.multiboot[1] |= 4);
    BAD_KERNEL("something unknown (bits 0x8000)", m.multiboot[1] |= 0x8000);
    BAD_KERNEL("Entry point address", m.multiboot[1] = 3; m.e.e_entry = 0);
    BAD_KERNEL("not an ELF file", m.multiboot[1] = 3; m.e.e_ident[0] = 0);
    BAD_KERNEL("load_addr 0x10801 is above header_addr", m.multiboot[4] = 0x10801);
    BAD_KERNEL("before the start of the file", m.multiboot[4] = 0xffff);
    BAD_KERNEL("before the start of the file", m.multiboot[4] = 0);
    BAD_KERNEL("load_end_addr 0xffff is below", m.multiboot[5] = 0xffff);
    BAD_KERNEL("beyond the end of the file (0x11000)", m.multiboot[5]++);
    BAD_KERNEL("beyond the end of the file", m.multiboot[5] = UINT32_MAX);
    BAD_KERNEL("bss_end_addr 0x10fff is below", m.multiboot[6] = 0x10fff);
    BAD_KERNEL("do not fit", m.multiboot[6] = UINT32_MAX);
    BAD_KERNEL("entry_addr 0xffff is outside", m.multiboot[7] = 0xffff);
    BAD_KERNEL("entry_addr 0x12800 is outside", m.multiboot[7] = 0x12800);
    BAD_KERNEL("entry_addr 0x11000 is outside", m.multiboot[6] = 0; m.multiboot[7] = 0x11000);
    BAD_KERNEL("paging off", want.paging = true);
    BAD_KERNEL("paging off", want.bits = 16);
    BAD_KERNEL("at= is for flat images", want.has_at = true);
    BAD_KERNEL("overlap", m.multiboot[1] = 3; m.p[0].p_paddr = MAKE_DATA_AT);
}

static void test_odd_multiboot(void)
{
    struct mk_plan_want want = wants(32);
    make_multiboot(&m, true);
    m.multiboot[5] = m.multiboot[6] = 0;
    m.s[1].sh_entsize = 1;
    struct mk_image *image = planned(&want);
    tap_ok(image && image->plan.segment[0].file_bytes == MAKE_SIZE &&
           image->plan.segment[0].mem_bytes == MAKE_SIZE && !image->plan.symbols.count,
           "multiboot: no ends given: the whole file, no bss; broken symbols do not matter");
    mk_image_free(image);
}

static void test_modules(void)
{
    char text[MK_MODULE_TEXT_MAX + 2];
    struct mk_plan_want want = wants(32);
    memset(text, 'x', sizeof(text));
    text[MK_MODULE_TEXT_MAX + 1] = 0;
    make_multiboot(&m, true);
    struct mk_image *image = made();
    tap_ok(mk_image_add_module(image, mk_image_copy("m", "m", 1, &err), text, &err) < 0 &&
           err.code == E2BIG && !image->modules, "modules: a string that is too long");
    want.command_line = text;
    tap_ok(mk_image_plan(image, &want, &err) < 0 && err.code == E2BIG,
           "modules: a command line that is too long");
    text[MK_MODULE_TEXT_MAX] = 0;
    unsigned added = 0;
    for (int i = 0; i <= MK_MODULES_MAX; i++)
        added += mk_image_add_module(image, mk_image_copy("m", "m", 1, &err), text, &err) == 0;
    tap_is(added, MK_MODULES_MAX, "modules: as many as there may be");
    tap_ok(mk_image_plan(image, &want, &err) == 0 && mk_image_apply(image, &mem),
           "modules: all of them with the longest strings");
    uint32_t mods = ram32(image->plan.info_at + 24);
    tap_ok(ram_text(ram32(mods + 16 * (MK_MODULES_MAX - 1) + 8), text), "modules: the last one's");
    want.format = MK_FORMAT_ELF;
    tap_ok(mk_image_plan(image, &want, &err) < 0 && strstr(err.text, "for Multiboot"),
           "modules: not for other formats");
    mk_image_free(image);
}

/* --- speed --- */

static void write_large(const char *path, uint64_t bytes)
{
    FILE *file = fopen(path, "wb");
    static uint8_t block[1 << 20];
    make_good(&m, ELFCLASS64);
    m.p[0].p_offset = MAKE_SIZE;
    m.p[0].p_paddr = m.p[0].p_vaddr = m.e.e_entry = 0x200000;
    m.p[0].p_filesz = m.p[0].p_memsz = bytes;
    make_elf(&m);
    fwrite(m.bytes, 1, m.size, file);
    memset(block, 0x90, sizeof(block));
    for (uint64_t done = 0; done < bytes; done += sizeof(block))
        fwrite(block, 1, sizeof(block), file);
    fclose(file);
}

/* This thread's own time, whatever else the machine does. */
static uint64_t cpu_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void one_load(const char *path, uint64_t bytes, bool report)
{
    struct mk_mem large;
    struct mk_plan_want want = { .bits = 64, .paging = true, .limit = bytes + (4u << 20) };
    mk_mem_open(&large, want.limit, &err);
    uint64_t cpu = cpu_now(), t0 = mk_now();
    struct mk_image *image = mk_image_read(path, &err);
    uint64_t t1 = mk_now();
    bool good = image && mk_image_plan(image, &want, &err) == 0 && mk_image_apply(image, &large);
    uint64_t t2 = mk_now();
    cpu = cpu_now() - cpu;
    mk_mem_clear(&large);
    uint64_t t3 = mk_now();
    good = good && mk_image_apply(image, &large);
    uint64_t t4 = mk_now();
    if (report || !good)
        printf("# %s: read %.2f GB/s, plan and apply %.2f GB/s, both %.2f GB/s (%.2f of CPU "
               "time); reset's apply %.2f GB/s\n", good ? "load" : err.text,
               (double)bytes / (double)(t1 - t0),
               (double)bytes / (double)(t2 - t1), (double)bytes / (double)(t2 - t0),
               (double)bytes / (double)cpu, (double)bytes / (double)(t4 - t3));
    mk_image_free(image);
    mk_mem_close(&large);
}

static void measure(uint64_t bytes)
{
    char path[] = "/tmp/test_image.XXXXXX";
    close(mkstemp(path));
    write_large(path, bytes);
    for (int i = 0; i < 4; i++)
        one_load(path, bytes, i > 0);
    unlink(path);
}

int main(int argc, char **argv)
{
    mk_mem_open(&mem, RAM, &err);
    test_elf(ELFCLASS32, 32);
    test_elf(ELFCLASS64, 64);
    test_elf_high();
    test_elf_real();
    test_elf_entry();
    test_symbols(ELFCLASS32, 32);
    test_symbols(ELFCLASS64, 64);
    test_bad_headers();
    test_bad_program_headers();
    test_bad_segments();
    test_bad_symbols();
    test_odd_symbols();
    test_many_segments();
    test_kept();
    test_detect();
    test_flat();
    test_boot();
    test_multiboot(false);
    test_multiboot(true);
    test_multiboot_places();
    test_bad_multiboot();
    test_odd_multiboot();
    test_modules();
    if (argc > 1)
        measure(strtoull(argv[1], NULL, 0) << 20);
    mk_mem_close(&mem);
    return tap_done();
}
