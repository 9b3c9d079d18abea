/* pc.h - the interrupt controllers, the timer and the keyboard controller of a PC, used as a guest
 * uses them: through ports on a real bus, with a clock that the test moves. No KVM, no Lua. */
#ifndef PC_H
#define PC_H

#include "base/abi.h"
#include "dev/bus.h"
#include "dev/i8042.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "io/clock.h"
#include "tap.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000u
#define SECOND 1000000000u
#define BASE1 0x20
#define BASE2 0x28
#define EOI 0x20

static struct mk_bus bus;
static struct mk_clock vm_clock;
static struct mk_devs devices;
static struct mk_pic pic;
static struct mk_pit pit;
static struct mk_i8042 kbd;
static atomic_uint int_rises;
static unsigned ends, acks, acked_line;
static char end_text[100];
static enum mk_reason end_reason;
static bool end_all;

static inline uint64_t cpu_reg(struct mk_cpu *self, enum mk_reg reg)
{
    (void)self, (void)reg;
    return 0;
}

static inline void MK_PRINTF(5, 6) cpu_end(struct mk_cpu *self, enum mk_reason reason, int64_t code,
                                           bool whole_vm, const char *fmt, ...)
{
    va_list ap;
    (void)self, (void)code;
    ends++;
    end_reason = reason;
    end_all = whole_vm;
    va_start(ap, fmt);
    vsnprintf(end_text, sizeof(end_text), fmt, ap);
    va_end(ap);
}

static inline void cpu_idle(struct mk_cpu *self, unsigned polls)
{
    (void)self, (void)polls;
}

static inline bool cpu_may_continue(struct mk_cpu *self)
{
    (void)self;
    return true;
}

static inline uint64_t cpu_output_left(struct mk_cpu *self)
{
    (void)self;
    return UINT64_MAX;
}

static const struct mk_cpu_ops cpu_ops = {
    cpu_reg, cpu_end, cpu_idle, cpu_may_continue, cpu_output_left,
};
static struct mk_cpu cpu = { .ops = &cpu_ops };

static inline void count_rise(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static inline void pic_acked(void *ctx, unsigned line)
{
    acks++;
    acked_line = line;
    mk_pit_on_ack(ctx, line);
}

static inline uint8_t in8(uint16_t port)
{
    return (uint8_t)mk_bus_in(&bus, &cpu, port, 1, NULL);
}

static inline void out8(uint16_t port, unsigned value)
{
    mk_bus_out(&bus, &cpu, port, 1, value, NULL);
}

static inline void machine_on(void)
{
    int_rises = 0;
    ends = acks = 0;
    struct mk_bus *const buses[MK_SPACES] = { &bus };
    struct mk_err err;
    mk_bus_init(&bus, MK_SPACE_PORTS);
    mk_clock_init(&vm_clock);
    mk_clock_set(&vm_clock, SECOND);
    mk_devs_add(&devices, mk_pic_init(&pic), &mk_pic_dev);
    mk_devs_add(&devices, mk_pit_init(&pit, &vm_clock, mk_pic_line(&pic, 0)), &mk_pit_dev);
    mk_devs_add(&devices, mk_i8042_init(&kbd, mk_pic_line(&pic, 1), mk_pic_line(&pic, 12)),
                &mk_i8042_dev);
    pic.on_int = count_rise;
    pic.int_ctx = &int_rises;
    pic.on_ack = pic_acked;
    pic.ack_ctx = &pit;
    pit.masked = mk_pic_masked;
    pit.masked_ctx = &pic;
    if (mk_devs_attach(&devices, buses, &err) < 0)
        abort();
}

static inline void machine_off(void)
{
    mk_bus_free(&bus);
    mk_devs_free(&devices);
    mk_clock_free(&vm_clock);
}

/* The states of all devices, to be freed with mk_bytes_free(). */
static inline struct mk_bytes save(void)
{
    struct mk_bytes state = { 0 };
    if (mk_devs_save(&devices, mk_clock_now(&vm_clock), &state, NULL) < 0)
        abort();
    return state;
}

static inline int load(const struct mk_bytes *state, struct mk_err *err)
{
    return mk_devs_load(&devices, mk_clock_now(&vm_clock), state, MK_LOAD_ALL, err);
}

/* Loads the state that a device has in `damaged`, a copy of it. */
static inline int load_damaged(void *device, void *damaged, struct mk_err *err)
{
    const struct mk_dev_ops *ops = ((struct mk_dev *)device)->ops;
    struct mk_bytes bytes = { 0 };
    struct mk_codec out = { .out = &bytes, .now = mk_clock_now(&vm_clock) };
    mk_codec_fields(&out, ops->fields, damaged);
    struct mk_codec in = { .in = { .at = bytes.data, .left = bytes.length },
                           .now = out.now,
                           .err = err };
    mk_codec_fields(&in, ops->fields, device);
    bool fine = !mk_codec_failed(&in) && (!ops->valid || ops->valid(device));
    if (fine)
        ops->after_load(device);
    mk_bytes_free(&bytes);
    return fine ? 0 : -1;
}

static inline uint64_t now(void)
{
    return mk_clock_now(&vm_clock);
}

static inline void pass(uint64_t ns)
{
    mk_clock_set(&vm_clock, now() + ns);
}

static inline uint64_t next_due(void)
{
    return vm_clock.first ? vm_clock.first->at : UINT64_MAX;
}

/* Time passes; what is due fires when it is due. */
static inline void advance(uint64_t ns)
{
    uint64_t until = now() + ns;
    while (next_due() <= until) {
        if (next_due() > now())
            mk_clock_set(&vm_clock, next_due());
        mk_clock_run(&vm_clock);
    }
    mk_clock_set(&vm_clock, until);
}

/* So many input clocks of the 8254, and a little, so that rounding cannot matter. */
static inline void clocks(uint64_t n)
{
    advance((n * SECOND + MK_PIT_HZ - 1) / MK_PIT_HZ + 1);
}

/* The vCPU takes an interrupt if there is one; -1: none. */
static inline int take(void)
{
    return pic.intr ? mk_pic_ack(&pic) : -1;
}

static inline void pic_program(unsigned icw1, unsigned icw4)
{
    out8(0x20, icw1);
    out8(0x21, BASE1);
    out8(0x21, 0x04);
    out8(0x21, icw4);
    out8(0xa0, icw1);
    out8(0xa1, BASE2);
    out8(0xa1, 0x02);
    out8(0xa1, 0x01);
}

static inline void pic_start(void)
{
    machine_on();
    pic_program(0x11, 0x01);
}

/* A guest that takes every interrupt at once. Returns how many it took. */
static inline unsigned serve(void)
{
    unsigned n = 0;
    for (int vector; n < 100000 && (vector = take()) >= 0; n++) {
        if (vector != BASE1)
            return 0;
        out8(0x20, EOI);
    }
    return n;
}

static inline void raise(unsigned line)
{
    mk_pic_set_line(&pic, line, true);
}

static inline void lower(unsigned line)
{
    mk_pic_set_line(&pic, line, false);
}

static inline uint8_t read_irr(uint16_t port)
{
    out8(port, 0x0a);
    return in8(port);
}

static inline uint8_t read_isr(uint16_t port)
{
    out8(port, 0x0b);
    return in8(port);
}

#endif
