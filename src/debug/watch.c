/* watch.c - watched ranges of guest memory. See debug.h and engine.h.
 *
 * Their pages are protected in this process (mprotect), so that KVM cannot reach them: it tells of
 * an access as of one to no memory, or fails with EFAULT (access.c). Any number of them, of any
 * size. */
#include "debug/engine.h"

#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MOST 16      /* watches that are told of one access */
#define TABLES 1024u /* page tables that are looked through */

/* --- protection --- */

/* The parts of a range that are memory, in whole pages. */
static void protect(struct mk_debug *d, uint64_t gpa, uint64_t length, int prot)
{
    const struct mk_mem *mem = &d->vm->mem;
    uint64_t end = (gpa + length + MK_PAGE - 1) & ~(uint64_t)(MK_PAGE - 1);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        uint64_t from = gpa & ~(uint64_t)(MK_PAGE - 1), to = end;
        from = from > r->gpa ? from : r->gpa;
        to = to < r->gpa + r->size ? to : r->gpa + r->size;
        if (from < to && prot & PROT_WRITE)
            d->starved |= !mk_mem_unprotect(r, from, to - from);
        else if (from < to && mprotect(r->host + (from - r->gpa), to - from, prot) < 0)
            d->starved = true;
    }
}

/* Not even to be read: nor are instructions fetched there. */
static bool hides(const struct mk_watchpoint *w)
{
    return w->o.read || w->o.execute;
}

/* Where KVM tells of a write alone, it has read before what a locked instruction changes: with
 * other vCPUs the read is to be told, too. */
static int write_watch(const struct mk_debug *d)
{
    return debug_emulates_locks(d) ? PROT_NONE : PROT_READ;
}

static bool protects(const struct mk_watchpoint *w, bool hidden)
{
    return !w->by_steps && hides(w) == hidden;
}

static void each_chunk(struct mk_debug *d, bool on)
{
    for (const struct mk_watchpoint *w = d->watches; w; w = w->next)
        for (size_t i = 0; i < w->chunks && (!on || protects(w, false)); i++)
            protect(d, w->chunk[i].gpa, w->chunk[i].length,
                    on ? write_watch(d) : PROT_READ | PROT_WRITE);
    for (const struct mk_watchpoint *w = d->watches; on && w; w = w->next)
        for (size_t i = 0; i < w->chunks && protects(w, true); i++)
            protect(d, w->chunk[i].gpa, w->chunk[i].length, PROT_NONE);
}

void watch_protect(struct mk_debug *d)
{
    each_chunk(d, true);
    d->open = false;
    d->shut = true;
}

static bool overlaps(const struct chunk *k, uint64_t gpa, uint64_t length, uint64_t unit)
{
    uint64_t from = k->gpa & ~(unit - 1), to = (k->gpa + k->length + unit - 1) & ~(unit - 1);
    return gpa < to && from < gpa + length;
}

bool watch_has(const struct mk_debug *d, uint64_t gpa, uint64_t length, bool write)
{
    for (const struct mk_watchpoint *w = d->watches; w; w = w->next)
        for (size_t i = 0;
             i < w->chunks && !w->by_steps && (write || hides(w) || debug_emulates_locks(d)); i++)
            if (overlaps(&w->chunk[i], gpa, length, MK_PAGE))
                return true;
    return false;
}

void watch_open(struct mk_debug *d, uint64_t gpa, uint64_t length)
{
    if (!d->watches || !watch_has(d, gpa, length, true))
        return;
    protect(d, gpa, length, PROT_READ | PROT_WRITE);
    d->open = true;
}

/* Pages of patches are sealed on their own. */
void watch_open_all(struct mk_debug *d)
{
    if (!d->watches || !d->shut)
        return;
    each_chunk(d, false);
    d->open = true;
    d->shut = false;
}

/* --- where they are --- */

static void add_chunk(struct mk_debug *d, struct mk_watchpoint *w, uint64_t linear, uint64_t gpa,
                      uint64_t length)
{
    struct chunk *last = w->chunks ? &w->chunk[w->chunks - 1] : NULL;
    if (last && last->gpa + last->length == gpa && last->linear + last->length == linear) {
        last->length += length;
        return;
    }
    struct chunk *list = mk_grow(w->chunk, &w->room, (w->chunks + 1) * sizeof(*list));
    d->starved |= !list;
    if (!list)
        return;
    w->chunk = list;
    w->chunk[w->chunks++] = (struct chunk){ gpa, length, linear };
}

/* Is a table watched, or one of those below it? A guest may have any number of them, in circles:
 * after so many it counts as one that is. */
static bool is_table(struct mk_debug *d, uint64_t table, unsigned levels,
                     const struct mk_watchpoint *w, unsigned *left)
{
    uint64_t entries[MK_PAGE / 8];
    bool is = !*left;
    for (size_t i = 0; i < w->chunks && !is; i++)
        is = overlaps(&w->chunk[i], table, MK_PAGE, MK_PAGE);
    *left -= !is;
    if (is || levels == 1 || !mk_mem_read(&d->vm->mem, table, entries, MK_PAGE))
        return is;
    for (unsigned i = 0; !is && i < MK_COUNT(entries); i++)
        if ((entries[i] & 0x81) == 1) /* present, and no large page */
            is = is_table(d, entries[i] & UINT64_C(0x000ffffffffff000), levels - 1, w, left);
    return is;
}

