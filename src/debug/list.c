/* list.c - which breakpoints there are, and where in guest memory they lie. See engine.h.
 *
 * A breakpoint at a linear address lies where the page tables of a vCPU map it. They are asked when
 * the breakpoint is new, when they are others than before, and for what was not mapped at exits. */
#include "debug/engine.h"

#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define POLLED 64 /* breakpoints that are nowhere, looked up again at an exit */

static uint64_t address_of(const void *list, size_t i)
{
    return ((struct mk_break *const *)list)[i]->o.address;
}

size_t list_first(const struct mk_debug *d, uint64_t address)
{
    return first_from(d->list, d->count, address, address_of);
}

/* --- places --- */

static bool takes_all(uint64_t linear, const struct kvm_sregs *s)
{
    return linear <= UINT32_MAX || s->efer & MK_EFER_LMA;
}

static uint64_t place_of(struct mk_debug *d, const struct kvm_sregs *s, uint64_t linear)
{
    if (!takes_all(linear, s))
        return NOWHERE;
    struct mk_walk w = mk_walk(&d->vm->mem, s, linear);
    d->outer |= w.present && (w.user || !(s->cr0 & MK_CR0_PG));
    return w.present ? w.address : NOWHERE;
}

static void add_place(struct mk_debug *d, struct mk_break *b, uint64_t gpa)
{
    for (unsigned i = 0; i < b->places; i++)
        if (b->place[i] == gpa)
            return;
    if (gpa == NOWHERE || !page_ref(d, gpa, &b->o.code))
        return;
    if (b->places == PLACES) { /* the oldest goes */
        page_unref(d, b->place[0]);
        memmove(b->place, b->place + 1, (PLACES - 1) * sizeof(b->place[0]));
        b->places--;
    }
    b->place[b->places++] = gpa;
    d->changes++;
}

static void place(struct mk_debug *d, struct mk_break *b, const struct kvm_sregs *s)
{
    if (b->o.hidden)
        return;
    d->outer |= b->o.physical;
    add_place(d, b, b->o.physical ? b->o.address : place_of(d, s, b->o.address));
}

static bool reached(const struct mk_break_set *set, size_t i)
{
    return set->m.reached[i / 64] >> i % 64 & 1;
}

static void place_set(struct mk_debug *d, struct mk_break_set *set, const struct kvm_sregs *s)
{
    for (size_t i = 0; i < set->m.count; i++) {
        if (set->place[i] != NOWHERE || reached(set, i))
            continue;
        uint64_t gpa = place_of(d, s, set->m.address[i]);
        if (gpa != NOWHERE && page_ref(d, gpa, &set->m.code[i]))
            set->place[i] = gpa;
    }
}

void list_place_all(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s)
{
    struct cpu *k = cpu_of(c);
    for (size_t i = 0; i < d->count; i++)
        place(d, d->list[i], s);
    for (struct mk_break_set *set = d->sets; set; set = set->next)
        place_set(d, set, s);
    k->generation = d->generation;
}

void list_poll(struct mk_debug *d, struct mk_vcpu *c, const struct kvm_sregs *s)
{
    struct cpu *k = cpu_of(c);
    for (size_t n = d->count < POLLED ? d->count : POLLED; n; n--) {
        struct mk_break *b = d->list[k->polled++ % d->count];
        if (!b->places)
            place(d, b, s);
    }
}

void list_forget_places(struct mk_debug *d)
{
    for (size_t i = 0; i < d->count; i++)
        d->list[i]->places = 0;
    d->changes++;
    for (struct mk_break_set *set = d->sets; set; set = set->next)
        for (size_t i = 0; i < set->m.count; i++)
            set->place[i] = NOWHERE;
    d->generation++;
}

/* --- breakpoints --- */

static int check_hidden(struct mk_debug *d, const struct mk_break_options *o, struct mk_err *err)
{
    if (o->physical)
        return mk_fail(err, EINVAL,
                       "vm \"%s\": a hidden breakpoint has a linear address: debug registers know "
                       "no other",
                       d->vm->name);
    if (!probe_hardware(d->vm->kvm))
        return mk_fail(err, ENOTSUP,
                       "vm \"%s\": a hidden breakpoint: this host's KVM does not stop at addresses "
                       "in debug registers; breakpoints that are not hidden work",
                       d->vm->name);
    if (d->hidden == MK_BREAKS_HIDDEN)
        return mk_fail(err, ENOSPC,
                       "vm \"%s\": there are %u hidden breakpoints, as many as debug registers: "
                       "remove one",
                       d->vm->name, MK_BREAKS_HIDDEN);
    return 0;
}

