/* image.h - guest images: read whole, understood as a plan, put into guest RAM.
 *
 * An image is read once into memory of its own, where no change of the file reaches it, and is
 * copied from there into RAM once for every load and reset. mk_image_plan() checks every field of
 * the file and says as data what goes where; mk_image_apply() does it. Nothing here knows a VM:
 * what the image must stay clear of and what the VM's mode can run is told by the caller.
 *
 * Formats: flat; a PC's boot sector; ELF32 and ELF64 executables (System V ABI, chapters 4 and 5);
 * Multiboot 1 (Multiboot Specification 0.6.96). One owner at a time; the queries may be shared. */
#ifndef MK_IMAGE_H
#define MK_IMAGE_H

#include "kvm/mem.h"

#define MK_IMAGE_MAX (UINT64_C(1) << 32)
#define MK_HUGE_PAGE (2u << 20)
#define MK_SEGMENTS_MAX 64
#define MK_MODULES_MAX 32
#define MK_MODULE_TEXT_MAX 1024 /* bytes of a Multiboot command line or module string */
#define MK_BOOT_SECTOR 0x7c00u
#define MK_BOOT_DRIVE 0x80u /* in DL: the first hard disk */

enum mk_format {
    MK_FORMAT_AUTO, MK_FORMAT_FLAT, MK_FORMAT_BOOT, MK_FORMAT_ELF, MK_FORMAT_MULTIBOOT, MK_FORMATS
};

/* A piece of the file and where it goes; what mem_bytes has beyond file_bytes is zeroed. */
struct mk_segment {
    uint64_t at;     /* guest-physical */
    uint64_t linear; /* where the program believes it to be (ELF: p_vaddr) */
    uint64_t offset; /* in the file */
    uint64_t file_bytes, mem_bytes;
};

/* Where the file has its symbol table; it is decoded when somebody asks. */
struct mk_symbol_table {
    uint64_t offset, count; /* of entries */
    uint64_t names, names_size;
    bool wide; /* Elf64_Sym */
};

struct mk_plan {
    enum mk_format format; /* MK_FORMAT_AUTO: not planned */
    unsigned bits;         /* of the code at the entry: 16, 32 or 64; flat: 0, as the mode has it */
    unsigned count;
    struct mk_segment segment[MK_SEGMENTS_MAX];
    uint64_t entry; /* instruction pointer; linear in modes with paging, an offset in real mode */
    int cs;         /* real mode: the segment it belongs to; -1: that of the place */
    bool has_regs;  /* the format says what these hold at the entry */
    uint32_t eax, ebx, edx;
    uint64_t info_at, info_size; /* the Multiboot information */
    uint8_t *info;               /* its bytes */
    struct mk_symbol_table symbols;
};

struct mk_image {
    uint8_t *bytes;
    size_t size;
    uint64_t at; /* guest-physical address it was loaded to; of ELF in real mode: the window's */
    struct mk_image *next;
    struct mk_plan plan;
    struct mk_image *modules; /* Multiboot: in order, linked by next; each with its place in `at` */
    char *text;               /* of a module: its string */
    char name[];              /* for messages */
};

/* A range that no part of an image may touch. */
struct mk_keep {
    uint64_t at, size;
    const char *what; /* "the page directory"; of one that begins at 0, in the plural */
};

/* What the caller wants, and what the VM's mode can do. */
struct mk_plan_want {
    enum mk_format format;
    unsigned bits;        /* 16, 32 or 64: the code that the mode starts with */
    bool paging;          /* the mode starts with paging on */
    uint64_t limit;       /* guest-physical: images end at or below it; the RAM that a Multiboot */
                          /* kernel is told of */
    uint64_t high;        /* the linear address where physical 0 is mapped once more; 0: nowhere */
    bool has_at;          /* `at` was asked for: an error in formats that know their own place */
    uint64_t at;          /* flat: where it goes. ELF in real mode: what its addresses are */
                          /* relative to, the start of the vCPU's window */
    bool has_entry;       /* instead of the file's own entry: */
    uint64_t entry;
    const char *entry_symbol; /* or this one's value, without has_entry; NULL: none */
    const char *command_line; /* Multiboot; NULL: none */
    const char *loader_name;  /* Multiboot; NULL: "minikvm" */
    uint64_t info_at;         /* Multiboot: the information goes to the first free page from here */
    const struct mk_keep *keep;
    unsigned keeps;
};

