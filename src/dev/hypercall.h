/* hypercall.h - the hypercall port 0x500 (docs/abi.md).
 *
 * `out 0x500, al` makes the call whose number is AL, with its argument in BL; an IN that follows
 * fetches the answer. Answers are kept per vCPU, so vCPUs do not disturb each other and no lock is
 * needed. Numbers that are not built in go to `other`. */
#ifndef MK_DEV_HYPERCALL_H
#define MK_DEV_HYPERCALL_H

#include "dev/dev.h"
#include "io/console.h"
#include "kvm/mem.h"

/* What the next IN of a vCPU reads. */
struct mk_answer {
    bool pending;
    uint32_t value;
};

/* What it reads: 0 when no answer waits. */
static inline uint32_t mk_answer_take(struct mk_answer *answer)
{
    uint32_t value = answer->pending ? answer->value : 0;
    answer->pending = false;
    return value;
}

struct mk_hypercall {
    struct mk_dev dev;
    struct mk_console *console;
    struct mk_mem *mem;
    struct mk_answer *answer; /* of each vCPU */
    unsigned cpus;
    /* A call by its number before the built-in ones are looked at: true when it was taken, with the
     * answer for the next IN in *value. May be NULL. */
    bool (*other)(void *ctx, struct mk_io *io, uint8_t number, uint32_t *value);
    void *ctx;
};

struct mk_dev *mk_hypercall_init(struct mk_hypercall *hc, struct mk_console *console,
                                 struct mk_mem *mem);
/* Carries out a built-in call and returns its answer; an unknown one ends the vCPU. */
uint32_t mk_hypercall_builtin(struct mk_hypercall *hc, struct mk_io *io, uint8_t number);
extern const struct mk_dev_ops mk_hypercall_dev;

#endif
