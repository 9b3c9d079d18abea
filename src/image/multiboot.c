/* multiboot.c - kernels with a Multiboot header: Multiboot Specification 0.6.96, section 3.1
 * (the header), 3.2 (the machine's state) and 3.3 (the information handed over).
 *
 * Provided: memory sizes, memory map, command line, modules on page boundaries, the loader's name.
 * Not provided: video modes, boot device, drives, APM, the kernel's own section headers. */
#include "image/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAGIC 0x1badb002u /* 3.1.2 */
#define LOADER_MAGIC 0x2badb002u /* 3.2, in EAX */
#define SEARCH 8192u             /* 3.1: the header is inside these first bytes */
#define HEADER_SIZE 12u
#define ADDRESSES_SIZE 32u /* of a header with address fields */

#define WANTS_PAGE_ALIGN 0x00000001u /* modules: always done */
#define WANTS_MEMORY 0x00000002u     /* always told */
#define WANTS_VIDEO 0x00000004u
#define WANTS_UNKNOWN 0x0000fff8u /* 3.1.2: a loader that does not know a bit of 0-15 must fail */
#define HAS_ADDRESSES 0x00010000u

#define INFO_SIZE 116u /* 3.3: up to and including the frame buffer's fields */
#define INFO_MEMORY 0x001u
#define INFO_COMMAND_LINE 0x004u
#define INFO_MODULES 0x008u
#define INFO_MAP 0x040u
#define INFO_LOADER 0x200u
#define MODULE_SIZE 16u
#define MAP_ENTRY_SIZE 24u
#define MAP_ENTRIES 3u

#define KIB 1024u
#define LOW_END 0xa0000u
#define HIGH_START 0x100000u
#define INFO_LOWEST 0x1000u

typedef unsigned long long ull;

struct header {
    uint32_t offset; /* in the file */
    uint32_t flags, header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

static uint32_t get32(const struct mk_image *image, uint64_t offset)
{
    uint32_t value;
    memcpy(&value, image->bytes + offset, sizeof(value));
    return value;
}

/* --- the header (3.1) --- */

static void read_addresses(const struct mk_image *image, struct header *h)
{
    h->header_addr = get32(image, h->offset + 12);
    h->load_addr = get32(image, h->offset + 16);
    h->load_end_addr = get32(image, h->offset + 20);
    h->bss_end_addr = get32(image, h->offset + 24);
    h->entry_addr = get32(image, h->offset + 28);
}

static bool find_header(const struct mk_image *image, struct header *h)
{
    size_t end = image->size < SEARCH ? image->size : SEARCH;
    for (uint32_t at = 0; at + HEADER_SIZE <= end; at += 4) {
        uint32_t flags = get32(image, at + 4);
        if (get32(image, at) != HEADER_MAGIC ||
            HEADER_MAGIC + flags + get32(image, at + 8) != 0)
            continue;
        *h = (struct header){ .offset = at, .flags = flags };
        if (!(flags & HAS_ADDRESSES))
            return true;
        if (at + ADDRESSES_SIZE <= end) {
            read_addresses(image, h);
            return true;
        }
    }
    return false;
}

/* Without address fields the kernel must be ELF, and the protected mode of 3.2 wants 32 bits. */
bool mk_multiboot_is(const struct mk_image *image)
{
    struct header h;
    return find_header(image, &h) && (h.flags & HAS_ADDRESSES || mk_elf_is_32(image));
}

static int check_header(const struct mk_image *image, const struct header *h,
                        const struct mk_plan_want *want, struct mk_err *err)
{
    if (want->bits != 32 || want->paging)
        return mk_fail(err, EINVAL, "%s: a Multiboot kernel starts in 32-bit mode with paging off: "
                       "mode=\"protected\"", image->name);
    if (h->flags & WANTS_VIDEO)
        return mk_fail(err, ENOTSUP, "%s: Multiboot header: flags 0x%x ask for a video mode (bit "
                       "2): there is none", image->name, h->flags);
    if (h->flags & WANTS_UNKNOWN)
        return mk_fail(err, ENOTSUP, "%s: Multiboot header: flags 0x%x ask for something unknown "
                       "(bits 0x%x)", image->name, h->flags, h->flags & WANTS_UNKNOWN);
    return 0;
}

/* --- the kernel's addresses (3.1.3) --- */

static int check_addresses(const struct mk_image *image, const struct header *h,
                           struct mk_err *err)
{
    if (h->load_addr > h->header_addr)
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: load_addr 0x%x is above header_addr "
                       "0x%x", image->name, h->load_addr, h->header_addr);
    if (h->header_addr - h->load_addr > h->offset)
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: load_addr 0x%x is before the start of "
                       "the file: the header is only 0x%x bytes into it", image->name,
                       h->load_addr, h->offset);
    if (h->load_end_addr && h->load_end_addr < h->load_addr)
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: load_end_addr 0x%x is below load_addr "
                       "0x%x", image->name, h->load_end_addr, h->load_addr);
    return 0;
}

