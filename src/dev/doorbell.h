/* doorbell.h - writes that nobody waits for: KVM counts them in an eventfd and the guest goes on at
 * once; the I/O thread wakes the VM, whose first vCPU hands the count over. One without an address
 * is rung by other threads, for whom that vCPU does something. One of a device whose work is done
 * on threads of its own (`on_ring`) concerns no vCPU: the I/O thread calls the device.
 *
 * Doorbells are added and removed by the owner of the VM, also while it runs. */
#ifndef MK_DOORBELL_H
#define MK_DOORBELL_H

#include "dev/bus.h"
#include "io/io.h"

/* Of one VM. */
struct mk_doorbells {
    pthread_mutex_t lock;
    struct mk_doorbell *first; /* under it */
    uint64_t round;            /* each bell is answered once in one, so that none holds up others */
    int vm_fd;
    struct mk_bus *ports, *mmio;
    void (*wake)(void *ctx); /* a doorbell has rung: the VM, if it runs, shall answer */
    void *ctx;
};

struct mk_doorbell {
    struct mk_doorbells *list;
    struct mk_doorbell *next;
    bool mmio, any; /* any: whatever value is written */
    uint8_t size;   /* of the writes that ring; 0: all */
    bool exits;     /* not known to KVM: each write exits */
    struct mk_bus
        *bus;       /* where its hook lies: `ports`, `mmio` or a window of them; NULL: nowhere */
    uint64_t base;  /* of a window that is open, else 0 */
    bool shut;      /* its window is not open */
    unsigned moves; /* of its window, since the KVM VM was made */
    uint64_t address, value;
    struct mk_io_source source;     /* an eventfd */
    struct mk_io_timer rearm_timer; /* watches it again */
    uint64_t round;                 /* in which it was looked at last */
    struct mk_hook *hook;           /* for writes that KVM does not catch; freed with it */
    _Atomic uint64_t rung;          /* through the hook */
    void (*ring)(void *ctx, struct mk_cpu *cpu, uint64_t count);
    /* Instead of it: on the I/O thread, or on that of a vCPU whose write exits; must not block.
     * Takes the count, and has the doorbell watched again (below). */
    void (*on_ring)(void *ctx);
    void *ctx;
};

void mk_doorbells_init(struct mk_doorbells *list, struct mk_bus *ports, struct mk_bus *mmio,
                       void (*wake)(void *ctx), void *ctx);
/* Before the buses, which free the doorbells. */
void mk_doorbells_free(struct mk_doorbells *list);
/* The KVM VM is new, or gone: -1. */
void mk_doorbells_register(struct mk_doorbells *list, int vm_fd);
/* On a vCPU's thread: calls `ring` of those that have rung. */
void mk_doorbells_serve(struct mk_doorbells *list, struct mk_cpu *cpu);

/* A window opens at `base`, or closes: its doorbells go with it. KVM waits for all vCPUs whenever
 * one is put somewhere, so those that have been moved MK_DOORBELL_MOVES times exit from then on. */
#define MK_DOORBELL_MOVES 16
void mk_doorbells_move(struct mk_doorbells *list, const struct mk_bus *window, bool open,
                       uint64_t base);

/* Sets it up with mmio, any, size, bus, address, value, ring and ctx filled in; it is from
 * malloc(). */
int mk_doorbell_add(struct mk_doorbells *list, struct mk_doorbell *bell, const char *owner,
                    struct mk_err *err);
void mk_doorbell_remove(struct mk_doorbell *bell);
/* Of one with on_ring: how often it has rung since it was asked last, on any thread; it is watched
 * again from `at` (mk_now()) on, 0: now. */
uint64_t mk_doorbell_count(struct mk_doorbell *bell);
void mk_doorbell_rearm(struct mk_doorbell *bell, uint64_t at);

/* One without an address has only ring and ctx filled in. It is its owner's, who leaves it there
 * until no vCPU is inside the bus of memory that was when it was removed (mk_bus_retire). */
void mk_doorbell_connect(struct mk_doorbells *list, struct mk_doorbell *bell);
/* Rings it, on any thread while it is connected. A VM that does not run answers when it does. */
void mk_doorbell_ring(struct mk_doorbell *bell);

#endif
