/* code.c - shape and state of a snapshot as bytes, and back.
 *
 * One description of the layout serves both directions. What is read was written by nobody knows
 * whom: every length, count, name and enumeration is checked here; what the devices and KVM check
 * themselves when they are set is left to them. The layout's version is the file's. */
#include "snapshot/snapshot.h"

#include "base/abi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FPU_MAX (64u << 10)
#define MSRS_MAX 4096u
#define CPUID_MAX 512u
#define FILES_MAX 65536u
#define BLOB_MAX (UINT64_C(1) << 34)

struct codec {
    struct mk_bytes *out; /* NULL: reading */
    struct mk_reader in;
    bool bad;
};

static bool broken(const struct codec *k)
{
    return k->bad || k->in.failed;
}

static void need(struct codec *k, bool fine)
{
    k->bad |= !fine;
}

/* --- pieces --- */

static void raw(struct codec *k, void *at, size_t size)
{
    if (k->out)
        mk_bytes_add(k->out, at, size);
    else
        mk_reader_get(&k->in, at, size);
}

static void u32(struct codec *k, uint32_t *value)
{
    raw(k, value, sizeof(*value));
}

static void u64(struct codec *k, uint64_t *value)
{
    raw(k, value, sizeof(*value));
}

static void flag(struct codec *k, bool *value)
{
    uint8_t byte = *value;
    raw(k, &byte, 1);
    need(k, byte <= 1);
    *value = byte == 1;
}

/* A struct without pointers and bools, and its size: another kernel header's is refused. */
static void pod(struct codec *k, void *at, size_t size)
{
    uint32_t length = (uint32_t)size;
    u32(k, &length);
    need(k, length == size);
    if (!broken(k))
        raw(k, at, size);
}

static void text(struct codec *k, char *at, size_t size)
{
    pod(k, at, size);
    need(k, memchr(at, 0, size));
    at[size - 1] = 0;
}

/* Bytes in memory of their own; they must all be there before memory is taken for them. */
static void blob(struct codec *k, void *pointer, uint64_t *length, uint64_t most)
{
    uint8_t **bytes = pointer;
    u64(k, length);
    if (k->out) {
        mk_bytes_add(k->out, *bytes, *length);
        return;
    }
    *bytes = NULL;
    need(k, *length <= most && *length <= k->in.left);
    if (!broken(k) && *length) {
        *bytes = malloc(*length);
        need(k, *bytes);
    }
    if (*bytes)
        raw(k, *bytes, *length);
    else
        *length = 0;
}

static void bytes(struct codec *k, struct mk_bytes *b)
{
    uint64_t length = b->length;
    blob(k, &b->data, &length, BLOB_MAX);
    b->length = length;
}

/* --- parts --- */

/* Where the tables of the mode lie: what a load in a VM of this state moves. */
static bool places_fit(const struct mk_shape *s)
{
    const struct mk_places *p = &s->places;
    bool pages = p->low % MK_PAGE == 0 && p->tables % MK_PAGE == 0 && p->end % MK_PAGE == 0;
    if (s->mode == MK_MODE_REAL)
        return true;
    if (s->mode == MK_MODE_LONG && (p->tables < MK_PAGE || p->tables >= p->end || p->end > s->memory))
        return false;
    return pages && mk_inside(p->low, MK_PAGE, s->memory) &&
           (s->mode != MK_MODE_PAGED || mk_inside(p->tables, MK_PAGE, s->memory));
}

static void shape(struct codec *k, struct mk_shape *s)
{
    uint32_t mode = s->mode;
    u32(k, &mode);
    u64(k, &s->memory);
    u32(k, &s->cpus);
    flag(k, &s->pic);
    flag(k, &s->mapping.large);
    u64(k, &s->mapping.size);
    u64(k, &s->mapping.base);
    u64(k, &s->mapping.io);
    u64(k, &s->places.low);
    u64(k, &s->places.tables);
    u64(k, &s->places.end);
    u32(k, &s->boot_features);
    text(k, s->name, sizeof(s->name));
    text(k, s->command_line, sizeof(s->command_line));
    need(k, mode < MK_MODES && s->cpus >= 1 && s->cpus <= MK_MAX_CPUS && s->memory &&
                s->memory % MK_PAGE == 0 && s->memory <= MK_MEM_MAX);
    need(k, broken(k) || places_fit(&(struct mk_shape){ .mode = (enum mk_mode)mode,
                                                        .memory = s->memory, .places = s->places }));
    s->mode = (enum mk_mode)mode;
}