/* KVM reads the guest's tables itself where the processor does not, and marks entries as used: it
 * takes those that it cannot write to for missing. Such tables are not protected. */
static bool holds_tables(struct mk_debug *d, const struct mk_watchpoint *w,
                         const struct kvm_sregs *s)
{
    if (!d->vm->kvm->shadow_paging || !(s->cr0 & MK_CR0_PG) || mk_vm_assists_paging(d->vm))
        return false;
    unsigned levels = s->efer & MK_EFER_LMA ? 4 : 2, most = TABLES;
    return is_table(d, s->cr3 & ~(uint64_t)(MK_PAGE - 1), levels, w, &most);
}

static void place(struct mk_debug *d, struct mk_watchpoint *w, const struct kvm_sregs *s)
{
    uint64_t at = w->o.address, left = w->o.size, n;
    w->chunks = 0;
    if (w->o.physical || !(s->cr0 & MK_CR0_PG)) {
        add_chunk(d, w, at, at, left);
        return;
    }
    for (; left; at += n, left -= n) {
        struct mk_walk k = mk_walk(&d->vm->mem, s, at);
        n = k.page_size - at % k.page_size;
        n = n < left ? n : left;
        if (k.present)
            add_chunk(d, w, at, k.address, n);
    }
}

/* What is not watched any more stays protected no longer than until it is accessed. */
void watch_place_all(struct mk_debug *d, const struct kvm_sregs *s)
{
    watch_open_all(d);
    d->by_steps = false;
    for (struct mk_watchpoint *w = d->watches; w; w = w->next) {
        place(d, w, s);
        w->by_steps = holds_tables(d, w, s);
        d->by_steps |= w->by_steps;
    }
    d->open |= d->watches != NULL;
}

void watch_forget(struct mk_debug *d)
{
    watch_open_all(d);
    for (struct mk_watchpoint *w = d->watches; w; w = w->next)
        w->chunks = 0;
    d->open = d->watches != NULL;
}

/* --- which there are --- */

struct mk_watchpoint *watch_add(struct mk_debug *d, const struct mk_watch_options *options,
                                struct mk_err *err)
{
    struct mk_watchpoint *w = calloc(1, sizeof(*w));
    if (!w) {
        mk_fail_errno(err, ENOMEM, "vm \"%s\": a watch", d->vm->name);
        return NULL;
    }
    w->o = *options;
    pthread_mutex_lock(&d->lock);
    w->next = d->watches;
    d->watches = w;
    d->generation++;
    pthread_mutex_unlock(&d->lock);
    debug_use(d);
    return w;
}

static void dispose(struct mk_watchpoint *w)
{
    free(w->chunk);
    free(w);
}

void mk_debug_unwatch(struct mk_vm *vm, struct mk_watchpoint *w)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    pthread_mutex_lock(&d->lock);
    struct mk_watchpoint **at = &d->watches;
    while (*at != w)
        at = &(*at)->next;
    watch_open_all(d);
    *at = w->next;
    w->orphan = true;
    bool held = w->held > 0;
    pthread_mutex_unlock(&d->lock);
    debug_unuse(d);
    if (!held)
        dispose(w);
}

void watch_free(struct mk_debug *d)
{
    while (d->watches) {
        struct mk_watchpoint *w = d->watches;
        d->watches = w->next;
        dispose(w);
    }
}

uint64_t mk_watchpoint_hits(const struct mk_watchpoint *w)
{
    return w->hits;
}

/* --- an access --- */

/* *linear: where the watch has the access, or as much of it as it concerns. */
static bool concerns(const struct mk_watchpoint *w, const struct mk_vcpu *c,
                     const struct mk_access *a, uint64_t *linear)
{
    bool is = (a->execute ? w->o.execute
               : a->write ? w->o.write
                          : w->o.read) &&
              (w->o.cpu < 0 || (unsigned)w->o.cpu == c->cpu.index);
    for (size_t i = 0; is && i < w->chunks; i++)
        if (overlaps(&w->chunk[i], a->address, a->length, 1)) {
            const struct chunk *k = &w->chunk[i];
            *linear = k->linear + (a->address > k->gpa ? a->address - k->gpa : 0);
            return true;
        }
    return false;
}

static void tell(struct mk_vcpu *c, struct mk_watchpoint *w, const struct mk_access *access)
{
    struct mk_debug *d = debug_of(c);
    w->hits++;
    if (!w->o.hit || w->o.hit(w->o.ctx, c, access))
        debug_stop(c, &(struct mk_stop){ .kind = MK_STOP_WATCH,
                                         .cpu = c->cpu.index,
                                         .address = access->address,
                                         .ctx = w->o.ctx });
    pthread_mutex_lock(&d->lock);
    bool last = --w->held == 0 && w->orphan;
    pthread_mutex_unlock(&d->lock);
    if (last)
        dispose(w);
}

void watch_report(struct mk_vcpu *c, const struct mk_access *a)
{
    struct mk_debug *d = debug_of(c);
    struct mk_access access[MOST];
    struct mk_watchpoint *found[MOST];
    unsigned n = 0;
    pthread_mutex_lock(&d->lock);
    for (struct mk_watchpoint *w = d->watches; w && n < MOST; w = w->next) {
        access[n] = *a;
        if (concerns(w, c, a, &access[n].address)) {
            w->held++;
            found[n++] = w;
        }
    }
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < n; i++)
        tell(c, found[i], &access[i]);
}
