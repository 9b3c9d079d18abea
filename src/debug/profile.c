/* profile.c - where the vCPUs of a VM are, at a fixed rate. See profile.h. */
#include "debug/profile.h"

#include "x86/mode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS (2 * MK_PROFILE_STACKS) /* of the table: a power of two */
#define ASKED UINT64_MAX
#define WHERE_NS UINT64_C(2000000000) /* that a vCPU has to say where it is: others may run */
#define FRAME_MAX 0x100000            /* bytes of a frame that is believed */

/* --- on the I/O thread --- */

static void ask(struct mk_profile *p, struct mk_vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++) {
        struct mk_vcpu *c = &vm->cpu[i]->c;
        if (c->awake) {
            atomic_fetch_add(&p->due[i], 1);
            mk_vcpu_request(c, MK_REQ_SAMPLE);
        } else if (!atomic_load(&vm->paused)) {
            pthread_mutex_lock(&p->lock);
            p->idle++;
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void tick(void *ctx)
{
    struct mk_profile *p = ctx;
    struct mk_vm *vm = p->vm;
    pthread_mutex_lock(&vm->lock);
    bool runs = vm->state == MK_VM_RUNNING && p->on;
    if (runs)
        ask(p, vm);
    pthread_mutex_unlock(&vm->lock);
    if (runs)
        mk_io_arm(&p->timer, mk_now() + p->period);
}

/* --- on the thread of a vCPU --- */

static uint64_t read_word(const struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t linear,
                          unsigned size)
{
    uint64_t value = 0;
    return mk_linear_copy(c->mem, s, linear, &value, size, false) == size ? value : 0;
}

/* Return addresses, from the frame that RBP points to on. */
static unsigned walk_frames(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t frame,
                            uint64_t *pc, unsigned depth)
{
    unsigned size = s->cs.l ? 8 : 4;
    while (depth < MK_PROFILE_DEPTH) {
        uint64_t next = read_word(c, s, frame, size), ret = read_word(c, s, frame + size, size);
        if (!ret || !mk_walk(c->mem, s, ret).present)
            break;
        pc[depth++] = ret;
        if (next <= frame || next - frame > FRAME_MAX)
            break;
        frame = next;
    }
    return depth;
}

static unsigned sample_stack(struct mk_vcpu *c, uint64_t *pc)
{
    struct kvm_sregs s;
    const struct kvm_regs *regs = mk_vcpu_get_regs(c);
    if (mk_vcpu_get_guest_sregs(c, &s) < 0)
        return 0;
    pc[0] = mk_code_address(&s, regs->rip);
    if (!mk_profile_of(c->vm)->stacks || (!s.cs.l && !s.cs.db))
        return 1;
    return walk_frames(c, &s, s.cs.l ? regs->rbp : (uint32_t)regs->rbp, pc, 1);
}

static uint32_t hash_of(const uint64_t *pc, unsigned depth)
{
    uint64_t h = depth;
    for (unsigned i = 0; i < depth; i++)
        h = (h ^ pc[i]) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32);
}

/* Room for one more stack. */
static bool make_room(struct mk_profile *p, unsigned depth)
{
    bool full = p->count == MK_PROFILE_STACKS;
    uint64_t *words =
        full ? NULL : mk_grow(p->words, &p->room, (p->used + 2 + depth) * sizeof(*words));
    if (words)
        p->words = words;
    return words != NULL;
}

static void add(struct mk_profile *p, const uint64_t *pc, unsigned depth, uint64_t ticks)
{
    uint32_t slot = hash_of(pc, depth) & (SLOTS - 1);
    for (; p->table[slot]; slot = (slot + 1) & (SLOTS - 1)) {
        uint64_t *known = p->words + p->table[slot] - 1;
        if (known[1] == depth && !memcmp(known + 2, pc, depth * sizeof(*pc))) {
            known[0] += ticks;
            return;
        }
    }
    if (!make_room(p, depth)) {
        p->lost += ticks;
        return;
    }
    uint64_t *to = p->words + p->used;
    to[0] = ticks;
    to[1] = depth;
    memcpy(to + 2, pc, depth * sizeof(*pc));
    p->table[slot] = (uint32_t)p->used + 1;
    p->used += 2 + depth;
    p->count++;
}

/* Answers who asks, and the ticks. */
static void sample(struct mk_vcpu *c)
{
    struct mk_profile *p = mk_profile_of(c->vm);
    uint64_t pc[MK_PROFILE_DEPTH], ticks = atomic_exchange(&p->due[c->cpu.index], 0);
    if (p->where[c->cpu.index] == ASKED) {
        p->where[c->cpu.index] = mk_vcpu_get_regs(c)->rip;
        mk_vm_notify(c->vm);
    }
    unsigned depth = ticks && p->on ? sample_stack(c, pc) : 0;
    if (!depth)
        return;
    pthread_mutex_lock(&p->lock);
    p->samples += ticks;
    if (p->table)
        add(p, pc, depth, ticks);
    pthread_mutex_unlock(&p->lock);
}

/* --- its owner --- */

static void run(struct mk_vm *vm, bool runs)
{
    struct mk_profile *p = mk_profile_of(vm);
    if (!p->on)
        return;
    for (unsigned i = 0; i < MK_MAX_CPUS; i++)
        p->due[i] = 0;
    if (runs)
        mk_io_arm(&p->timer, mk_now() + p->period);
    else
        mk_io_disarm(&p->timer);
}

static void free_profile(struct mk_vm *vm)
{
    struct mk_profile *p = mk_profile_of(vm);
    mk_io_disarm(&p->timer);
    free(p->words);
    free(p->table);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* That of the VM, made if need be; NULL: out of memory. */
static struct mk_profile *get(struct mk_vm *vm)
{
    struct mk_profile *p = mk_profile_of(vm);
    if (p || !(p = calloc(1, sizeof(*p))))
        return p;
    p->base = (struct mk_profiler){ .run = run, .sample = sample, .free = free_profile };
    p->vm = vm;
    pthread_mutex_init(&p->lock, NULL);
    p->timer = (struct mk_io_timer){ .fire = tick, .ctx = p };
    atomic_store(&vm->profiler, &p->base);
    return p;
}

int mk_profile_start(struct mk_vm *vm, uint64_t period, bool stacks, struct mk_err *err)
{
    struct mk_profile *p = get(vm);
    uint32_t *table = p ? calloc(SLOTS, sizeof(*table)) : NULL;
    if (!table)
        return mk_fail(err, ENOMEM, "vm:profile: not enough memory");
    pthread_mutex_lock(&p->lock);
    free(p->table);
    p->table = table;
    p->used = 0;
    p->count = 0;
    p->samples = p->idle = p->lost = 0;
    p->stacks = stacks;
    p->period = period;
    pthread_mutex_unlock(&p->lock);
    p->on = true;
    pthread_mutex_lock(&vm->lock);
    bool runs = vm->state == MK_VM_RUNNING;
    pthread_mutex_unlock(&vm->lock);
    run(vm, runs);
    return 0;
}

void mk_profile_stop(struct mk_vm *vm)
{
    struct mk_profile *p = mk_profile_of(vm);
    if (!p)
        return;
    p->on = false;
    mk_io_disarm(&p->timer);
}

/* --- one vCPU, now --- */

struct asked {
    struct mk_vm *vm;
    const _Atomic uint64_t *where;
};

static bool answered(void *ctx)
{
    const struct asked *asked = ctx;
    return *asked->where != ASKED || mk_vm_is_stopped(asked->vm);
}

bool mk_profile_where(struct mk_vm *vm, unsigned cpu, uint64_t *rip)
{
    struct mk_profile *p = get(vm);
    struct mk_vcpu *c = &vm->cpu[cpu]->c;
    if (!p)
        return false;
    struct asked asked = { vm, &p->where[cpu] };
    struct mk_wait wait = mk_vm_wait_for(vm, answered, &asked);
    p->where[cpu] = ASKED;
    mk_vcpu_request(c, MK_REQ_SAMPLE);
    mk_wait(&wait, mk_time_in(WHERE_NS));
    *rip = mk_vm_wait(vm, 0) ? mk_vcpu_get_regs(c)->rip : p->where[cpu];
    return *rip != ASKED;
}
