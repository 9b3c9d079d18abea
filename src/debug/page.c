/* page.c - patches in pages of guest memory, and the guard that hides them. See engine.h.
 *
 * A patch is one byte that makes the processor stop. It is in memory only while a vCPU may enter
 * the guest. Who gets a pointer to a page gets the page without patches; they come back before the
 * next entry. What was written there meanwhile is what the guest has from then on. */
#include "debug/engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct patch {
    uint16_t at; /* in its page */
    bool there;  /* it is in memory now */
    bool left;   /* other code than it is for was there when it was to come */
    uint8_t own; /* the guest's own byte, while it is there */
    unsigned users;
    struct mk_break_code code; /* of length 0: for whatever is there */
};

/* A page of guest memory with patches. */
struct page {
    struct page *lifted; /* the next one of which patches are to come */
    bool listed;         /* among those */
    uint64_t gpa;
    uint8_t *host;
    bool sealed;         /* this process may not write there, so that KVM tells of who does */
    bool given;          /* somebody has a pointer to write through: it is not sealed */
    bool rom;            /* sealed for good */
    struct patch *patch; /* sorted */
    size_t count, room;
};

static uint64_t base_of(uint64_t gpa)
{
    return gpa & ~(uint64_t)(MK_PAGE - 1);
}

static uint64_t gpa_of(const void *pages, size_t i)
{
    return ((struct page *const *)pages)[i]->gpa;
}

/* The first page with patches from this one on, by its number. */
static size_t first_page(const struct mk_debug *d, uint64_t gpa)
{
    return first_from(d->page, d->pages, base_of(gpa), gpa_of);
}

static struct page *find(const struct mk_debug *d, uint64_t gpa)
{
    size_t i = first_page(d, gpa);
    return i < d->pages && d->page[i]->gpa == base_of(gpa) ? d->page[i] : NULL;
}

static uint64_t at_of(const void *patches, size_t i)
{
    return ((const struct patch *)patches)[i].at;
}

static size_t first_patch(const struct page *p, uint64_t gpa)
{
    return first_from(p->patch, p->count, gpa % MK_PAGE, at_of);
}

static struct patch *find_patch(const struct page *p, uint64_t gpa)
{
    size_t i = p ? first_patch(p, gpa) : 0;
    return p && i < p->count && p->patch[i].at == gpa % MK_PAGE ? &p->patch[i] : NULL;
}

/* --- in and out of memory --- */

/* Whether the code is there that the patch is for. Bytes behind the first may be patched. */
static bool code_is_there(const struct page *p, const struct patch *q)
{
    const uint8_t *here = p->host + q->at;
    for (unsigned i = 0; i < q->code.length && q->at + i < MK_PAGE; i++)
        if (here[i] != q->code.bytes[i] && (i == 0 || here[i] != HLT))
            return false;
    return true;
}

/* KVM then tells of writes: as accesses to no memory, or by EFAULT. */
static void seal(struct mk_debug *d, struct page *p)
{
    if (p->given || p->sealed)
        return;
    p->sealed = mprotect(p->host, MK_PAGE, PROT_READ) == 0;
    d->starved |= !p->sealed;
}

static void unseal(struct mk_debug *d, struct page *p)
{
    if (p->rom)
        return;
    if (p->sealed)
        d->starved |= !mk_mem_unprotect(mk_mem_find(&d->vm->mem, p->gpa), p->gpa, MK_PAGE);
    p->sealed = false;
    d->open |= d->watches != NULL;
}

/* To a page that is sealed it goes by way of the process's memory file, which takes less than to
 * unseal it: KVM would drop its own tables of it (man 5 proc, /proc/pid/mem). */
static void poke(struct mk_debug *d, struct page *p, unsigned at, uint8_t byte)
{
    if (p->sealed && d->memory_fd >= 0 &&
        pwrite(d->memory_fd, &byte, 1, (off_t)(uintptr_t)(p->host + at)) == 1)
        return;
    unseal(d, p);
    __atomic_store_n(&p->host[at], byte, __ATOMIC_SEQ_CST);
}

/* Unless it is there already, and was not written over. */
static void insert(struct mk_debug *d, struct page *p, struct patch *q)
{
    if (q->there && p->host[q->at] == HLT)
        return;
    q->own = p->host[q->at];
    q->there = code_is_there(p, q);
    q->left = !q->there;
    if (q->there)
        poke(d, p, q->at, HLT);
}

