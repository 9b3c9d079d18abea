/* fuzz_image.c - hostile images: whatever the bytes are, a plan is refused or stays inside file and
 * RAM, touches nothing else, and its symbols can be asked for.
 *
 * With clang's libFuzzer:
 *   clang -D_GNU_SOURCE -DMK_LIBFUZZER -fsanitize=fuzzer,address,undefined -Isrc \
 *       spec/c/fuzz_image.c src/image*.c src/kvm/mem.c src/kvm/kvm.c src/base/err.c
 * Alone (without MK_LIBFUZZER) it changes good images at random and prints TAP. Arguments: the
 * number of images and the seed; a third is a folder to write good images to, as a first corpus. */
#include "image/image.h"
#include "image_make.h"
#include "tap.h"

#include <stdlib.h>

#define RAM 0x30000u
#define OLD 0xa5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *ram;
static unsigned taken[MK_FORMATS], refusals;

/* Not assert(): that disappears with NDEBUG. */
static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz_image: %s\n", what);
    abort();
}

/* --- what must hold of every plan --- */

static void check_plan(const struct mk_image *image, const struct mk_plan_want *want)
{
    const struct mk_plan *plan = &image->plan;
    must(plan->count <= MK_SEGMENTS_MAX, "too many segments");
    for (unsigned i = 0; i < plan->count; i++) {
        const struct mk_segment *s = &plan->segment[i];
        must(mk_inside(s->offset, s->file_bytes, image->size), "a segment is outside the file");
        must(mk_inside(s->at, s->mem_bytes, want->limit), "a segment is outside RAM");
        must(s->file_bytes <= s->mem_bytes, "a segment has more in the file than in RAM");
        for (unsigned j = 0; j < i; j++)
            must(s->at >= plan->segment[j].at + plan->segment[j].mem_bytes ||
                 plan->segment[j].at >= s->at + s->mem_bytes, "segments overlap");
        for (unsigned k = 0; k < want->keeps; k++)
            must(s->at >= want->keep[k].at + want->keep[k].size ||
                 want->keep[k].at >= s->at + s->mem_bytes, "a segment is in a kept range");
    }
    must(mk_inside(plan->info_at, plan->info_size, want->limit), "the information is outside RAM");
}

/* RAM is dirty before; once what the plan names is dirty again, all of it must be. */
static void check_ram(const struct mk_image *image)
{
    const struct mk_plan *plan = &image->plan;
    struct mk_mem mem = { .ram = ram, .size = RAM };
    memset(ram, OLD, RAM);
    must(mk_image_apply(image, &mem), "a plan does not go into RAM");
    for (unsigned i = 0; i < plan->count; i++)
        memset(ram + plan->segment[i].at, OLD, plan->segment[i].mem_bytes);
    for (const struct mk_image *m = image->modules; m; m = m->next)
        memset(ram + m->at, OLD, plan->format == MK_FORMAT_MULTIBOOT ? m->size : 0);
    memset(ram + plan->info_at, OLD, plan->info_size);
    must(ram[0] == OLD && memcmp(ram, ram + 1, RAM - 1) == 0,
         "a byte changed that is in no segment");
}

static void check_symbols(const struct mk_image *image)
{
    struct mk_symbol s, found;
    for (uint64_t i = 0; i < image->plan.symbols.count && i < 64; i++) {
        if (!mk_image_symbol(image, i, &s))
            continue;
        must(strlen(s.name) < image->size, "a name is longer than the file");
        must(mk_symbol_find(image, s.name, &found), "a symbol is not found by its name");
        if (mk_symbol_at(image, s.value, &found))
            must(found.value <= s.value, "an address has a symbol above it");
    }
    mk_symbol_find(image, "main", &s);
    mk_symbol_at(image, image->plan.entry, &s);
}

static void try_image(const uint8_t *data, size_t size, struct mk_plan_want want, bool module)
{
    struct mk_err err;
    struct mk_image *image = mk_image_copy("fuzz", data, size, &err);
    if (module)
        mk_image_add_module(image, mk_image_copy("module", "abc", 3, &err), "arg", &err);
    if (mk_image_plan(image, &want, &err) == 0) {
        taken[image->plan.format]++;
        check_plan(image, &want);
        check_ram(image);
        check_symbols(image);
    } else {
        refusals++;
        must(err.code > 0 && strncmp(err.text, "fuzz: ", 6) == 0, "an error that names nothing");
        must(image->plan.count == 0 && !image->plan.info, "a refused image has a plan");
    }
    mk_image_free(image);
}

/* The last byte chooses the machine and the format; the rest is the file. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct mk_keep keep[] = { { 0, 0x1000, "low" }, { 0x8000, 0x1000, "middle" } };
    if (size < 2)
        return 0;
    if (!ram)
        ram = malloc(RAM);
    uint8_t how = data[--size];
    unsigned bits = how % 3 == 0 ? 16 : how % 3 == 1 ? 32 : 64;
    struct mk_plan_want want = { .format = how >> 2 & 7, .bits = bits, .limit = RAM,
        .paging = bits == 64 || how & 0x20, .high = how & 0x20 ? 0x80000000 : 0,
        .at = 0x1000, .command_line = how & 0x40 ? "line" : NULL,
        .keep = keep, .keeps = how & 0x80 ? 2 : 0,
        .entry_symbol = how % 7 == 6 ? "main" : NULL };
    try_image(data, size, want, how & 0x40 && !(how & 0x80));
    return 0;
}

#ifndef MK_LIBFUZZER

/* --- on its own: good images, changed in a few places --- */

