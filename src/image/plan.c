/* plan.c - which format an image has, the plans of the simple ones, and putting a plan into
 * RAM; see image.h. */
#include "image/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SECTOR 512u
#define ZERO_CHUNK 4096u

typedef unsigned long long ull;

const char *mk_format_name(enum mk_format format)
{
    static const char *const names[MK_FORMATS] = { "auto", "flat", "boot", "elf", "multiboot" };
    return format < MK_FORMATS ? names[format] : "?";
}

/* The mark of a PC's boot sector: its last two bytes. */
static bool has_signature(const struct mk_image *image)
{
    return image->size >= SECTOR && image->bytes[510] == 0x55 && image->bytes[511] == 0xaa;
}

enum mk_format mk_image_detect(const struct mk_image *image, unsigned bits, bool paging)
{
    if (bits == 32 && !paging && mk_multiboot_is(image))
        return MK_FORMAT_MULTIBOOT;
    if (mk_elf_is(image))
        return MK_FORMAT_ELF;
    if (bits == 16 && image->size == SECTOR && has_signature(image))
        return MK_FORMAT_BOOT;
    return MK_FORMAT_FLAT;
}

/* --- checks that all formats share --- */

const struct mk_segment *mk_plan_segment(const struct mk_plan *plan, uint64_t address,
                                         bool physical)
{
    for (unsigned i = 0; i < plan->count; i++) {
        const struct mk_segment *s = &plan->segment[i];
        if (address - (physical ? s->at : s->linear) < s->mem_bytes)
            return s;
    }
    return NULL;
}

/* The kept range that holds the address, else the first above it; NULL when there is neither. */
static const struct mk_keep *kept_from(const struct mk_plan_want *want, uint64_t at)
{
    const struct mk_keep *found = NULL;
    for (unsigned i = 0; i < want->keeps; i++) {
        const struct mk_keep *k = &want->keep[i];
        if (at - k->at < k->size)
            return k;
        if (k->size && k->at > at && (!found || k->at < found->at))
            found = k;
    }
    return found;
}

/* `what` names the range in messages. */
static int check_range(const struct mk_image *image, const struct mk_plan_want *want,
                       const char *what, uint64_t at, uint64_t bytes, struct mk_err *err)
{
    const struct mk_keep *kept = kept_from(want, at);
    uint64_t end = want->limit;
    if (kept && kept->at == 0)
        return mk_fail(err, EINVAL, "%s: %sat = 0x%llx: %s lie below 0x%llx", image->name, what,
                       (ull)at, kept->what, (ull)kept->size);
    bool before = kept && kept->at < end;
    if (before)
        end = kept->at;
    if (mk_inside(at, bytes, end))
        return 0;
    return mk_fail(err, EFBIG, "%s: %s%llu bytes do not fit at 0x%llx: there is room for %llu%s%s",
                   image->name, what, (ull)bytes, (ull)at, (ull)(at < end ? end - at : 0),
                   before ? " before " : "", before ? kept->what : "");
}

int mk_plan_check(const struct mk_image *image, const struct mk_plan_want *want,
                  const struct mk_plan *plan, struct mk_err *err)
{
    char what[64] = "";
    for (unsigned i = 0; i < plan->count; i++) {
        const struct mk_segment *s = &plan->segment[i];
        if (plan->format == MK_FORMAT_ELF || plan->format == MK_FORMAT_MULTIBOOT)
            snprintf(what, sizeof(what), "segment %u (VirtAddr 0x%llx): ", i, (ull)s->linear);
        if (check_range(image, want, what, s->at, s->mem_bytes, err) < 0)
            return -1;
        for (unsigned j = 0; j < i; j++)
            if (s->at < plan->segment[j].at + plan->segment[j].mem_bytes &&
                plan->segment[j].at < s->at + s->mem_bytes)
                return mk_fail(err, EINVAL, "%s: segments %u and %u overlap in memory at 0x%llx",
                               image->name, j, i, (ull)(s->at > plan->segment[j].at
                                                        ? s->at : plan->segment[j].at));
    }
    return 0;
}

/* --- flat, boot sector --- */

static int flat_plan(const struct mk_image *image, const struct mk_plan_want *want,
                     struct mk_plan *plan)
{
    plan->count = 1;
    plan->segment[0] = (struct mk_segment){ .at = want->at, .linear = want->at,
                                            .file_bytes = image->size, .mem_bytes = image->size };
    plan->entry = want->bits == 16 ? 0 : want->at;
    return 0;
}

/* As a PC's BIOS does it: the first sector at 0x7c00, CS:IP = 0:0x7c00, the drive in DL. */
static int boot_plan(const struct mk_image *image, const struct mk_plan_want *want,
                     struct mk_plan *plan, struct mk_err *err)
{
    if (want->bits != 16)
        return mk_fail(err, EINVAL, "%s: a boot sector starts in real mode: mode=\"real\"",
                       image->name);
    if (!has_signature(image))
        return mk_fail(err, ENOEXEC, "%s: not a boot sector: no signature 0x55 0xaa in bytes 510 "
                       "and 511", image->name);
    plan->bits = 16;
    plan->count = 1;
    plan->segment[0] = (struct mk_segment){ .at = MK_BOOT_SECTOR, .linear = MK_BOOT_SECTOR,
                                            .file_bytes = SECTOR, .mem_bytes = SECTOR };
    plan->entry = MK_BOOT_SECTOR;
    plan->cs = 0;
    plan->has_regs = true;
    plan->edx = MK_BOOT_DRIVE;
    return 0;
}

