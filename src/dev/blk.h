/* blk.h - virtio's block device (Virtual I/O Device 1.2, 5.2): its queue, served by threads of its
 * own.
 *
 * A few threads, made when they are first needed, take requests and move data straight between
 * guest memory and the disk, a piece at a time. A notification is a doorbell, so it is no exit to
 * us. The device's lock (virtio.h) is over all but what is said; it is held while a doorbell is
 * watched again and while the VM is woken, which call nobody back.
 *
 * While the VM does not run, and once a snapshot of a paused one is asked for, none of its requests
 * is in flight: the end of a run waits for the pieces that are being moved, and what is not done by
 * then is begun anew when the VM goes on. So a
 * snapshot has no request half done: those that were not answered are in the queue, or among those
 * that were taken (mk_virtio_queue.open). Guest memory and its list of regions are the owner's
 * then. */
#ifndef MK_BLK_H
#define MK_BLK_H

#include "dev/virtio.h"
#include "files/disk.h"

#define MK_BLK_THREADS MK_VIRTIO_OPEN /* requests in flight */

/* What the disks of a VM share. */
struct mk_blks {
    pthread_mutex_t lock; /* of the list */
    struct mk_blk *_Atomic first;
    _Atomic bool runs; /* the VM does */
    struct mk_doorbells *doorbells;
    void (*wake)(void *ctx); /* nothing will come of what a vCPU sleeps for */
    void *ctx;
};

struct mk_blk {
    struct mk_virtio virtio; /* first */
    struct mk_blks *list;
    struct mk_blk *_Atomic next;
    struct mk_disk *disk; /* NULL: none (any more) */
    bool read_only;
    struct mk_doorbell *bell;
    pid_t owner; /* a forked child does not have the threads */

    pthread_cond_t work, idle;
    pthread_t thread[MK_BLK_THREADS];
    unsigned threads, sleeping, in_flight;
    bool ends;
    bool runs;              /* the VM does */
    _Atomic unsigned round; /* changes when requests in flight are to be given up, */
    unsigned driver_round;  /* and this when nothing comes of them */
    bool kicked;            /* the queue is to be looked at */
    bool served;            /* it had a request since it was notified */
    bool sleeper;           /* a vCPU waits */
    bool malformed;         /* the driver said what cannot be: `why`; the first vCPU tells of it */
    bool unserved;          /* there is no thread for it: `why` */
    char why[200];
    char failure[200];         /* why a request failed last */
    uint64_t requests, failed; /* since the VM was made */
};

void mk_blks_init(struct mk_blks *list, struct mk_doorbells *doorbells, void (*wake)(void *ctx),
                  void *ctx);
/* All were closed. */
void mk_blks_free(struct mk_blks *list);
/* A run begins, or is over: then nothing is in flight when it returns. */
void mk_blks_run(struct mk_blks *list, bool runs);
/* Before a vCPU sleeps: whether a request is being served, which may end in an interrupt. */
bool mk_blks_may_wake(struct mk_blks *list);
/* A disk is about to be closed: its requests fail from now on. */
void mk_blks_drop_disk(struct mk_blks *list, const struct mk_disk *disk);

extern const struct mk_virtio_ops mk_blk_ops;
/* After mk_virtio_open(). */
int mk_blk_init(struct mk_blk *blk, struct mk_blks *list, struct mk_err *err);
void mk_blk_set_disk(struct mk_blk *blk, struct mk_disk *disk, bool read_only);
/* Before mk_virtio_close(): its threads end. */
void mk_blk_close(struct mk_virtio *v);

/* --- blk_request.c: one request, on a thread of the device's --- */

struct mk_blk_request {
    const struct mk_mem *mem;
    struct mk_disk *disk; /* NULL: it was closed */
    bool read_only;
    bool flushes;                    /* the driver asks for them: writes need not be on the disk */
    bool (*may_continue)(void *ctx); /* between pieces: false when it is to be given up */
    void *ctx;
    struct mk_virtq_chain chain;
};

enum mk_blk_result {
    MK_BLK_OK,
    MK_BLK_FAILED,  /* answered as such; *err says why */
    MK_BLK_NOTHING, /* it is no request */
    MK_BLK_AGAIN,   /* given up: nothing was answered */
};

enum mk_blk_result mk_blk_serve(const struct mk_blk_request *r, struct mk_err *err);

#endif
