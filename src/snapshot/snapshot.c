/* snapshot.c - see snapshot.h. RAM, and the order of things. */
#include "snapshot/snapshot.h"
#include "snapshot/copy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t pages_of(const struct mk_mem *mem)
{
    return mem->bytes / MK_PAGE;
}

static size_t words_of(const struct mk_mem *mem)
{
    return (pages_of(mem) + 63) / 64;
}

/* --- what was written --- */

/* Afterwards mem.dirty has every page that may differ from vm->base, or from zeros when there is
 * no base. Of a VM that was made from a copy and is none of it any more, that is all pages. */
static int track_writes(struct mk_vm *vm, struct mk_err *err)
{
    struct mk_mem *mem = &vm->mem;
    if (mem->dirty)
        return mk_vm_sync_log(vm, err);
    if (mk_mem_start_log(mem, err) < 0 || mk_vm_register_slots(vm, err) < 0)
        return -1;
    if (vm->base || !mem->copied)
        mk_mem_mark_used(mem);
    else
        mk_mem_mark_pages_dirty(mem, 0, pages_of(mem));
    return 0;
}

static void clear_dirty(struct mk_mem *mem)
{
    for (size_t i = 0; i < words_of(mem); i++)
        mem->dirty[i] = 0;
}

/* Unmarks the pages that are as in the copy; returns how many are not. */
static size_t prune(struct mk_vm *vm)
{
    struct mk_mem *mem = &vm->mem;
    size_t count = 0;
    for (size_t i = 0; i < words_of(mem); i++)
        for (uint64_t bits = mem->dirty[i]; bits; bits &= bits - 1) {
            uint64_t at = (i * 64 + (unsigned)__builtin_ctzll(bits)) * MK_PAGE;
            if (memcmp(mk_mem_page(mem, at / MK_PAGE, NULL), vm->base->at + at, MK_PAGE) == 0)
                mem->dirty[i] &= ~(bits & -bits);
            else
                count++;
        }
    return count;
}

/* --- taking --- */

static int save_changed(struct mk_vm *vm, struct mk_snapshot *snap, size_t count,
                        struct mk_err *err)
{
    const struct mk_mem *mem = &vm->mem;
    snap->changed = calloc(words_of(mem), sizeof(*snap->changed));
    snap->pages = malloc(count * MK_PAGE);
    if (!snap->changed || !snap->pages)
        return mk_fail_errno(err, ENOMEM, "snapshot: %zu pages", count);
    for (size_t i = 0; i < words_of(mem); i++) {
        snap->changed[i] = mem->dirty[i];
        for (uint64_t bits = snap->changed[i]; bits; bits &= bits - 1)
            memcpy(snap->pages + snap->changed_count++ * MK_PAGE,
                   mk_mem_page(mem, i * 64 + (unsigned)__builtin_ctzll(bits), NULL), MK_PAGE);
    }
    return 0;
}

/* Only what changed, when there is a copy already and that is little. */
static int save_ram(struct mk_vm *vm, struct mk_snapshot *snap, struct mk_err *err)
{
    struct mk_mem *mem = &vm->mem;
    if (track_writes(vm, err) < 0)
        return -1;
    size_t count = vm->base ? prune(vm) : SIZE_MAX;
    if (count > pages_of(mem) / 2) {
        if (vm->base)
            mk_ram_mark_dirty(vm->base, mem);
        struct mk_ram *copy = mk_ram_copy(mem, err);
        if (!copy)
            return -1;
        mk_ram_unref(vm->base);
        vm->base = copy;
        clear_dirty(mem);
        count = 0;
    }
    snap->ram = mk_ram_ref(vm->base);
    return count ? save_changed(vm, snap, count, err) : 0;
}

static struct mk_snapshot_config shape_of(const struct mk_vm *vm)
{
    struct mk_snapshot_config config = { .mode = vm->mode,
                                         .memory = vm->mem.size,
                                         .cpus = vm->cpus,
                                         .pic = vm->has_pic,
                                         .mapping = vm->mapping,
                                         .places = vm->places,
                                         .boot_features = vm->boot_features };
    snprintf(config.name, sizeof(config.name), "%s", vm->name);
    snprintf(config.command_line, sizeof(config.command_line), "%s", vm->command_line);
    return config;
}

