/* pic.h - two cascaded 8259A interrupt controllers, as in a PC (ports 0x20, 0xa0, ELCR 0x4d0).
 *
 * Device lines 0..15 come in through mk_pic_set_line(), from any thread; line 2 is the cascade and
 * not a device's. The vCPU that gets external interrupts looks at `intr` before it enters
 * the guest and takes the vector with mk_pic_ack(). Both hooks are called without the lock held:
 * on_int on the thread that made INT rise, on_ack on the one that acknowledged. */
#ifndef MK_DEV_PIC_H
#define MK_DEV_PIC_H

#include "base/err.h"
#include "dev/dev.h"
#include "dev/pic_chip.h"

#include <pthread.h>
#include <stdatomic.h>

/* All that a guest can see. */
struct mk_pic_state {
    struct mk_pic_chip chip[2];
    uint8_t cause; /* master input that INT rose for; it decides which kind a spurious ack is */
};

struct mk_pic {
    struct mk_dev dev;
    struct mk_pic_state state;
    _Atomic bool intr;         /* the INT output */
    void (*on_int)(void *ctx); /* INT rose: wake or kick the vCPU */
    /* An input rose, and the request has to wait for what the guest writes here; may be NULL. */
    void (*on_blocked)(void *ctx);
    void *int_ctx; /* of both */
    /* The request on this line was taken, by INTA or by the poll command. */
    void (*on_ack)(void *ctx, unsigned line);
    void *ack_ctx;
};

struct mk_dev *mk_pic_init(struct mk_pic *pic);
extern const struct mk_dev_ops mk_pic_dev;

/* The level of an input. Lines above 15 and line 2 are ignored. */
void mk_pic_set_line(void *pic, unsigned line, bool level);
/* The same for a device to drive. */
static inline struct mk_irq mk_pic_line(struct mk_pic *pic, unsigned line)
{
    return (struct mk_irq){ .set = mk_pic_set_line, .ctx = pic, .line = line };
}
/* The same for PCI's router: an input is high while either holds it up. */
void mk_pic_set_shared(void *pic, unsigned line, bool level);
/* As firmware does: these inputs are level-triggered, beside those that are (bit n is line n). */
void mk_pic_set_level_triggered(void *pic, uint16_t lines);
/* One request: the line goes up and, when acknowledged, down again. */
void mk_pic_pulse(struct mk_pic *pic, unsigned line);
/* A request waits for what the guest writes. */
bool mk_pic_is_blocked(struct mk_pic *pic);
/* True when the guest cannot get this line now because of its masks or a missing initialisation. */
bool mk_pic_masked(void *pic, unsigned line);

/* The INTA cycle: the vector, 0..255. With no request left it is the spurious one (input 7).
 * Look at `intr` again afterwards: on_int is not called for an INT that stays up. */
int mk_pic_ack(struct mk_pic *pic);

#endif
