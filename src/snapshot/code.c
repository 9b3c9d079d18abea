/* code.c - shape and state of a snapshot as bytes, and back.
 *
 * One description of the layout serves both directions (fields.h). What is read was written by
 * nobody knows whom: it is all checked here, what vCPUs and devices keep by reading it into those
 * of no VM; what KVM checks itself when it is set is left to it. The layout's version is the
 * file's. */
#include "snapshot/snapshot.h"

#include "base/abi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CPUID_MAX 512u
#define BYTES_MAX (UINT64_C(1) << 35)

/* --- shape --- */

#define SHAPE struct mk_snapshot_config
static const struct mk_field shape_fields[] = {
    MK_RANGE(SHAPE, mode, 0, MK_MODES - 1),
    MK_RANGE(SHAPE, memory, MK_PAGE, MK_MEM_MAX),
    MK_RANGE(SHAPE, cpus, 1, MK_MAX_CPUS),
    MK_FLAG(SHAPE, pic),
    MK_FLAG(SHAPE, mapping.large),
    MK_RAW(SHAPE, mapping.size),
    MK_RAW(SHAPE, mapping.base),
    MK_RAW(SHAPE, mapping.io),
    MK_RAW(SHAPE, places.low),
    MK_RAW(SHAPE, places.tables),
    MK_RAW(SHAPE, places.end),
    MK_RAW(SHAPE, boot_features),
    MK_TEXT(SHAPE, name),
    MK_TEXT(SHAPE, command_line),
    { 0 },
};

/* Where the tables of the mode lie: what a load in a VM of this state moves. */
static bool places_fit(const struct mk_snapshot_config *s)
{
    const struct mk_places *p = &s->places;
    bool pages = p->low % MK_PAGE == 0 && p->tables % MK_PAGE == 0 && p->end % MK_PAGE == 0;
    if (s->mode == MK_MODE_REAL)
        return true;
    if (s->mode == MK_MODE_LONG &&
        (p->tables < MK_PAGE || p->tables >= p->end || p->end > s->memory))
        return false;
    return pages && mk_inside(p->low, MK_PAGE, s->memory) &&
           (s->mode != MK_MODE_PAGED || mk_inside(p->tables, MK_PAGE, s->memory));
}

#define REGION struct mk_region
static const struct mk_field region_fields[] = {
    MK_RANGE(REGION, gpa, 0, INT64_MAX),
    MK_RANGE(REGION, size, MK_PAGE, MK_MEM_MAX),
    MK_RANGE(REGION, kind, 0, MK_REGION_KINDS - 1),
    MK_FLAG(REGION, read_only),
    MK_FLAG(REGION, mapped),
    MK_FLAG(REGION, in_tables),
    MK_TEXT(REGION, name),
    { 0 },
};

/* In order and apart, own RAM where it belongs; sets where each is in a copy. */
static bool regions_fit(const struct mk_snapshot_config *s)
{
    uint64_t end = 0, own = 0, at = 0;
    for (uint32_t i = 0; i < s->region_count; i++) {
        struct mk_region *r = &s->regions[i];
        if (r->gpa < end || r->gpa % MK_PAGE || r->size % MK_PAGE ||
            r->mapped == mk_mem_is_own(s->memory, r->gpa) || (!r->mapped && r->kind != MK_RAM))
            return false;
        own += r->mapped ? 0 : r->size;
        r->at = at;
        r->fd = -1;
        at += r->kind == MK_SHARED ? 0 : r->size;
        end = r->gpa + r->size;
    }
    return own == s->memory && s->regions[0].gpa == 0;
}

static void code_regions(struct mk_codec *k, struct mk_snapshot_config *s)
{
    mk_codec_u32(k, &s->region_count);
    if (!k->out) {
        mk_codec_check(k, s->region_count && s->region_count < MK_REGIONS);
        s->regions = mk_codec_failed(k) ? NULL : calloc(s->region_count, sizeof(*s->regions));
        mk_codec_check_memory(k, s->regions);
    }
    for (uint32_t i = 0; i < s->region_count && !mk_codec_failed(k); i++)
        mk_codec_fields(k, region_fields, &s->regions[i]);
    mk_codec_check(k, mk_codec_failed(k) || regions_fit(s));
}

/* --- the VM --- */

#define SNAP struct mk_snapshot
static const struct mk_field fields[] = {
    MK_RANGE(SNAP, state.vm_state, 0, MK_VM_ENDED),
    MK_RANGE(SNAP, state.time, 0, MK_CLOCK_MAX),
    MK_BLOB(SNAP, state.cpus.data, state.cpus.length, BYTES_MAX),
    MK_BLOB(SNAP, state.devices.data, state.devices.length, BYTES_MAX),
    MK_BLOB(SNAP, script.data, script.length, BYTES_MAX),
    MK_FLAG(SNAP, state.paging),
    MK_FLAG(SNAP, state.deferred.pending),
    MK_RAW(SNAP, state.deferred.linear),
    MK_RAW(SNAP, state.deferred.rip),
    MK_RANGE(SNAP, state.deferred.length, 0, 8),
    MK_RAW(SNAP, state.deferred.data),
    { 0 },
};

static void code_cpuid(struct mk_codec *k, struct mk_snapshot *snap)
{
    const size_t entry = sizeof(struct kvm_cpuid_entry2);
    struct kvm_cpuid2 *list = snap->cpuid;
    size_t length = list ? sizeof(*list) + list->nent * entry : 0;
    mk_codec_blob(k, &snap->cpuid, &length, sizeof(*list) + CPUID_MAX * entry);
    mk_codec_check(k, length == 0 || (length >= sizeof(*list) &&
                                      length == sizeof(*list) + snap->cpuid->nent * entry));
}

static void code_all(struct mk_codec *k, struct mk_snapshot *snap)
{
    mk_codec_fields(k, shape_fields, &snap->config);
    mk_codec_check(k, snap->config.memory % MK_PAGE == 0 && places_fit(&snap->config));
    code_regions(k, &snap->config);
    mk_codec_fields(k, fields, snap);
    mk_codec_check(k, snap->state.vm_state != MK_VM_RUNNING);
    code_cpuid(k, snap);
}

/* --- both ways --- */

/* The description is not told that it does not change what it writes. */
bool mk_state_encode(const struct mk_snapshot *snap, struct mk_bytes *out)
{
    struct mk_codec k = { .out = out };
    code_all(&k, (struct mk_snapshot *)snap);
    return !mk_codec_failed(&k);
}

/* Into a machine without hardware, made for that. */
static int check_state(const struct mk_snapshot *snap, struct mk_err *err)
{
    struct mk_vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return mk_fail_errno(err, ENOMEM, "its state");
    struct mk_vm_config like = { .mode = snap->config.mode,
                                 .cpus = snap->config.cpus,
                                 .pic = snap->config.pic };
    vm->mode = snap->config.mode;
    int rc = mk_vm_compose(vm, &like, err);
    if (rc == 0)
        rc = mk_state_load(vm, &snap->state, MK_LOAD_CHECK, err);
    mk_vm_dismantle(vm);
    mk_vm_free_cpus(vm);
    free(vm);
    return rc;
}

int mk_state_decode(struct mk_snapshot *snap, struct mk_reader *in, struct mk_err *err)
{
    struct mk_codec k = { .in = *in, .err = err };
    code_all(&k, snap);
    *in = k.in;
    return mk_codec_failed(&k) ? -1 : check_state(snap, err);
}