static void msrs(struct codec *k, struct mk_cpu_state *s)
{
    uint32_t count = s->msrs ? s->msrs->nmsrs : 0;
    u32(k, &count);
    if (!k->out) {
        need(k, count <= MSRS_MAX);
        s->msrs = broken(k) ? NULL : mk_msrs_new(count);
        need(k, s->msrs);
    }
    for (uint32_t i = 0; i < count && !broken(k); i++) {
        u32(k, &s->msrs->entries[i].index);
        uint64_t data = s->msrs->entries[i].data;
        u64(k, &data);
        s->msrs->entries[i].data = data;
    }
}

static void ending(struct codec *k, struct mk_end *end)
{
    uint32_t reason = end->reason;
    u32(k, &reason);
    raw(k, &end->code, sizeof(end->code));
    flag(k, &end->whole_vm);
    text(k, end->text, sizeof(end->text));
    need(k, reason < MK_REASONS);
    end->reason = reason < MK_REASONS ? (enum mk_reason)reason : MK_ERROR;
}

static void cpu(struct codec *k, struct mk_cpu_state *s)
{
    flag(k, &s->ready);
    pod(k, &s->regs, sizeof(s->regs));
    pod(k, &s->sregs, sizeof(s->sregs));
    pod(k, &s->events, sizeof(s->events));
    pod(k, &s->debug, sizeof(s->debug));
    pod(k, &s->mp, sizeof(s->mp));
    pod(k, &s->xcrs, sizeof(s->xcrs));
    flag(k, &s->has_xsave);
    uint64_t length = s->fpu.length;
    blob(k, &s->fpu.data, &length, FPU_MAX);
    s->fpu.length = length;
    need(k, s->has_xsave ? length >= sizeof(struct kvm_xsave) : length == sizeof(struct kvm_fpu));
    msrs(k, s);
    pod(k, s->queued, sizeof(s->queued));
    flag(k, &s->nmi);
    pod(k, s->last, sizeof(s->last));
    u64(k, &s->delivered);
    flag(k, &s->injectable);
    u32(k, &s->exit_reason);
    u64(k, &s->last_rip);
    ending(k, &s->end);
    pod(k, s->code, sizeof(s->code));
    u32(k, &s->code_length);
    need(k, s->code_length <= sizeof(s->code) && s->xcrs.nr_xcrs <= KVM_MAX_XCRS);
}

static void wire(struct codec *k, struct mk_file_wire *w)
{
    raw(k, &w->op, 1);
    pod(k, w->head, sizeof(w->head));
    u64(k, &w->have);
    u64(k, &w->need);
    u64(k, &w->kept);
    pod(k, w->result, sizeof(w->result));
    u64(k, &w->at);
    u64(k, &w->end);
    uint64_t length = w->capacity;
    blob(k, &w->data, &length, MK_FILE_WIRE_MAX);
    w->capacity = length;
}

static void uart(struct codec *k, struct mk_uart_state *s)
{
    bool pending = s->thre_pending;
    flag(k, &pending);
    s->thre_pending = false; /* the rest holds no bool that bytes could spoil */
    pod(k, s, sizeof(*s));
    s->thre_pending = pending;
}

static void console(struct codec *k, struct mk_console_state *s)
{
    if (!k->out)
        s->in_fd = -1; /* a descriptor of another process */
    uint64_t length = s->input.length;
    blob(k, &s->input.bytes, &length, MK_CONSOLE_INPUT);
    s->input.length = length;
    flag(k, &s->eof);
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        length = s->stream[i].history.length;
        blob(k, &s->stream[i].history.bytes, &length, UINT32_MAX);
        s->stream[i].history.length = length;
        length = s->stream[i].line.length;
        blob(k, &s->stream[i].line.bytes, &length, MK_CONSOLE_LINE);
        s->stream[i].line.length = length;
        u64(k, &s->stream[i].total);
        u64(k, &s->stream[i].consumed);
        need(k, s->stream[i].consumed <= s->stream[i].total &&
                    s->stream[i].history.length <= s->stream[i].total);
        u32(k, &s->stream[i].polls);
    }
}

static void name(struct codec *k, char at[MK_NAME_MAX + 1])
{
    text(k, at, MK_NAME_MAX + 1);
    need(k, mk_path_check(at, strlen(at)) == 0);
}