/* A byte that the guest, or a device, wrote over a patch stays. */
static void take_out(struct mk_debug *d, struct page *p, struct patch *q)
{
    if (q->there && p->host[q->at] == HLT)
        poke(d, p, q->at, q->own);
    q->there = false;
}

static void list_lifted(struct mk_debug *d, struct page *p)
{
    if (p->listed)
        return;
    p->listed = true;
    p->lifted = d->lifted;
    d->lifted = p;
}

static void lift_range(struct mk_debug *d, struct page *p, uint64_t from, unsigned length)
{
    watch_open(d, p->gpa, MK_PAGE);
    for (size_t i = first_patch(p, from); i < p->count && p->patch[i].at < from % MK_PAGE + length;
         i++)
        take_out(d, p, &p->patch[i]);
    list_lifted(d, p);
}

static void lift(struct mk_debug *d, struct page *p)
{
    unseal(d, p);
    lift_range(d, p, 0, MK_PAGE);
}

void page_lift(struct mk_debug *d, uint64_t gpa, unsigned length)
{
    struct page *p = find(d, gpa);
    if (p)
        lift_range(d, p, gpa, length);
}

void page_insert_all(struct mk_debug *d)
{
    if (d->lifted)
        watch_open_all(d);
    for (struct page *p = d->lifted; p; p = p->lifted) {
        for (size_t i = 0; i < p->count; i++)
            insert(d, p, &p->patch[i]);
        p->listed = false;
        seal(d, p);
    }
    d->lifted = NULL;
    if (d->open)
        watch_protect(d);
    d->vm->mem.guard = d->pages || d->watches ? &d->guard : NULL;
}

/* While a vCPU executes an instruction without patches, they are out for that. */
void page_check_given(struct mk_debug *d)
{
    for (size_t i = 0; d->given && !d->holder && i < d->pages; i++) {
        struct page *p = d->page[i];
        for (size_t k = 0; p->given && !p->listed && k < p->count; k++)
            insert(d, p, &p->patch[k]);
    }
}

void page_lift_all(struct mk_debug *d)
{
    for (size_t i = 0; i < d->pages; i++)
        lift(d, d->page[i]);
}

void page_free_all(struct mk_debug *d)
{
    page_lift_all(d);
    for (size_t i = 0; i < d->pages; i++) {
        free(d->page[i]->patch);
        free(d->page[i]);
    }
    free(d->page);
    d->page = NULL;
    d->lifted = NULL;
    d->page_room = d->pages = d->given = 0;
    d->vm->mem.guard = NULL;
}

/* --- which there are --- */

/* ROM is sealed for good; files that others see too take no patches. */
static struct page *add(struct mk_debug *d, uint64_t gpa)
{
    const struct mk_region *r = mk_mem_find(&d->vm->mem, gpa);
    if (!r || r->kind == MK_SHARED || (r->read_only && d->memory_fd < 0))
        return NULL;
    struct page *p = calloc(1, sizeof(*p)), **list;
    list = p ? mk_grow(d->page, &d->page_room, (d->pages + 1) * sizeof(p)) : NULL;
    if (!list) {
        d->starved = true;
        free(p);
        return NULL;
    }
    d->page = list;
    p->gpa = base_of(gpa);
    p->host = r->host + (p->gpa - r->gpa);
    p->rom = p->sealed = r->read_only;
    p->given = debug_emulates_locks(d); /* looked at after each exit instead */
    d->given += p->given;
    size_t at = first_page(d, gpa);
    memmove(d->page + at + 1, d->page + at, (d->pages++ - at) * sizeof(p));
    d->page[at] = p;
    return p;
}

static struct patch *add_patch(struct mk_debug *d, struct page *p, uint64_t gpa)
{
    struct patch *list = mk_grow(p->patch, &p->room, (p->count + 1) * sizeof(*list));
    d->starved |= !list;
    if (!list)
        return NULL;
    p->patch = list;
    size_t at = first_patch(p, gpa);
    struct patch *q = &list[at];
    memmove(q + 1, q, (p->count++ - at) * sizeof(*q));
    *q = (struct patch){ .at = gpa % MK_PAGE };
    return q;
}

/* With several users, one that is for whatever is there counts. */
bool page_ref(struct mk_debug *d, uint64_t gpa, const struct mk_break_code *code)
{
    struct page *p = find(d, gpa);
    if (!p && !(p = add(d, gpa)))
        return false;
    struct patch *q = find_patch(p, gpa);
    bool new = !q;
    if (new && !(q = add_patch(d, p, gpa)))
        return false;
    if (!code || !code->length)
        q->code.length = 0;
    else if (new)
        q->code = *code;
    q->users++;
    if (!q->there)
        list_lifted(d, p); /* it comes with the others */
    return true;
}

