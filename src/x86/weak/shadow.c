/* shadow.c - see shadow.h. */
#include "x86/weak/shadow.h"

#include "kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RUNS 4096
#define PDE_LARGE 0x80u

void mk_shadow_reset(struct mk_shadow *s)
{
    free(s->runs);
    free(s->copies);
    free(s->tables);
    *s = (struct mk_shadow){ .next_slot = MK_REGIONS };
}

static struct mk_slot slot_of(const struct mk_run *run)
{
    return (struct mk_slot){ run->slot, run->linear, run->physical, run->length, !run->writable };
}

/* What was written through it is noted first: the log goes with the slot. */
static int remove_slot(const struct mk_mem *mem, int vm_fd, struct mk_slot slot)
{
    int noted = mk_mem_sync_slot(mem, vm_fd, &slot), code = errno;
    slot.length = 0;
    int rc = mk_mem_slot(mem, vm_fd, &slot);
    if (rc == 0 && noted < 0)
        errno = code;
    return rc < 0 ? rc : noted;
}

/* Collects what the tables map, adjacent pages merged. */
struct collection {
    const struct mk_mem *mem;
    struct mk_run *runs;
    size_t count;
    uint32_t *tables;
    uint8_t *copies; /* of them: what is looked at is what is kept, however the guest changes it */
    size_t table_count;
    bool full;
};

#define TABLES 1025u /* a directory, and those that it can name */

/* Within one region of memory. */
static void add_run(struct collection *k, uint64_t linear, uint64_t physical, uint64_t length,
                    bool writable)
{
    const struct mk_region *r = mk_mem_find(k->mem, physical);
    struct mk_run *last = k->count ? &k->runs[k->count - 1] : NULL;
    writable = writable && !r->read_only;
    if (last && last->linear + last->length == linear && physical > r->gpa &&
        last->physical + last->length == physical && last->writable == writable) {
        last->length += length;
    } else if (k->count < MAX_RUNS) {
        k->runs[k->count++] = (struct mk_run){ linear, physical, length, writable, 0 };
    } else {
        k->full = true;
    }
}

/* What points outside memory is as good as absent. */
static void add_page(struct collection *k, uint64_t linear, uint64_t physical, uint64_t length,
                     bool writable)
{
    for (uint64_t done = 0, n; done < length; done += n) {
        n = mk_mem_span(k->mem, physical + done, length - done);
        if (n)
            add_run(k, linear + done, physical + done, n, writable);
        else
            n = MK_PAGE;
    }
}

/* A table, read once; NULL: it does not lie in memory. */
static const uint32_t *read_table(struct collection *k, uint32_t at)
{
    uint8_t *copy = k->copies + k->table_count * MK_PAGE;
    if (!mk_mem_read(k->mem, at, copy, MK_PAGE))
        return NULL;
    k->tables[k->table_count++] = at;
    return (const uint32_t *)copy;
}

static void add_table(struct collection *k, uint32_t index, uint32_t pde)
{
    const uint32_t *table = read_table(k, pde & 0xfffff000);
    for (uint32_t i = 0; table && i < 1024; i++)
        if (table[i] & 1)
            add_page(k, (uint64_t)index << 22 | i << 12, table[i] & 0xfffff000, MK_PAGE,
                     table[i] & pde & 2);
}

static void collect(struct collection *k, uint64_t cr3, bool pse)
{
    const uint32_t *directory = read_table(k, cr3 & 0xfffff000);
    for (uint32_t i = 0; directory && i < 1024; i++) {
        uint32_t pde = directory[i];
        if (!(pde & 1))
            continue;
        if (pse && pde & PDE_LARGE)
            add_page(k, (uint64_t)i << 22, pde & 0xffc00000, UINT64_C(4) << 20, pde & 2);
        else
            add_table(k, i, pde);
    }
}

/* Keeps what the tables held, to notice changes. */
static void keep_tables(struct mk_shadow *s, struct collection *k)
{
    uint8_t *less = realloc(k->copies, (k->table_count + 1) * MK_PAGE);
    free(s->copies);
    free(s->tables);
    s->copies = less ? less : k->copies;
    s->tables = k->tables;
    s->table_count = k->table_count;
    k->copies = NULL;
    k->tables = NULL;
}

static bool same(const struct mk_run *x, const struct mk_run *y)
{
    return x->linear == y->linear && x->physical == y->physical && x->length == y->length &&
           x->writable == y->writable;
}

/* Both lists are sorted by linear address. What is in the old one only is removed first, since
 * slots must not overlap; `pass` 0 removes, 1 adds. */