static void private_files(struct codec *k, struct mk_fsbox_state *s)
{
    uint32_t count = (uint32_t)s->count;
    u32(k, &count);
    if (!k->out) {
        need(k, count <= FILES_MAX && count <= k->in.left / MK_NAME_MAX);
        s->file = broken(k) ? NULL : calloc(count + 1, sizeof(*s->file));
        need(k, s->file);
        s->count = s->file ? count : 0;
    }
    for (uint32_t i = 0; i < s->count && !broken(k); i++) {
        name(k, s->file[i].name);
        u64(k, &s->file[i].length);
        bytes(k, &s->file[i].runs);
        need(k, mk_saved_file_valid(&s->file[i]));
    }
}

static void open_files(struct codec *k, struct mk_fsbox_state *s)
{
    for (unsigned i = 0; i < MK_FILES_OPEN && !broken(k); i++) {
        struct mk_saved_node *n = &s->node[i];
        flag(k, &n->used);
        if (!n->used)
            continue;
        name(k, n->name);
        flag(k, &n->own);
        flag(k, &n->writable);
        flag(k, &n->locked);
        raw(k, &n->verdict, 1);
        need(k, n->verdict < MK_FILE_VERDICTS);
    }
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        raw(k, &s->slot[i].node, sizeof(s->slot[i].node));
        u32(k, &s->slot[i].flags);
        raw(k, &s->slot[i].at, sizeof(s->slot[i].at));
        need(k, s->slot[i].node < MK_FILES_OPEN && s->slot[i].at >= 0);
    }
    u64(k, &s->bytes);
    u64(k, &s->files);
}

static void devices(struct codec *k, struct mk_state *s)
{
    uart(k, &s->uart);
    for (unsigned i = 0; i < MK_MAX_CPUS; i++) {
        flag(k, &s->call[i].pending);
        u32(k, &s->call[i].value);
        flag(k, &s->block[i].pending);
        u32(k, &s->block[i].value);
        wire(k, &s->wire[i]);
    }
    pod(k, &s->pic, sizeof(s->pic));
    pod(k, &s->pit, sizeof(s->pit));
    pod(k, &s->keyboard, sizeof(s->keyboard));
}

static void paging(struct codec *k, struct mk_state *s)
{
    flag(k, &s->paging);
    flag(k, &s->large);
    u64(k, &s->cr3);
    flag(k, &s->late.pending);
    u64(k, &s->late.linear);
    u64(k, &s->late.rip);
    u32(k, &s->late.length);
    pod(k, s->late.data, sizeof(s->late.data));
    need(k, s->late.length <= sizeof(s->late.data));
}

static void cpuid(struct codec *k, struct mk_snapshot *snap)
{
    const size_t entry = sizeof(struct kvm_cpuid_entry2);
    struct kvm_cpuid2 *list = snap->cpuid;
    uint64_t length = list ? sizeof(*list) + list->nent * entry : 0;
    blob(k, &snap->cpuid, &length, sizeof(*list) + CPUID_MAX * entry);
    need(k, length == 0 || (length >= sizeof(*list) &&
                            length == sizeof(*list) + snap->cpuid->nent * entry));
}

static void all(struct codec *k, struct mk_snapshot *snap)
{
    struct mk_state *s = &snap->state;
    uint32_t vm_state = s->vm_state;
    shape(k, &snap->shape);
    u32(k, &vm_state);
    u64(k, &s->time);
    need(k, s->time <= MK_CLOCK_MAX);
    need(k, vm_state == MK_VM_IDLE || vm_state == MK_VM_ENDED);
    s->vm_state = vm_state == MK_VM_IDLE ? MK_VM_IDLE : MK_VM_ENDED;
    for (unsigned i = 0; i < snap->shape.cpus && !broken(k); i++)
        cpu(k, &s->cpu[i]);
    if (!broken(k))
        devices(k, s);
    if (!broken(k))
        console(k, &s->console);
    if (!broken(k))
        private_files(k, &s->files);
    if (!broken(k))
        open_files(k, &s->files);
    paging(k, s);
    cpuid(k, snap);
    for (unsigned i = 0; i < MK_COUNT(s->hooks); i++)
        bytes(k, &s->hooks[i]);
    bytes(k, &snap->devices);
}

/* --- both ways --- */

/* The description is not told that it does not change what it writes. */
bool mk_state_encode(const struct mk_snapshot *snap, struct mk_bytes *out)
{
    struct codec k = { .out = out };
    all(&k, (struct mk_snapshot *)snap);
    return !out->failed && !k.bad;
}

int mk_state_decode(struct mk_snapshot *snap, struct mk_reader *in, struct mk_err *err)
{
    struct codec k = { .in = *in };
    all(&k, snap);
    *in = k.in;
    return broken(&k) ? mk_fail(err, EBADMSG, "its state is damaged") : 0;
}