void page_unref(struct mk_debug *d, uint64_t gpa)
{
    struct page *p = find(d, gpa);
    struct patch *q = find_patch(p, gpa);
    if (!q || --q->users)
        return;
    watch_open(d, p->gpa, MK_PAGE);
    take_out(d, p, q);
    memmove(q, q + 1, (size_t)(&p->patch[p->count--] - (q + 1)) * sizeof(*q));
}

bool page_has_patch(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t linear,
                    struct mk_walk *w)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    *w = mk_walk(&d->vm->mem, s, linear);
    const struct patch *q = w->present ? find_patch(find(d, w->address), w->address) : NULL;
    bool is = q && !q->left;
    pthread_mutex_unlock(&d->lock);
    return is;
}

/* --- the guard of memory --- */

static struct mk_debug *of_guard(struct mk_mem_guard *g)
{
    return MK_CONTAINER(g, struct mk_debug, guard);
}

static bool on_own_thread(const struct mk_vm *vm)
{
    bool own = false;
    for (unsigned i = 0; i < vm->cpus && !own; i++)
        own = mk_vcpu_is_current(&vm->cpu[i]->c);
    return own;
}

static void open_page(struct mk_debug *d, struct page *p, bool give)
{
    lift(d, p);
    if (p->given != give && give) {
        p->given = true;
        d->given++;
    }
}

static void open_range(struct mk_debug *d, uint64_t gpa, uint64_t len, bool give)
{
    watch_open(d, gpa, len);
    for (size_t i = first_page(d, gpa); i < d->pages && d->page[i]->gpa < gpa + len; i++)
        open_page(d, d->page[i], give);
}

void page_unseal(struct mk_debug *d, uint64_t gpa, uint64_t length)
{
    watch_open(d, gpa, length);
    for (size_t i = first_page(d, gpa); i < d->pages && d->page[i]->gpa < gpa + length; i++) {
        unseal(d, d->page[i]);
        list_lifted(d, d->page[i]); /* to be sealed again */
    }
}

bool page_is_sealed(const struct mk_debug *d, uint64_t gpa)
{
    const struct page *p = find(d, gpa);
    return p && p->sealed;
}

/* What was lifted comes back at the next entry, of a vCPU that is in the guest now, too. */
static void come_back(struct mk_debug *d, bool needed)
{
    if (needed && !on_own_thread(d->vm))
        mk_vm_wake(d->vm);
}

static void guard_lift(struct mk_mem_guard *g, uint64_t gpa, uint64_t len, bool write)
{
    struct mk_debug *d = of_guard(g);
    if (len == 0)
        return;
    pthread_mutex_lock(&d->lock);
    open_range(d, gpa, len, write);
    bool lifted = d->lifted || d->open;
    pthread_mutex_unlock(&d->lock);
    come_back(d, lifted);
}

static void guard_copy(struct mk_mem_guard *g, uint64_t gpa, const uint8_t *from, uint8_t *copy,
                       uint64_t len)
{
    struct mk_debug *d = of_guard(g);
    pthread_mutex_lock(&d->lock);
    watch_open(d, gpa, len);
    memcpy(copy, from, len);
    for (size_t i = first_page(d, gpa); i < d->pages && d->page[i]->gpa < gpa + len; i++)
        for (size_t k = 0; k < d->page[i]->count; k++) {
            const struct patch *q = &d->page[i]->patch[k];
            uint64_t offset = d->page[i]->gpa + q->at - gpa;
            if (q->there && offset < len && copy[offset] == HLT)
                copy[offset] = q->own;
        }
    bool open = d->open;
    pthread_mutex_unlock(&d->lock);
    come_back(d, open);
}

static void guard_write(struct mk_mem_guard *g, uint64_t gpa, uint8_t *to, const uint8_t *from,
                        uint64_t len)
{
    struct mk_debug *d = of_guard(g);
    pthread_mutex_lock(&d->lock);
    open_range(d, gpa, len, false);
    memcpy(to, from, len);
    bool lifted = d->lifted || d->open;
    pthread_mutex_unlock(&d->lock);
    come_back(d, lifted);
}

void page_init_guard(struct mk_debug *d)
{
    d->guard =
        (struct mk_mem_guard){ .lift = guard_lift, .copy = guard_copy, .write = guard_write };
}