/* --- planning --- */

static int format_plan(struct mk_image *image, const struct mk_plan_want *want,
                       struct mk_plan *plan, struct mk_err *err)
{
    if (want->has_at && want->bits != 16 && plan->format != MK_FORMAT_FLAT)
        return mk_fail(err, EINVAL, "%s: at= is for flat images; this one (format=\"%s\") says "
                       "itself where it goes", image->name, mk_format_name(plan->format));
    if (image->modules && plan->format != MK_FORMAT_MULTIBOOT)
        return mk_fail(err, EINVAL, "%s: modules= are for Multiboot; this image is format=\"%s\"",
                       image->name, mk_format_name(plan->format));
    switch (plan->format) {
    case MK_FORMAT_FLAT: return flat_plan(image, want, plan);
    case MK_FORMAT_BOOT: return boot_plan(image, want, plan, err);
    case MK_FORMAT_ELF: return mk_elf_plan(image, want, plan, err);
    case MK_FORMAT_MULTIBOOT: return mk_multiboot_plan(image, want, plan, err);
    default: return mk_fail(err, EINVAL, "%s: unknown format", image->name);
    }
}

static int entry_by_name(struct mk_image *image, const struct mk_plan_want *want,
                         struct mk_err *err)
{
    struct mk_symbol symbol;
    if (!image->plan.symbols.count)
        return mk_fail(err, ENOENT, "%s: entry=\"%s\": the image has no symbol table", image->name,
                       want->entry_symbol);
    if (!mk_symbol_find(image, want->entry_symbol, &symbol))
        return mk_fail(err, ENOENT, "%s: entry=\"%s\": it has no such symbol", image->name,
                       want->entry_symbol);
    image->plan.entry = symbol.value;
    return 0;
}

/* Where it starts: an address given is taken as it is; the file's own entry and its symbols are
 * linear, and without paging code runs where it was put. `image` has its plan. */
static int choose_entry(struct mk_image *image, const struct mk_plan_want *want,
                        struct mk_err *err)
{
    struct mk_plan *plan = &image->plan;
    if (want->has_entry) {
        plan->entry = want->entry;
        return 0;
    }
    if (want->entry_symbol && entry_by_name(image, want, err) < 0)
        return -1;
    const struct mk_segment *s = mk_plan_segment(plan, plan->entry, false);
    if (s && want->bits == 32 && !want->paging)
        plan->entry = plan->entry - s->linear + s->at;
    return 0;
}

int mk_image_plan(struct mk_image *image, const struct mk_plan_want *want, struct mk_err *err)
{
    struct mk_plan *plan = &image->plan;
    free(plan->info);
    *plan = (struct mk_plan){ .cs = -1, .format = want->format };
    if (plan->format == MK_FORMAT_AUTO)
        plan->format = mk_image_detect(image, want->bits, want->paging);
    if (format_plan(image, want, plan, err) == 0 && mk_plan_check(image, want, plan, err) == 0 &&
        choose_entry(image, want, err) == 0) {
        image->at = want->bits == 16 && plan->cs < 0 ? want->at : plan->segment[0].at;
        return 0;
    }
    free(plan->info);
    *plan = (struct mk_plan){ .cs = -1 };
    return -1;
}

/* --- into RAM --- */

/* Writes only to pages that are not zero already: untouched RAM stays without host memory. */
static void zero(uint8_t *to, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t n = ZERO_CHUNK - ((uintptr_t)to & (ZERO_CHUNK - 1));
        n = n < bytes ? n : bytes;
        if (to[0] || memcmp(to, to + 1, n - 1) != 0)
            memset(to, 0, n);
        to += n;
        bytes -= n;
    }
}

/* Huge pages for what will be filled anyway: those that lie in it whole. */
static void expect(uint8_t *to, uint64_t bytes)
{
    uint64_t skip = -(uintptr_t)to & (MK_HUGE_PAGE - 1);
    if (bytes >= 2 * MK_HUGE_PAGE)
        madvise(to + skip, (bytes - skip) & ~(uint64_t)(MK_HUGE_PAGE - 1), MADV_HUGEPAGE);
}

static bool has_room(const struct mk_image *image, const struct mk_mem *mem)
{
    const struct mk_plan *plan = &image->plan;
    for (unsigned i = 0; i < plan->count; i++)
        if (!mk_mem_at(mem, plan->segment[i].at, plan->segment[i].mem_bytes))
            return false;
    for (const struct mk_image *m = image->modules; m; m = m->next)
        if (!mk_mem_at(mem, m->at, m->size))
            return false;
    return mk_mem_at(mem, plan->info_at, plan->info_size) != NULL;
}

bool mk_image_apply(const struct mk_image *image, struct mk_mem *mem)
{
    const struct mk_plan *plan = &image->plan;
    if (!has_room(image, mem))
        return false;
    for (unsigned i = 0; i < plan->count; i++) {
        const struct mk_segment *s = &plan->segment[i];
        uint8_t *to = mk_mem_edit(mem, s->at, s->mem_bytes);
        expect(to, s->file_bytes);
        memcpy(to, image->bytes + s->offset, s->file_bytes);
        zero(to + s->file_bytes, s->mem_bytes - s->file_bytes);
    }
    for (const struct mk_image *m = image->modules; m; m = m->next)
        mk_mem_write(mem, m->at, m->bytes, m->size);
    if (plan->info)
        mk_mem_write(mem, plan->info_at, plan->info, plan->info_size);
    return true;
}
