/* blk.c - the queue of virtio's block device, and the threads that serve it. See blk.h. */
#include "dev/blk.h"

#include "jail/jail.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STACK (256u << 10)
#define FLUSHES (1u << 9) /* VIRTIO_BLK_F_FLUSH */
#define QUIET_NS 100000u  /* between two looks at a driver that notifies for nothing */
#define DEAD_NS 2000000u  /* the same at one that is not ready */

static struct mk_virtio_queue *queue_of(struct mk_blk *blk)
{
    return &blk->virtio.queue[0];
}

static bool is_live(struct mk_blk *blk)
{
    return queue_of(blk)->on && !blk->malformed && !blk->ends;
}

static bool has_work(struct mk_blk *blk)
{
    return blk->runs && is_live(blk) && (blk->kicked || queue_of(blk)->open_count);
}

/* --- threads; callers hold the lock --- */

/* The first vCPU tells what is wrong (notify), if the VM still runs; it is found again otherwise.
 */
static void break_queue(struct mk_blk *blk, const struct mk_err *err)
{
    blk->malformed = true;
    snprintf(blk->why, sizeof(blk->why), "%.199s", err->text);
    mk_virtio_kick(&blk->virtio, 1);
}

/* A vCPU sleeps that waits for an interrupt, and none will come. */
static void let_sleep(struct mk_blk *blk)
{
    if (!blk->in_flight && !has_work(blk) && blk->sleeper) {
        blk->sleeper = false;
        blk->list->wake(blk->list->ctx);
    }
}

static void *serve(void *arg);

static int spawn(struct mk_blk *blk)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&blk->thread[blk->threads], &attr, serve, blk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    blk->threads += code == 0;
    return code;
}

/* One more thread has something to do. */
static void call_thread(struct mk_blk *blk)
{
    struct mk_err err;
    int code = 0;
    if (blk->sleeping)
        pthread_cond_signal(&blk->work);
    else if (blk->threads < MK_BLK_THREADS)
        code = spawn(blk);
    if (code && !blk->threads) { /* the first vCPU tells, and tries again */
        mk_fail_errno(&err, code, "%s: a thread for its requests", blk->virtio.fn->name);
        snprintf(blk->why, sizeof(blk->why), "%.199s", err.text);
        blk->unserved = true;
        mk_virtio_kick(&blk->virtio, 1);
    }
}

static void kick(struct mk_blk *blk)
{
    blk->kicked = true;
    if (has_work(blk))
        call_thread(blk);
}

/* Requests in flight are over, or given up. */
static void wait_idle(struct mk_blk *blk)
{
    atomic_fetch_add(&blk->round, 1);
    while (blk->in_flight)
        pthread_cond_wait(&blk->idle, &blk->virtio.lock);
}

/* --- the queue; callers hold the lock --- */

/* The head of the next request: false when there is none, and the driver notifies of the next. */
static bool next_request(struct mk_blk *blk, uint16_t *head)
{
    struct mk_virtio_queue *queue = queue_of(blk);
    struct mk_err err;
    if (queue->open_count) {
        *head = queue->open[--queue->open_count];
        return true;
    }
    int rc = mk_virtio_next(&blk->virtio, 0, queue->taken, head, &err);
    if (rc < 0)
        break_queue(blk, &err);
    if (rc > 0) {
        queue->taken++;
        blk->served = true;
        return true;
    }
    blk->kicked = false;
    mk_doorbell_rearm(blk->bell, blk->served ? 0 : mk_now() + QUIET_NS);
    blk->served = false;
    return false;
}

static void give_back(struct mk_blk *blk, uint16_t head, uint64_t written)
{
    struct mk_virtio_queue *queue = queue_of(blk);
    struct mk_err err;
    uint16_t before = queue->used++;
    if (mk_virtq_push(blk->virtio.mem, &queue->q, before, head, (uint32_t)written, &err) < 0)
        break_queue(blk, &err);
    else if (mk_virtio_used(&blk->virtio, 0, before))
        blk->sleeper = false;
}

/* What came of a request, of the driver as it is now. */
static void finish(struct mk_blk *blk, uint16_t head, const struct mk_blk_request *r,
                   enum mk_blk_result result, const struct mk_err *err)
{
    struct mk_virtio_queue *queue = queue_of(blk);
    if (result == MK_BLK_AGAIN || result == MK_BLK_NOTHING) {
        queue->open[queue->open_count++] = head;
        if (result == MK_BLK_NOTHING && is_live(blk))
            break_queue(blk, err);
        return;
    }
    blk->requests++;
    if (result == MK_BLK_FAILED) {
        blk->failed++;
        snprintf(blk->failure, sizeof(blk->failure), "%.199s", err->text);
    }
    give_back(blk, head, r->chain.write_bytes);
}