struct mk_break *list_add(struct mk_debug *d, const struct mk_break_options *options,
                          struct mk_err *err)
{
    struct mk_break *b = calloc(1, sizeof(*b));
    pthread_mutex_lock(&d->lock);
    if (b && options->hidden && check_hidden(d, options, err) < 0) {
        pthread_mutex_unlock(&d->lock);
        free(b);
        return NULL;
    }
    struct mk_break **list = b ? mk_grow(d->list, &d->room, (d->count + 1) * sizeof(b)) : NULL;
    if (!list) {
        pthread_mutex_unlock(&d->lock);
        free(b);
        mk_fail_errno(err, ENOMEM, "vm \"%s\": a breakpoint", d->vm->name);
        return NULL;
    }
    d->list = list;
    d->hidden += options->hidden;
    d->changes++;
    b->o = *options;
    if (b->o.kind == MK_STOP_NONE)
        b->o.kind = MK_STOP_BREAK;
    size_t i = list_first(d, b->o.address);
    memmove(d->list + i + 1, d->list + i, (d->count++ - i) * sizeof(b));
    d->list[i] = b;
    d->generation++;
    pthread_mutex_unlock(&d->lock);
    debug_use(d);
    return b;
}

void list_end(struct mk_debug *d, struct mk_break *b)
{
    size_t at = list_first(d, b->o.address);
    while (d->list[at] != b)
        at++;
    memmove(d->list + at, d->list + at + 1, (--d->count - at) * sizeof(b));
    d->changes++;
    d->hidden -= b->o.hidden;
    for (unsigned i = 0; i < b->places; i++)
        page_unref(d, b->place[i]);
    b->places = 0;
    b->over = true;
    b->next = d->past;
    d->past = b;
}

void mk_debug_remove(struct mk_vm *vm, struct mk_break *b)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    pthread_mutex_lock(&d->lock);
    bool user = !b->over, held = b->held > 0;
    if (user)
        list_end(d, b);
    struct mk_break **at = &d->past;
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    b->orphan = true;
    pthread_mutex_unlock(&d->lock);
    if (user)
        debug_unuse(d);
    if (!held)
        free(b);
}

void list_release(struct mk_debug *d, struct mk_break *b)
{
    pthread_mutex_lock(&d->lock);
    bool last = --b->held == 0 && b->orphan;
    pthread_mutex_unlock(&d->lock);
    if (last)
        free(b);
}

bool mk_break_is_over(const struct mk_break *b)
{
    return b->over;
}

uint64_t mk_break_hits(const struct mk_break *b)
{
    return b->hits;
}

/* --- sets --- */

static void free_set(struct mk_break_set *set)
{
    free(set->place);
    free(set);
}

struct mk_break_set *list_add_set(struct mk_debug *d, const struct mk_break_members *members,
                                  struct mk_err *err)
{
    struct mk_break_set *set = calloc(1, sizeof(*set));
    size_t count = members->count;
    if (set)
        set->place = malloc((count + 1) * sizeof(*set->place));
    if (!set || !set->place) {
        free(set);
        mk_fail_errno(err, ENOMEM, "vm \"%s\": %zu breakpoints", d->vm->name, count);
        return NULL;
    }
    set->m = *members;
    memset(set->place, 0xff, count * sizeof(*set->place)); /* NOWHERE */
    pthread_mutex_lock(&d->lock);
    set->next = d->sets;
    d->sets = set;
    d->generation++;
    pthread_mutex_unlock(&d->lock);
    debug_use(d);
    return set;
}

void mk_debug_remove_set(struct mk_vm *vm, struct mk_break_set *set)
{
    struct mk_debug *d = (struct mk_debug *)vm->debug;
    pthread_mutex_lock(&d->lock);
    struct mk_break_set **at = &d->sets;
    while (*at != set)
        at = &(*at)->next;
    *at = set->next;
    for (size_t i = 0; i < set->m.count; i++)
        if (set->place[i] != NOWHERE)
            page_unref(d, set->place[i]);
    pthread_mutex_unlock(&d->lock);
    free_set(set);
    debug_unuse(d);
}

static uint64_t member(const void *addresses, size_t i)
{
    return ((const uint64_t *)addresses)[i];
}

/* Another VM may have reached it meanwhile: the patch goes all the same. */
bool list_reach(struct mk_debug *d, uint64_t linear)
{
    bool any = false;
    for (struct mk_break_set *set = d->sets; set; set = set->next) {
        size_t i = first_from(set->m.address, set->m.count, linear, member);
        if (i == set->m.count || set->m.address[i] != linear)
            continue;
        any |= !reached(set, i);
        atomic_fetch_or(&set->m.reached[i / 64], UINT64_C(1) << i % 64);
        if (set->place[i] != NOWHERE)
            page_unref(d, set->place[i]);
        set->place[i] = NOWHERE;
    }
    return any;
}

void list_free(struct mk_debug *d)
{
    while (d->count)
        list_end(d, d->list[d->count - 1]);
    while (d->past) {
        struct mk_break *b = d->past;
        d->past = b->next;
        free(b);
    }
    while (d->sets) {
        struct mk_break_set *set = d->sets;
        d->sets = set->next;
        free_set(set);
    }
    free(d->list);
}