static int place_by_addresses(const struct mk_image *image, const struct header *h,
                              struct mk_plan *plan, struct mk_err *err)
{
    if (check_addresses(image, h, err) < 0)
        return -1;
    uint64_t offset = h->offset - (h->header_addr - h->load_addr);
    uint64_t bytes = h->load_end_addr ? h->load_end_addr - h->load_addr : image->size - offset;
    uint64_t end = h->load_addr + bytes;
    if (!mk_inside(offset, bytes, image->size))
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: load_end_addr 0x%x is beyond the end "
                       "of the file (0x%llx)", image->name, h->load_end_addr,
                       (ull)(h->load_addr + (image->size - offset)));
    if (h->bss_end_addr && h->bss_end_addr < end)
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: bss_end_addr 0x%x is below the end of "
                       "what is loaded, 0x%llx", image->name, h->bss_end_addr, (ull)end);
    if (h->bss_end_addr)
        end = h->bss_end_addr;
    if (h->entry_addr < h->load_addr || h->entry_addr >= end)
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: entry_addr 0x%x is outside 0x%x to "
                       "0x%llx, which is loaded", image->name, h->entry_addr, h->load_addr,
                       (ull)end);
    plan->count = 1;
    plan->segment[0] = (struct mk_segment){ .at = h->load_addr, .linear = h->load_addr,
                                            .offset = offset, .file_bytes = bytes,
                                            .mem_bytes = end - h->load_addr };
    plan->entry = h->entry_addr;
    return 0;
}

static int place_kernel(const struct mk_image *image, const struct header *h,
                        const struct mk_plan_want *want, struct mk_plan *plan, struct mk_err *err)
{
    if (!(h->flags & HAS_ADDRESSES)) {
        if (mk_elf_is(image))
            return mk_elf_plan(image, want, plan, err);
        return mk_fail(err, ENOEXEC, "%s: Multiboot header: flags 0x%x: no address fields (bit "
                       "16), and it is not an ELF file", image->name, h->flags);
    }
    if (place_by_addresses(image, h, plan, err) < 0)
        return -1;
    if (mk_elf_is(image)) /* what the header says goes; names are welcome, but not needed */
        mk_elf_symbols(image, plan, NULL);
    return 0;
}

/* --- modules and the information: whole pages that nothing else needs --- */

static uint64_t page_up(uint64_t at)
{
    return (at + MK_PAGE - 1) & ~(uint64_t)(MK_PAGE - 1);
}

/* Moves `at` behind whatever of [from, from + size) it collides with; true when it did. */
static bool step_over(uint64_t *at, uint64_t bytes, uint64_t from, uint64_t size)
{
    if (!size || *at >= from + size || from >= *at + bytes)
        return false;
    *at = page_up(from + size);
    return true;
}

static bool collides(const struct mk_image *image, const struct mk_plan_want *want,
                     const struct mk_plan *plan, uint64_t *at, uint64_t bytes)
{
    for (unsigned i = 0; i < plan->count; i++)
        if (step_over(at, bytes, plan->segment[i].at, plan->segment[i].mem_bytes))
            return true;
    for (unsigned i = 0; i < want->keeps; i++)
        if (step_over(at, bytes, want->keep[i].at, want->keep[i].size))
            return true;
    for (const struct mk_image *m = image->modules; m; m = m->next)
        if (m->at && step_over(at, bytes, m->at, m->size))
            return true;
    return false;
}

/* The first free place at or above `from`, page-aligned. */
static int find_place(const struct mk_image *image, const struct mk_plan_want *want,
                      const struct mk_plan *plan, const char *what, uint64_t bytes,
                      uint64_t from, uint64_t *at, struct mk_err *err)
{
    uint64_t limit = want->limit < UINT32_MAX ? want->limit : UINT32_MAX;
    *at = page_up(from);
    while (mk_inside(*at, bytes, limit))
        if (!collides(image, want, plan, at, bytes))
            return 0;
    return mk_fail(err, EFBIG, "%s: no room in memory for %s of %llu bytes", image->name, what,
                   (ull)bytes);
}

static int place_modules(struct mk_image *image, const struct mk_plan_want *want,
                         const struct mk_plan *plan, struct mk_err *err)
{
    uint64_t from = HIGH_START;
    for (unsigned i = 0; i < plan->count; i++)
        if (plan->segment[i].at + plan->segment[i].mem_bytes > from)
            from = plan->segment[i].at + plan->segment[i].mem_bytes;
    for (struct mk_image *m = image->modules; m; m = m->next)
        m->at = 0;
    for (struct mk_image *m = image->modules; m; m = m->next) {
        uint64_t at;
        if (find_place(image, want, plan, m->name, m->size, from, &at, err) < 0)
            return -1;
        m->at = at;
        from = at + m->size;
    }
    return 0;
}

/* --- the information (3.3), laid out as: structure, modules, memory map, strings --- */

struct info {
    uint8_t *bytes;
    uint32_t at; /* guest-physical */
    uint32_t modules, modules_count, map, text;
};