struct turn {
    const struct mk_blk *blk;
    unsigned round;
};

static bool may_continue(void *ctx)
{
    const struct turn *turn = ctx;
    return atomic_load(&turn->blk->round) == turn->round;
}

/* One request, without the lock. */
static enum mk_blk_result serve_one(const struct mk_virtq *q, uint16_t head,
                                    struct mk_blk_request *r, struct mk_err *err)
{
    if (mk_virtq_walk(r->mem, q, head, &r->chain, err) < 0)
        return MK_BLK_NOTHING;
    return mk_blk_serve(r, err);
}

/* Takes a request and serves it; the lock is held before and after. */
static void serve_next(struct mk_blk *blk, struct mk_blk_request *r)
{
    uint16_t head;
    struct mk_err err;
    if (!next_request(blk, &head)) {
        let_sleep(blk);
        return;
    }
    struct turn turn = { blk, atomic_load(&blk->round) };
    struct mk_virtq q = queue_of(blk)->q;
    unsigned driver_round = blk->driver_round;
    r->mem = blk->virtio.mem;
    r->disk = blk->disk;
    r->read_only = blk->read_only;
    r->flushes = blk->virtio.features & FLUSHES;
    r->may_continue = may_continue;
    r->ctx = &turn;
    blk->in_flight++;
    if (has_work(blk))
        call_thread(blk); /* there may be another one */
    pthread_mutex_unlock(&blk->virtio.lock);
    enum mk_blk_result result = serve_one(&q, head, r, &err);
    pthread_mutex_lock(&blk->virtio.lock);
    if (driver_round == blk->driver_round)
        finish(blk, head, r, result, &err);
    blk->in_flight--;
    if (!blk->in_flight)
        pthread_cond_broadcast(&blk->idle);
    let_sleep(blk);
}

static void *serve(void *arg)
{
    struct mk_blk *blk = arg;
    struct mk_blk_request r;
    struct mk_err err;
    bool walled = mk_jail_begin_thread(MK_ROLE_DISK, &err) == 0;
    pthread_mutex_lock(&blk->virtio.lock);
    if (!walled)
        break_queue(blk, &err);
    while (walled && !blk->ends) {
        if (has_work(blk)) {
            serve_next(blk, &r);
            continue;
        }
        blk->sleeping++;
        pthread_cond_wait(&blk->work, &blk->virtio.lock);
        blk->sleeping--;
    }
    pthread_mutex_unlock(&blk->virtio.lock);
    return NULL;
}

/* --- as a virtio device --- */

/* On the I/O thread, or that of a vCPU. */
static void on_ring(void *ctx)
{
    struct mk_blk *blk = ctx;
    pthread_mutex_lock(&blk->virtio.lock);
    mk_doorbell_count(blk->bell);
    if (is_live(blk))
        kick(blk);
    else if (!blk->ends)
        mk_doorbell_rearm(blk->bell, mk_now() + DEAD_NS);
    pthread_mutex_unlock(&blk->virtio.lock);
}

/* The queue begins, or a thread has found that it is malformed, or there is no thread: that is the
 * host's fault, of which the driver could do nothing. */
static void notify(struct mk_virtio *v, unsigned queue, struct mk_cpu *cpu)
{
    struct mk_blk *blk = (struct mk_blk *)v;
    char why[sizeof(blk->why)];
    (void)queue;
    pthread_mutex_lock(&v->lock);
    blk->unserved = false;
    kick(blk);
    bool malformed = blk->malformed, unserved = blk->unserved;
    memcpy(why, blk->why, sizeof(why));
    pthread_mutex_unlock(&v->lock);
    if (unserved)
        cpu->ops->end(cpu, MK_ERROR, 0, true, "%s", why);
    if (malformed)
        v->broken(v->ctx, cpu, why); /* which stops the queue */
}

static void stopped(struct mk_virtio *v)
{
    struct mk_blk *blk = (struct mk_blk *)v;
    blk->driver_round++;
    atomic_fetch_add(&blk->round, 1);
    blk->kicked = blk->malformed = false;
}

static bool busy(struct mk_virtio *v)
{
    struct mk_blk *blk = (struct mk_blk *)v;
    return blk->in_flight && !queue_of(blk)->on;
}

static void free_blk(struct mk_virtio *v)
{
    struct mk_blk *blk = (struct mk_blk *)v;
    pthread_cond_destroy(&blk->work);
    pthread_cond_destroy(&blk->idle);
    free(blk);
}

const struct mk_virtio_ops mk_blk_ops = {
    .notify = notify, .stopped = stopped, .busy = busy, .free = free_blk
};

/* --- its life --- */

