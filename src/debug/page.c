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

#define MANY 255

static size_t bucket_of(const struct mk_debug *d, uint64_t gpa)
{
    return (size_t)(gpa / MK_PAGE * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (d->page_buckets - 1);
}

static struct page *find(const struct mk_debug *d, uint64_t gpa)
{
    if (!d->pages)
        return NULL;
    struct page *p = d->page_bucket[bucket_of(d, gpa)];
    while (p && p->gpa != (gpa & ~(uint64_t)(MK_PAGE - 1)))
        p = p->next;
    return p;
}

static bool wants(const struct page *p, unsigned at)
{
    return p->wanted[at / 64] >> at % 64 & 1;
}

static bool in_hole(const struct page *p, unsigned at)
{
    for (unsigned i = 0; i < p->holes; i++)
        if (at >= p->hole[i].from && at < p->hole[i].end)
            return true;
    return false;
}

/* --- in and out of memory --- */

static bool is_left(const struct page *p, unsigned at)
{
    return p->left[at / 64] >> at % 64 & 1;
}

/* Whether the code is there that the patch is for. Bytes behind the first may be patched. */
static bool code_is_there(const struct mk_debug *d, const struct page *p, unsigned at)
{
    const struct mk_break_code *code = p->code ? &p->code[at] : NULL;
    for (unsigned i = 0; code && i < code->length && at + i < MK_PAGE; i++)
        if (p->host[at + i] != code->bytes[i] && (i == 0 || p->host[at + i] != d->trap))
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

static void insert_at(struct mk_debug *d, struct page *p, unsigned at)
{
    uint64_t bit = UINT64_C(1) << at % 64;
    p->saved[at] = p->host[at];
    p->left[at / 64] &= ~bit;
    if (!code_is_there(d, p, at)) {
        p->left[at / 64] |= bit;
        return;
    }
    poke(d, p, at, d->trap);
}

/* Where two holes overlap it is there already. */
static void fill_at(struct mk_debug *d, struct page *p, unsigned at)
{
    if (p->host[at] != d->trap || p->saved[at] == d->trap)
        insert_at(d, p, at);
}

/* A byte that the guest, or a device, wrote over a patch stays. */
static void remove_at(struct mk_debug *d, struct page *p, unsigned at)
{
    if (!in_hole(p, at) && !is_left(p, at) && p->host[at] == d->trap)
        poke(d, p, at, p->saved[at]);
}

static void for_each(struct mk_debug *d, struct page *p, unsigned from, unsigned end,
                     void (*fn)(struct mk_debug *d, struct page *p, unsigned at))
{
    for (unsigned i = from / 64; i < MK_COUNT(p->wanted) && i * 64 < end; i++)
        for (uint64_t bits = p->wanted[i]; bits; bits &= bits - 1) {
            unsigned at = i * 64 + (unsigned)__builtin_ctzll(bits);
            if (at >= from && at < end)
                fn(d, p, at);
        }
}

static void list_lifted(struct mk_debug *d, struct page *p)
{
    if (p->listed)
        return;
    p->listed = true;
    p->lifted = d->lifted;
    d->lifted = p;
}

static void lift(struct mk_debug *d, struct page *p)
{
    watch_open(d, p->gpa, MK_PAGE);
    unseal(d, p);
    if (!p->in)
        return;
    for_each(d, p, 0, MK_PAGE, remove_at);
    p->in = false;
    p->holes = 0;
    list_lifted(d, p);
}

void page_lift(struct mk_debug *d, uint64_t gpa, unsigned length)
{
    struct page *p = find(d, gpa);
    unsigned from = gpa % MK_PAGE, end = from + length;
    if (!p || !p->in)
        return;
    if (p->holes == HOLES) {
        lift(d, p);
        return;
    }
    end = end < MK_PAGE ? end : MK_PAGE;
    watch_open(d, p->gpa, MK_PAGE);
    for_each(d, p, from, end, remove_at);
    p->hole[p->holes].from = (uint16_t)from;
    p->hole[p->holes++].end = (uint16_t)end;
    list_lifted(d, p);
}

void page_insert_all(struct mk_debug *d)
{
    if (d->lifted)
        watch_open_all(d);
    for (struct page *p = d->lifted; p; p = p->lifted) {
        for (unsigned i = 0; p->in && i < p->holes; i++)
            for_each(d, p, p->hole[i].from, p->hole[i].end, fill_at);
        p->holes = 0;
        if (!p->in)
            for_each(d, p, 0, MK_PAGE, insert_at);
        p->in = true;
        p->listed = false;
        seal(d, p);
    }
    d->lifted = NULL;
    if (d->open)
        watch_protect(d);
    d->vm->mem.guard = d->pages || d->watches ? &d->guard : NULL;
}

void page_check_given(struct mk_debug *d)
{
    for (size_t i = 0; d->given && i < d->page_buckets; i++)
        for (struct page *p = d->page_bucket[i]; p; p = p->next)
            for (unsigned at = 0; p->given && p->in && at < MK_PAGE; at++)
                if (wants(p, at) && !in_hole(p, at) && p->host[at] != d->trap)
                    insert_at(d, p, at);
}

void page_lift_all(struct mk_debug *d)
{
    for (size_t i = 0; i < d->page_buckets; i++)
        for (struct page *p = d->page_bucket[i]; p; p = p->next)
            lift(d, p);
}

void page_free_all(struct mk_debug *d)
{
    page_lift_all(d);
    for (size_t i = 0; i < d->page_buckets; i++)
        while (d->page_bucket[i]) {
            struct page *p = d->page_bucket[i];
            d->page_bucket[i] = p->next;
            free(p->code);
            free(p);
        }
    free(d->page_bucket);
    d->page_bucket = NULL;
    d->lifted = NULL;
    d->page_buckets = d->pages = d->given = 0;
    d->vm->mem.guard = NULL;
}

/* --- which there are --- */

static bool grow(struct mk_debug *d)
{
    size_t more = d->page_buckets ? d->page_buckets * 4 : 64, before = d->page_buckets;
    struct page **old = d->page_bucket, **bucket = calloc(more, sizeof(struct page *));
    if (!bucket)
        return !(d->starved = true);
    d->page_bucket = bucket;
    d->page_buckets = more;
    for (size_t i = 0; i < before; i++)
        while (old[i]) {
            struct page *p = old[i];
            old[i] = p->next;
            p->next = bucket[bucket_of(d, p->gpa)];
            bucket[bucket_of(d, p->gpa)] = p;
        }
    free(old);
    return true;
}

/* ROM is sealed for good; files that others see too take no patches. */
static struct page *add(struct mk_debug *d, uint64_t gpa)
{
    const struct mk_region *r = mk_mem_find(&d->vm->mem, gpa);
    if (!r || r->kind == MK_SHARED || (r->read_only && d->memory_fd < 0))
        return NULL;
    if (d->pages >= d->page_buckets && !grow(d))
        return NULL;
    struct page *p = calloc(1, sizeof(*p));
    if (!p) {
        d->starved = true;
        return NULL;
    }
    p->gpa = gpa & ~(uint64_t)(MK_PAGE - 1);
    p->host = r->host + (p->gpa - r->gpa);
    p->rom = p->sealed = r->read_only;
    p->given = debug_emulates_locks(d); /* looked at after each exit instead */
    d->given += p->given;
    p->next = d->page_bucket[bucket_of(d, gpa)];
    d->page_bucket[bucket_of(d, gpa)] = p;
    d->pages++;
    list_lifted(d, p);
    return p;
}

/* With several users, one that is for whatever is there counts. */
static bool note_code(struct mk_debug *d, struct page *p, unsigned at,
                      const struct mk_break_code *code)
{
    if (code && code->length && !p->code && !(p->code = calloc(MK_PAGE, sizeof(*p->code))))
        return !(d->starved = true);
    if (!p->code)
        return true;
    if (!code || !code->length)
        p->code[at].length = 0;
    else if (p->users[at] == 0)
        p->code[at] = *code;
    return true;
}

bool page_ref(struct mk_debug *d, uint64_t gpa, const struct mk_break_code *code)
{
    struct page *p = find(d, gpa);
    unsigned at = gpa % MK_PAGE;
    if (!p && !(p = add(d, gpa)))
        return false;
    if (!note_code(d, p, at, code))
        return false;
    if (p->users[at] < MANY)
        p->users[at]++;
    if ((!wants(p, at) || is_left(p, at)) && p->in)
        lift(d, p); /* it comes with the others */
    p->wanted[at / 64] |= UINT64_C(1) << at % 64;
    return true;
}

void page_unref(struct mk_debug *d, uint64_t gpa)
{
    struct page *p = find(d, gpa);
    unsigned at = gpa % MK_PAGE;
    if (!p || p->users[at] == MANY || --p->users[at])
        return;
    if (p->in) {
        watch_open(d, p->gpa, MK_PAGE);
        remove_at(d, p, at);
    }
    p->wanted[at / 64] &= ~(UINT64_C(1) << at % 64);
}

static bool has_patch(const struct mk_debug *d, uint64_t gpa)
{
    const struct page *p = find(d, gpa);
    unsigned at = gpa % MK_PAGE;
    return p && wants(p, at) && !(p->in && !in_hole(p, at) && is_left(p, at));
}

bool page_has_patch(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t linear,
                    struct mk_walk *w)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    *w = mk_walk(&d->vm->mem, s, linear);
    bool is = w->present && has_patch(d, w->address);
    pthread_mutex_unlock(&d->lock);
    return is;
}

/* --- the guard of memory --- */

static struct mk_debug *of_guard(struct mk_mem_guard *g)
{
    return (struct mk_debug *)((char *)g - offsetof(struct mk_debug, guard));
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

/* For a range of many pages, those of its pages that have patches are looked for instead. */
static void open_range(struct mk_debug *d, uint64_t gpa, uint64_t len, bool give)
{
    watch_open(d, gpa, len);
    if (len / MK_PAGE <= d->pages) {
        for (uint64_t at = gpa & ~(uint64_t)(MK_PAGE - 1); at < gpa + len; at += MK_PAGE) {
            struct page *p = find(d, at);
            if (p)
                open_page(d, p, give);
        }
        return;
    }
    for (size_t i = 0; i < d->page_buckets; i++)
        for (struct page *p = d->page_bucket[i]; p; p = p->next)
            if (p->gpa + MK_PAGE > gpa && p->gpa < gpa + len)
                open_page(d, p, give);
}

void page_unseal(struct mk_debug *d, uint64_t gpa, uint64_t length)
{
    watch_open(d, gpa, length);
    for (uint64_t at = gpa & ~(uint64_t)(MK_PAGE - 1); at < gpa + length; at += MK_PAGE) {
        struct page *p = find(d, at);
        if (!p)
            continue;
        unseal(d, p);
        list_lifted(d, p); /* to be sealed again */
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
    for (uint64_t at = gpa & ~(uint64_t)(MK_PAGE - 1); at < gpa + len; at += MK_PAGE) {
        const struct page *p = find(d, at);
        for (unsigned i = 0; p && p->in && i < MK_COUNT(p->wanted); i++)
            for (uint64_t bits = p->wanted[i]; bits; bits &= bits - 1) {
                unsigned byte = i * 64 + (unsigned)__builtin_ctzll(bits);
                uint64_t offset = at + byte - gpa;
                if (at + byte >= gpa && offset < len && !in_hole(p, byte) && !is_left(p, byte) &&
                    copy[offset] == d->trap)
                    copy[offset] = p->saved[byte];
            }
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