static int save_regions(const struct mk_vm *vm, struct mk_snapshot_config *config,
                        struct mk_err *err)
{
    const struct mk_mem *mem = &vm->mem;
    config->regions = calloc(mem->count, sizeof(*config->regions));
    if (!config->regions)
        return mk_fail_errno(err, ENOMEM, "snapshot");
    config->region_count = mem->count;
    for (unsigned i = 0; i < mem->count; i++) {
        config->regions[i] = mem->regions[i];
        config->regions[i].host = NULL;
        config->regions[i].fd = -1;
    }
    return 0;
}

static size_t cpuid_size(const struct kvm_cpuid2 *cpuid)
{
    return cpuid ? sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]) : 0;
}

static int save_cpuid(const struct mk_vm *vm, struct mk_snapshot *snap, struct mk_err *err)
{
    size_t size = cpuid_size(vm->cpuid);
    if (!size)
        return 0;
    snap->cpuid = malloc(size);
    if (!snap->cpuid)
        return mk_fail_errno(err, ENOMEM, "snapshot");
    memcpy(snap->cpuid, vm->cpuid, size);
    return 0;
}

static bool same_cpuid(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
    return cpuid_size(a) == cpuid_size(b) && (!a || memcmp(a, b, cpuid_size(a)) == 0);
}

struct mk_snapshot *mk_snapshot_take(struct mk_vm *vm, struct mk_bytes *script, struct mk_err *err)
{
    struct mk_snapshot *snap = calloc(1, sizeof(*snap));
    if (!snap) {
        mk_fail_errno(err, ENOMEM, "snapshot");
        return NULL;
    }
    mk_vm_join(vm);
    vm->mode_open = false;
    snap->config = shape_of(vm);
    if (mk_state_save(vm, &snap->state, err) < 0) { /* first: it may complete an access */
        free(snap);
        return NULL;
    }
    if (save_cpuid(vm, snap, err) < 0 || save_regions(vm, &snap->config, err) < 0 ||
        save_ram(vm, snap, err) < 0) {
        mk_snapshot_free(snap);
        return NULL;
    }
    snap->script = *script;
    *script = (struct mk_bytes){ 0 };
    return snap;
}

void mk_snapshot_free(struct mk_snapshot *snap)
{
    if (!snap)
        return;
    mk_state_free(&snap->state);
    mk_ram_unref(snap->ram);
    free(snap->changed);
    free(snap->pages);
    free(snap->cpuid);
    free(snap->config.regions);
    mk_bytes_free(&snap->script);
    for (unsigned i = 0; i < snap->layer_count; i++)
        mk_layer_unref(snap->layers[i]);
    free(snap);
}

const uint8_t *mk_snapshot_page(const struct mk_snapshot *snap, uint64_t page, size_t *next)
{
    if (snap->changed && snap->changed[page / 64] >> page % 64 & 1)
        return snap->pages + (*next)++ * MK_PAGE;
    return snap->ram->at + page * MK_PAGE;
}

/* --- restoring --- */

static bool same_region(const struct mk_region *a, const struct mk_region *b)
{
    return a->gpa == b->gpa && a->size == b->size && a->kind == b->kind &&
           a->read_only == b->read_only;
}

/* The first region of `list` that the other list does not have; NULL when it has all. */
static const struct mk_region *missing(const struct mk_region *list, unsigned count,
                                       const struct mk_region *others, unsigned other_count)
{
    for (unsigned i = 0, j = 0; i < count; i++) {
        while (j < other_count && others[j].gpa < list[i].gpa)
            j++;
        if (j == other_count || !same_region(&list[i], &others[j]))
            return &list[i];
    }
    return NULL;
}

/* Describes how the memories differ; false when they do not. */
static bool other_memory(const struct mk_snapshot_config *s, const struct mk_mem *mem, char *why,
                         size_t size)
{
    const struct mk_region *without, *with;
    without = missing(s->regions, s->region_count, mem->regions, mem->count);
    with = missing(mem->regions, mem->count, s->regions, s->region_count);
    const struct mk_region *r = without ? without : with;
    if (r)
        snprintf(why, size, "%s%s, 0x%llx bytes at 0x%llx (vm.memory:map)", without ? "" : "no ",
                 r->name, (unsigned long long)r->size, (unsigned long long)r->gpa);
    return r;
}