static int replace(struct mk_shadow *s, int vm_fd, struct collection *k, int pass)
{
    size_t i = 0;
    for (size_t j = 0; j < k->count || (pass == 0 && i < s->run_count);) {
        struct mk_run *old = i < s->run_count ? &s->runs[i] : NULL;
        struct mk_run *new = j < k->count ? &k->runs[j] : NULL;
        if (old && new &&same(old, new)) {
            new->slot = old->slot;
            i++, j++;
        } else if (old && (!new || old->linear <= new->linear)) {
            if (pass == 0 && remove_slot(k->mem, vm_fd, slot_of(old)) < 0)
                return -1;
            i++;
        } else {
            if (pass == 1) {
                new->slot = s->next_slot++;
                struct mk_slot slot = slot_of(new);
                if (mk_mem_slot(k->mem, vm_fd, &slot) < 0)
                    return -1;
            }
            j++;
        }
    }
    return 0;
}

/* Slot numbers are used up by and by; starting over removes every slot once. */
static void renumber(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd)
{
    for (size_t i = 0; i < s->run_count; i++)
        remove_slot(mem, vm_fd, slot_of(&s->runs[i]));
    s->run_count = 0;
    s->next_slot = MK_REGIONS;
}

/* What replace() left half-done: no slot may be there that s->runs does not tell of. Those that are
 * gone, or were never made, KVM refuses to remove once more. */
static void undo(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd,
                 const struct collection *k)
{
    for (size_t i = 0; i < k->count; i++)
        if (k->runs[i].slot)
            remove_slot(mem, vm_fd, slot_of(&k->runs[i]));
    renumber(s, mem, vm_fd);
}

static int walk(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    struct collection k = { .mem = mem };
    k.runs = malloc(MAX_RUNS * sizeof(*k.runs));
    k.tables = malloc(TABLES * sizeof(*k.tables));
    k.copies = malloc(TABLES * MK_PAGE); /* takes no memory where none is written */
    int rc = -1;
    if (!k.runs || !k.tables || !k.copies) {
        mk_fail_errno(err, ENOMEM, "paging assist");
        goto out;
    }
    collect(&k, s->cr3, s->large);
    if (k.full) {
        mk_fail(err, E2BIG, "paging assist: the page tables map more than %d separate ranges",
                MAX_RUNS);
        goto out;
    }
    if (s->next_slot > MK_REGIONS + MAX_RUNS * 2)
        renumber(s, mem, vm_fd);
    if (replace(s, vm_fd, &k, 0) < 0 || replace(s, vm_fd, &k, 1) < 0) {
        mk_fail_errno(err, errno, "paging assist: KVM refuses a memory slot");
        undo(s, mem, vm_fd, &k);
        goto out;
    }
    free(s->runs);
    s->runs = k.runs;
    s->run_count = k.count;
    k.runs = NULL;
    keep_tables(s, &k);
    rc = 0;
out:
    free(k.runs);
    free(k.tables);
    free(k.copies);
    return rc;
}

int mk_shadow_set_cr3(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd, uint64_t cr3,
                      bool large, struct mk_err *err)
{
    if (!s->on) { /* from now on RAM appears where the tables say */
        if (mk_mem_sync_log(mem, vm_fd) < 0)
            return mk_fail_errno(err, errno, "paging assist: KVM's log of writes");
        if (mk_mem_unregister(mem, vm_fd, err) < 0) {
            mk_mem_register(mem, vm_fd, &(struct mk_err){ 0 });
            return -1;
        }
    }
    s->on = true;
    s->cr3 = cr3;
    s->large = large;
    return walk(s, mem, vm_fd, err);
}

static bool differs(const uint8_t *copy, const struct mk_mem *mem, uint64_t table)
{
    const void *now = mk_mem_at(mem, table, MK_PAGE);
    return !now || memcmp(copy, now, MK_PAGE) != 0; /* looked at after every exit: not copied */
}

bool mk_shadow_stale(const struct mk_shadow *s, const struct mk_mem *mem, uint64_t cr3, bool large)
{
    if (cr3 != s->cr3 || large != s->large)
        return true;
    for (size_t i = 0; i < s->table_count; i++)
        if (differs(s->copies + i * MK_PAGE, mem, s->tables[i]))
            return true;
    return false;
}

void mk_shadow_remove_slots(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd)
{
    renumber(s, mem, vm_fd);
}

int mk_shadow_rebuild(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    renumber(s, mem, vm_fd);
    return walk(s, mem, vm_fd, err);
}

int mk_shadow_disable(struct mk_shadow *s, struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    if (!s->on)
        return 0;
    renumber(s, mem, vm_fd);
    mk_shadow_reset(s);
    return mk_mem_register(mem, vm_fd, err);
}

int mk_shadow_sync_log(const struct mk_shadow *s, const struct mk_mem *mem, int vm_fd)
{
    for (size_t i = 0; i < s->run_count; i++) {
        struct mk_slot slot = slot_of(&s->runs[i]);
        if (mk_mem_sync_slot(mem, vm_fd, &slot) < 0)
            return -1;
    }
    return 0;
}