static uint64_t rng;

static uint32_t rnd(uint32_t below) /* xorshift64* */
{
    rng ^= rng >> 12;
    rng ^= rng << 25;
    rng ^= rng >> 27;
    return (uint32_t)((rng * UINT64_C(0x2545f4914f6cdd1d)) >> 32) % below;
}

/* Values that sums overflow with, and neighbours of what is right. */
static uint64_t odd_value(size_t size)
{
    static const uint64_t values[] = { 0, 1, 0x7f, 0x80, 0xff, 0x1000, 0x7fff, 0x8000, 0xffff,
        0x7fffffff, 0x80000000, UINT32_MAX, UINT32_MAX - 7, UINT64_C(1) << 32, INT64_MAX,
        UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 7, RAM, RAM - 1, RAM + 1, MAKE_TEXT_AT };
    switch (rnd(4)) {
    case 0: return size - rnd(65);
    case 1: return (uint64_t)rnd(UINT32_MAX) << 32 | rnd(UINT32_MAX);
    default: return values[rnd(MK_COUNT(values))];
    }
}

/* Most changes go to headers, on the fields' own boundaries. */
static size_t odd_place(size_t size)
{
    static const struct { uint32_t from, bytes; } tables[] = { { 0, 0x40 }, { MAKE_PHDRS, 0xc0 },
        { MAKE_SYMBOLS, 0xc0 }, { MAKE_NAMES, 0x40 }, { MAKE_SHDRS, 0xc0 },
        { MAKE_HEADER, 0x20 } };
    unsigned i = rnd(MK_COUNT(tables) + 1);
    size_t at = i < MK_COUNT(tables) ? tables[i].from + rnd(tables[i].bytes) : rnd((uint32_t)size);
    return rnd(8) ? at & ~(size_t)1 : at;
}

static size_t change(uint8_t *bytes, size_t size)
{
    if (rnd(16) == 0)
        return 1 + rnd((uint32_t)size);
    static const uint8_t widths[] = { 1, 2, 4, 4, 8 };
    uint64_t value = odd_value(size);
    size_t at = odd_place(size), width = widths[rnd(sizeof(widths))];
    if (at + width > size)
        return size;
    if (rnd(3) == 0) {
        memcpy(&value, bytes + at, width);
        value += rnd(33) - UINT64_C(16);
    }
    memcpy(bytes + at, &value, width);
    return size;
}

/* Kinds: ELF32, ELF64, Multiboot without and with address fields, a boot sector. */
static size_t good_image(struct make *m, unsigned kind)
{
    if (kind < 2)
        make_good(m, kind ? ELFCLASS64 : ELFCLASS32);
    else
        make_multiboot(m, kind == 3);
    make_elf(m);
    if (kind < 4)
        return m->size;
    m->bytes[510] = 0x55;
    m->bytes[511] = 0xaa;
    m->bytes[0] = 0xf4;
    return 512;
}

static uint8_t how_for(unsigned kind)
{
    static const uint8_t modes[] = { 1, 2, 1, 1, 0 }; /* % 3: 32, 64, 32, 32, 16 bits */
    uint8_t how;
    do
        how = (uint8_t)rnd(256);
    while (rnd(16) && (how % 3 != modes[kind] || how >> 2 & 7));
    return how;
}

static void write_corpus(const char *folder)
{
    static struct make m;
    char path[4096];
    for (unsigned kind = 0; kind < 5; kind++) {
        size_t size = good_image(&m, kind);
        for (unsigned how = 0; how < 256; how++) {
            snprintf(path, sizeof(path), "%s/%u-%02x", folder, kind, how);
            FILE *file = fopen(path, "wb");
            if (!file)
                return;
            fwrite(m.bytes, 1, size, file);
            fputc((int)how, file);
            fclose(file);
        }
    }
}

int main(int argc, char **argv)
{
    unsigned long images = argc > 1 ? strtoul(argv[1], NULL, 0) : 200000;
    static struct make m;
    static uint8_t input[MAKE_SIZE + 1];
    rng = argc > 2 ? strtoull(argv[2], NULL, 0) | 1 : 1;
    if (argc > 3) {
        write_corpus(argv[3]);
        return 0;
    }
    for (unsigned long i = 0; i < images; i++) {
        unsigned kind = rnd(5);
        size_t size = good_image(&m, kind);
        memcpy(input, m.bytes, size);
        for (unsigned n = rnd(6); n > 0; n--)
            size = change(input, size);
        input[size] = how_for(kind);
        LLVMFuzzerTestOneInput(input, size + 1);
    }
    printf("# %lu images: refused %u; taken as flat %u, boot %u, elf %u, multiboot %u\n", images,
           refusals, taken[MK_FORMAT_FLAT], taken[MK_FORMAT_BOOT], taken[MK_FORMAT_ELF],
           taken[MK_FORMAT_MULTIBOOT]);
    tap_ok(true, "fuzz: no image did harm");
    for (unsigned f = MK_FORMAT_FLAT; f < MK_FORMATS; f++)
        tap_ok(taken[f] > images / 1000, "fuzz: images of every format were taken");
    tap_ok(refusals > images / 10, "fuzz: images were refused");
    free(ram);
    return tap_done();
}

#endif