int mk_snapshot_fits(const struct mk_snapshot *snap, const struct mk_vm *vm, struct mk_err *err)
{
    static const char *const modes[MK_MODES] = { "real", "protected", "paged", "long" };
    const struct mk_snapshot_config *s = &snap->config;
    char why[200] = "";
    if (s->mode != vm->mode)
        snprintf(why, sizeof(why), "mode = \"%s\", not \"%s\"", modes[s->mode], modes[vm->mode]);
    else if (s->memory != vm->mem.size)
        snprintf(why, sizeof(why), "memory = %llu, not %llu", (unsigned long long)s->memory,
                 (unsigned long long)vm->mem.size);
    else if (s->cpus != vm->cpus)
        snprintf(why, sizeof(why), "cpus = %u, not %u", s->cpus, vm->cpus);
    else if (s->pic != vm->has_pic)
        snprintf(why, sizeof(why), "irqchip = \"%s\"", s->pic ? "pic" : "none");
    else if (!same_cpuid(snap->cpuid, vm->cpuid))
        snprintf(why, sizeof(why), "other processor features (cpuid)");
    else if (!other_memory(s, &vm->mem, why, sizeof(why)))
        return 0;
    return mk_fail(err, EINVAL, "the snapshot does not fit vm \"%s\": it is of one with %s",
                   vm->name, why);
}

/* What is the same need not be copied, nor unshared. True when page tables may have changed. */
static bool load_page(struct mk_mem *mem, uint64_t page, const uint8_t *from)
{
    uint8_t *to = mk_mem_page(mem, page, NULL);
    bool differs = memcmp(to, from, MK_PAGE) != 0;
    bool tables = differs && mk_page_changes_tables(to, from);
    if (differs)
        memcpy(to, from, MK_PAGE);
    return tables;
}

/* RAM is snap->ram: what the snapshot has different. */
static void load_changed(struct mk_vm *vm, const struct mk_snapshot *snap)
{
    size_t next = 0;
    for (size_t i = 0; snap->changed && i < words_of(&vm->mem); i++)
        for (uint64_t bits = snap->changed[i]; bits; bits &= bits - 1)
            load_page(&vm->mem, i * 64 + (unsigned)__builtin_ctzll(bits),
                      snap->pages + next++ * MK_PAGE);
}

/* KVM keeps page tables of its own where the processor cannot walk the guest's. They have what the
 * guest has used of its own, and KVM learns of changes to those from the guest's writes, not from
 * ours. */
static int flush_tables(struct mk_vm *vm, struct mk_err *err)
{
    if (!vm->kvm->shadow_paging || mk_vm_assists_paging(vm))
        return 0;
    if (mk_mem_flush(&vm->mem, vm->fd) < 0)
        return mk_fail_errno(err, errno, "vm \"%s\": a memory slot", vm->name);
    return 0;
}

/* What may differ from this snapshot: what was written, and where the copies have contents. */
static int find_dirty_pages(struct mk_vm *vm, const struct mk_snapshot *snap, struct mk_err *err)
{
    if (track_writes(vm, err) < 0)
        return -1;
    if (vm->base == snap->ram)
        return 0;
    if (vm->base)
        mk_ram_mark_dirty(vm->base, &vm->mem);
    mk_ram_mark_dirty(snap->ram, &vm->mem);
    return 0;
}

static int load_ram(struct mk_vm *vm, const struct mk_snapshot *snap, struct mk_err *err)
{
    struct mk_mem *mem = &vm->mem;
    size_t next = 0;
    bool tables = false;
    if (find_dirty_pages(vm, snap, err) < 0)
        return -1;
    for (size_t i = 0; i < words_of(mem); i++) {
        uint64_t changed = snap->changed ? snap->changed[i] : 0, written = mem->dirty[i];
        for (uint64_t bits = written | changed; bits; bits &= bits - 1) {
            uint64_t page = i * 64 + (unsigned)__builtin_ctzll(bits);
            tables |= load_page(mem, page, mk_snapshot_page(snap, page, &next));
        }
        if (written != changed)
            mem->dirty[i] = changed;
    }
    struct mk_ram *before = vm->base;
    vm->base = mk_ram_ref(snap->ram);
    mk_ram_unref(before);
    return tables ? flush_tables(vm, err) : 0;
}

int mk_snapshot_restore(const struct mk_snapshot *snap, struct mk_vm *vm, bool fresh,
                        struct mk_err *err)
{
    int rc = 0;
    mk_vm_join(vm);
    if (fresh)
        load_changed(vm, snap);
    else
        rc = load_ram(vm, snap, err);
    vm->places = snap->config.places;
    vm->mode_open = false;
    if (rc == 0)
        rc = mk_state_load(vm, &snap->state, MK_LOAD_ALL, err);
    if (rc < 0)
        mk_vm_disable(vm, "restore", err->text);
    return rc;
}