/* Reads a regular file; an empty one is refused. NULL with *err filled in. */
struct mk_image *mk_image_read(const char *path, struct mk_err *err);
/* Copies bytes that are in memory already. */
struct mk_image *mk_image_copy(const char *name, const void *bytes, size_t size,
                               struct mk_err *err);
/* Its modules as well. */
void mk_image_free(struct mk_image *image);
/* Gives a kernel a module with a string (NULL: its name). Takes the module over, on failure too. */
int mk_image_add_module(struct mk_image *image, struct mk_image *module, const char *text,
                        struct mk_err *err);

/* What an image is, for a mode of so many bits, with paging or without:
 *   multiboot  32 bits without paging, a header with the right checksum that can be followed
 *   elf        it begins with ELF's magic number
 *   boot       16 bits, exactly 512 bytes, with the signature
 *   flat       everything else */
enum mk_format mk_image_detect(const struct mk_image *image, unsigned bits, bool paging);
const char *mk_format_name(enum mk_format format);

/* Fills in image->plan. -1 with *err, in readelf's words, and no plan. */
int mk_image_plan(struct mk_image *image, const struct mk_plan_want *want, struct mk_err *err);
/* Puts everything into RAM as planned. False, and RAM untouched, when RAM is too small for it. */
bool mk_image_apply(const struct mk_image *image, struct mk_mem *mem);

/* --- symbols (symbols.c) --- */

struct mk_symbol {
    const char *name; /* lives as long as the image */
    uint64_t value, size;
    uint8_t type, bind; /* STT_*, STB_* of <elf.h> */
    bool absolute;      /* a number, not an address (SHN_ABS) */
};

/* Symbol `index` < image->plan.symbols.count; false for those that name nothing in the program. */
bool mk_image_symbol(const struct mk_image *image, uint64_t index, struct mk_symbol *symbol);
/* By name: a global one rather than a weak one rather than a local one. */
bool mk_symbol_find(const struct mk_image *image, const char *name, struct mk_symbol *symbol);
/* The function or label that a linear address lies in; address - symbol->value is the offset. */
bool mk_symbol_at(const struct mk_image *image, uint64_t address, struct mk_symbol *symbol);

/* --- for image_*.c --- */

/* One per format: fill in segments, entry and registers of an empty plan. */
int mk_elf_plan(const struct mk_image *image, const struct mk_plan_want *want,
                struct mk_plan *plan, struct mk_err *err);
int mk_multiboot_plan(struct mk_image *image, const struct mk_plan_want *want,
                      struct mk_plan *plan, struct mk_err *err);
/* Whether it begins with ELF's magic number; and for a 32-bit one. */
bool mk_elf_is(const struct mk_image *image);
bool mk_elf_is_32(const struct mk_image *image);
/* Finds the symbol table; none is no error. */
int mk_elf_symbols(const struct mk_image *image, struct mk_plan *plan, struct mk_err *err);
/* Whether there is a Multiboot header that mk_multiboot_plan() can follow. */
bool mk_multiboot_is(const struct mk_image *image);

/* The segment that holds a linear address (or, with `physical`, a guest-physical one); or NULL. */
const struct mk_segment *mk_plan_segment(const struct mk_plan *plan, uint64_t address,
                                         bool physical);
/* Checks the segments against the limit, the kept ranges and each other. */
int mk_plan_check(const struct mk_image *image, const struct mk_plan_want *want,
                  const struct mk_plan *plan, struct mk_err *err);

#endif
