/* alone.c - an instruction with a patch is executed while the patch is not there: the other vCPUs
 * leave the guest first, and wait before they enter it. See engine.h. */
#include "debug/engine.h"

#include <errno.h>
#include <time.h>

#define PATIENCE_NS 5000000 /* how long one waits for who executes an instruction alone */

/* For a moment: the loop handles events in between. */
void alone_wait(struct mk_debug *d)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += PATIENCE_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&d->turn, &d->lock, &until);
}

int alone_enter(struct mk_vcpu *c, bool only_complete)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    if (d->vm->cpus == 1)
        return mk_vcpu_enter(c, only_complete);
    pthread_mutex_lock(&d->lock);
    bool free = !d->holder || d->holder == c;
    if (!free) { /* back soon: the loop handles events, and then comes here again */
        alone_wait(d);
        if (d->holder)
            mk_vcpu_request(d->holder, MK_REQ_WAKE); /* it may wait for this one in the guest */
    }
    k->in_guest = free;
    pthread_mutex_unlock(&d->lock);
    if (!free) {
        errno = EINTR;
        return -1;
    }
    int rc = mk_vcpu_enter(c, only_complete), code = errno;
    pthread_mutex_lock(&d->lock);
    k->in_guest = false;
    pthread_cond_broadcast(&d->turn);
    pthread_mutex_unlock(&d->lock);
    errno = code;
    return rc;
}

static bool others_inside(const struct mk_debug *d, const struct mk_vcpu *c)
{
    bool any = false;
    for (unsigned i = 0; i < d->vm->cpus; i++)
        if (d->cpu[i].in_guest && i != c->cpu.index) {
            mk_vcpu_request(&d->vm->cpu[i]->c, MK_REQ_WAKE);
            any = true;
        }
    return any;
}

void alone_begin(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    if (d->vm->cpus == 1)
        return;
    pthread_mutex_lock(&d->lock);
    while (d->holder)
        pthread_cond_wait(&d->turn, &d->lock);
    d->holder = c;
    while (others_inside(d, c))
        pthread_cond_wait(&d->turn, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

void alone_end(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    if (d->vm->cpus == 1)
        return;
    pthread_mutex_lock(&d->lock);
    page_insert_all(d);
    d->holder = NULL;
    pthread_cond_broadcast(&d->turn);
    pthread_mutex_unlock(&d->lock);
}