static void put32(struct info *info, uint32_t offset, uint64_t value)
{
    uint32_t narrow = (uint32_t)value;
    memcpy(info->bytes + offset, &narrow, sizeof(narrow));
}

static void put64(struct info *info, uint32_t offset, uint64_t value)
{
    memcpy(info->bytes + offset, &value, sizeof(value));
}

/* Appends a string and returns its guest-physical address. */
static uint32_t put_text(struct info *info, const char *text)
{
    uint32_t at = info->text;
    strcpy((char *)info->bytes + at, text);
    info->text += (uint32_t)strlen(text) + 1;
    return info->at + at;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void put_map_entry(struct info *info, unsigned i, uint64_t from, uint64_t to, uint32_t type)
{
    uint32_t entry = info->map + i * MAP_ENTRY_SIZE;
    put32(info, entry, MAP_ENTRY_SIZE - 4); /* the size does not count itself */
    put64(info, entry + 4, from);
    put64(info, entry + 12, to - from);
    put32(info, entry + 20, type);
}

/* As on a PC: 1 for RAM, 2 for what a kernel had better leave alone. */
static void put_memory(struct info *info, uint64_t ram)
{
    unsigned entries = ram <= LOW_END ? 1 : ram <= HIGH_START ? 2 : MAP_ENTRIES;
    uint64_t above = ram > HIGH_START ? ram - HIGH_START : 0;
    put32(info, 4, least(ram, LOW_END) / KIB);
    put32(info, 8, least(above / KIB, UINT32_MAX));
    put_map_entry(info, 0, 0, least(ram, LOW_END), 1);
    if (entries > 1)
        put_map_entry(info, 1, LOW_END, least(ram, HIGH_START), 2);
    if (entries > 2)
        put_map_entry(info, 2, HIGH_START, ram, 1);
    put32(info, 44, entries * MAP_ENTRY_SIZE);
    put32(info, 48, info->at + info->map);
}

static void put_modules(struct info *info, const struct mk_image *image)
{
    uint32_t entry = info->modules;
    for (const struct mk_image *m = image->modules; m; m = m->next, entry += MODULE_SIZE) {
        put32(info, entry, m->at);
        put32(info, entry + 4, m->at + m->size);
        put32(info, entry + 8, put_text(info, m->text));
    }
    put32(info, 20, info->modules_count);
    put32(info, 24, info->at + info->modules);
}

/* Lays it out; returns its size. */
static uint32_t measure(struct info *info, const struct mk_image *image, const char *command_line,
                        const char *loader)
{
    size_t strings = strlen(command_line) + 1 + strlen(loader) + 1;
    for (const struct mk_image *m = image->modules; m; m = m->next) {
        info->modules_count++;
        strings += strlen(m->text) + 1;
    }
    info->modules = INFO_SIZE;
    info->map = info->modules + info->modules_count * MODULE_SIZE;
    info->text = info->map + MAP_ENTRIES * MAP_ENTRY_SIZE;
    return info->text + (uint32_t)strings;
}

static int make_info(struct mk_image *image, const struct mk_plan_want *want,
                     struct mk_plan *plan, struct mk_err *err)
{
    struct info info = { 0 };
    const char *loader = want->loader_name ? want->loader_name : "minikvm";
    const char *line = want->command_line ? want->command_line : "";
    if (strlen(line) > MK_MODULE_TEXT_MAX || strlen(loader) > MK_MODULE_TEXT_MAX)
        return mk_fail(err, E2BIG, "%s: the command line is longer than %d bytes", image->name,
                       MK_MODULE_TEXT_MAX);
    uint64_t from = want->info_at > INFO_LOWEST ? want->info_at : INFO_LOWEST;
    plan->info_size = measure(&info, image, line, loader);
    if (find_place(image, want, plan, "the Multiboot information", plan->info_size, from,
                   &plan->info_at, err) < 0)
        return -1;
    info.bytes = plan->info = calloc(1, plan->info_size);
    if (!plan->info)
        return mk_fail_errno(err, ENOMEM, "%s", image->name);
    info.at = (uint32_t)plan->info_at;
    put32(&info, 0, INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MAP | INFO_LOADER);
    put_memory(&info, want->limit);
    put32(&info, 16, put_text(&info, line));
    put_modules(&info, image);
    put32(&info, 64, put_text(&info, loader));
    return 0;
}

int mk_multiboot_plan(struct mk_image *image, const struct mk_plan_want *want,
                      struct mk_plan *plan, struct mk_err *err)
{
    struct header h;
    if (!find_header(image, &h))
        return mk_fail(err, ENOEXEC, "%s: no Multiboot header with the right checksum in the first "
                       "8192 bytes", image->name);
    if (check_header(image, &h, want, err) < 0 || place_kernel(image, &h, want, plan, err) < 0 ||
        mk_plan_check(image, want, plan, err) < 0 || place_modules(image, want, plan, err) < 0 ||
        make_info(image, want, plan, err) < 0)
        return -1;
    plan->bits = 32;
    plan->has_regs = true;
    plan->eax = LOADER_MAGIC;
    plan->ebx = (uint32_t)plan->info_at;
    return 0;
}