int mk_blk_init(struct mk_blk *blk, struct mk_blks *list, struct mk_err *err)
{
    struct mk_doorbell *bell = calloc(1, sizeof(*bell));
    blk->owner = getpid();
    pthread_cond_init(&blk->work, NULL);
    pthread_cond_init(&blk->idle, NULL);
    if (!bell)
        return mk_fail_errno(err, ENOMEM, "a disk");
    bell->mmio = bell->any = true;
    bell->size = 2;
    bell->bus = mk_pci_window(blk->virtio.fn, 1);
    bell->address = MK_VIRTIO_NOTIFY;
    bell->on_ring = on_ring;
    bell->ctx = blk;
    blk->bell = bell;
    if (mk_doorbell_add(list->doorbells, bell, blk->virtio.fn->name, err) < 0) {
        free(bell);
        return -1;
    }
    pthread_mutex_lock(&list->lock);
    blk->list = list;
    blk->runs = list->runs;
    blk->next = list->first;
    list->first = blk;
    pthread_mutex_unlock(&list->lock);
    return 0;
}

static void delist(struct mk_blk *blk)
{
    struct mk_blks *list = blk->list;
    pthread_mutex_lock(&list->lock);
    struct mk_blk *_Atomic *at = &list->first;
    while (*at != blk)
        at = &atomic_load(at)->next;
    *at = atomic_load(&blk->next);
    pthread_mutex_unlock(&list->lock);
}

void mk_blk_close(struct mk_virtio *v)
{
    struct mk_blk *blk = (struct mk_blk *)v;
    if (!blk->list || blk->owner != getpid()) /* there its lock may be held for ever */
        return;
    delist(blk);
    pthread_mutex_lock(&v->lock);
    blk->ends = true;
    blk->driver_round++;
    atomic_fetch_add(&blk->round, 1);
    pthread_cond_broadcast(&blk->work);
    pthread_mutex_unlock(&v->lock);
    for (unsigned i = 0; i < blk->threads; i++)
        pthread_join(blk->thread[i], NULL);
    mk_doorbell_remove(blk->bell);
}

void mk_blk_set_disk(struct mk_blk *blk, struct mk_disk *disk, bool read_only)
{
    pthread_mutex_lock(&blk->virtio.lock);
    blk->disk = disk;
    blk->read_only = read_only;
    wait_idle(blk);
    pthread_mutex_unlock(&blk->virtio.lock);
}

/* --- all of a VM --- */

void mk_blks_init(struct mk_blks *list, struct mk_doorbells *doorbells, void (*wake)(void *ctx),
                  void *ctx)
{
    *list = (struct mk_blks){ .doorbells = doorbells, .wake = wake, .ctx = ctx };
    pthread_mutex_init(&list->lock, NULL);
}

void mk_blks_free(struct mk_blks *list)
{
    pthread_mutex_destroy(&list->lock);
}

static void set_runs(struct mk_blk *blk, bool runs)
{
    pthread_mutex_lock(&blk->virtio.lock);
    blk->runs = runs;
    blk->sleeper = false;
    if (runs && is_live(blk))
        kick(blk);
    if (!runs)
        wait_idle(blk);
    pthread_mutex_unlock(&blk->virtio.lock);
}

void mk_blks_run(struct mk_blks *list, bool runs)
{
    if (!atomic_load(&list->first) && list->runs == runs)
        return;
    pthread_mutex_lock(&list->lock);
    list->runs = runs;
    for (struct mk_blk *blk = list->first; blk; blk = blk->next)
        set_runs(blk, runs);
    pthread_mutex_unlock(&list->lock);
}

static bool may_wake(struct mk_blk *blk)
{
    pthread_mutex_lock(&blk->virtio.lock);
    if (mk_doorbell_count(blk->bell) && is_live(blk))
        kick(blk);
    bool waits = blk->in_flight || has_work(blk);
    blk->sleeper = waits;
    pthread_mutex_unlock(&blk->virtio.lock);
    return waits;
}

bool mk_blks_may_wake(struct mk_blks *list)
{
    bool waits = false;
    if (!atomic_load(&list->first))
        return false;
    pthread_mutex_lock(&list->lock);
    for (struct mk_blk *blk = list->first; blk; blk = blk->next)
        waits |= may_wake(blk);
    pthread_mutex_unlock(&list->lock);
    return waits;
}

void mk_blks_drop_disk(struct mk_blks *list, const struct mk_disk *disk)
{
    if (!atomic_load(&list->first)) /* nor is there a list any more when its VM was closed first */
        return;
    pthread_mutex_lock(&list->lock);
    for (struct mk_blk *blk = list->first; blk; blk = blk->next)
        if (blk->disk == disk)
            mk_blk_set_disk(blk, NULL, false);
    pthread_mutex_unlock(&list->lock);
}
