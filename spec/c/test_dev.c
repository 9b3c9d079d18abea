/* test_dev.c - the device contract (src/dev/dev.h): a device of the test's own is one struct, one
 * table and one line. Prints TAP. */
#include "pc.h"

/* --- the device: a counter that interrupts when it reaches its limit --- */

struct counter {
    struct mk_dev dev;
    struct mk_irq irq;
    uint16_t count, limit;
    uint8_t *log; /* what was written */
    size_t length;
};

static uint64_t counter_in(void *self, struct mk_io *io)
{
    const struct counter *c = self;
    return io->address & 1 ? c->limit : c->count;
}

static void counter_out(void *self, struct mk_io *io, uint64_t value)
{
    struct counter *c = self;
    if (io->address & 1)
        c->limit = (uint16_t)value;
    c->log = realloc(c->log, c->length + 1);
    c->log[c->length++] = (uint8_t)value;
    mk_irq_set(&c->irq, ++c->count >= c->limit);
}

static void counter_reset(void *self)
{
    struct counter *c = self;
    c->count = c->length = 0;
    c->limit = 1000;
    mk_irq_set(&c->irq, false);
}

static void counter_loaded(void *self)
{
    struct counter *c = self;
    mk_irq_set(&c->irq, c->count >= c->limit);
}

static unsigned freed;

static void counter_free(void *self)
{
    struct counter *c = self;
    free(c->log);
    free(c);
    freed++;
}

static const struct mk_io_ops counter_io = {
    .name = "counter", .in = counter_in, .out = counter_out, .width = 2
};

static const struct mk_field counter_fields[] = {
    MK_RAW(struct counter, count),
    MK_RANGE(struct counter, limit, 1, 1000),
    MK_BLOB(struct counter, log, length, 100),
    { 0 },
};

static const struct mk_dev_ops counter_dev = {
    .name = "counter",
    .ranges = { { MK_SPACE_PORTS, 0x300, 0x301, &counter_io } },
    .fields = counter_fields,
    .after_load = counter_loaded,
    .reset = counter_reset,
    .free = counter_free,
};

static struct mk_dev *counter_new(struct mk_irq irq)
{
    struct counter *c = calloc(1, sizeof(*c));
    if (c)
        *c = (struct counter){ .irq = irq, .limit = 1000 };
    return c ? &c->dev : NULL;
}

/* --- what the list does with it --- */

static struct counter *counter_on(struct mk_devs *list, unsigned line)
{
    struct mk_bus *const buses[MK_SPACES] = { &bus };
    pic_start();
    mk_devs_add(list, counter_new(mk_pic_line(&pic, line)), &counter_dev);
    tap_is(mk_devs_attach(list, buses, NULL), 0, "attached");
    return (struct counter *)list->first;
}

static void counter_off(struct mk_devs *list)
{
    freed = 0;
    mk_devs_free(list);
    tap_is(freed, 1, "freed");
    machine_off();
}

static void test_life(void)
{
    struct mk_devs list = { 0 };
    struct mk_bytes state = { 0 };
    struct mk_err err = { 0 };
    struct counter *c = counter_on(&list, 5);
    out8(0x301, 2);
    out8(0x300, 'x');
    tap_is(take(), BASE1 + 5, "its ports and its line work");
    out8(0x20, EOI);
    mk_devs_save(&list, 0, &state, NULL);
    mk_devs_reset(&list);
    tap_ok(in8(0x300) == 0 && c->length == 0, "a reset is one");
    tap_is(mk_devs_load(&list, 0, &state, MK_LOAD_ALL, &err), 0, "what was saved loads");
    tap_ok(in8(0x300) == 2 && c->length == 2 && memcmp(c->log, "\2x", 2) == 0, "with all it had");
    tap_is(take(), BASE1 + 5, "and its line");
    out8(0x20, EOI);
    mk_devs_reset(&list);
    tap_is(mk_devs_load(&list, 0, &state, MK_LOAD_CHECK, &err), 0, "a check finds nothing wrong");
    tap_is(take(), -1, "and moves no line");
    tap_is(mk_devs_load(&list, 0, &state, MK_LOAD_HOOKS, &err), 0, "what is no hook's stays");
    mk_bytes_free(&state);
    counter_off(&list);
}

/* Every prefix, and every byte altered, is refused or loads what is in range. */
static void test_damage(void)
{
    struct mk_devs list = { 0 };
    struct mk_bytes state = { 0 };
    struct mk_err err = { 0 };
    struct counter *c = counter_on(&list, 5);
    unsigned bad = 0, wrong = 0;
    out8(0x300, 'x');
    mk_devs_save(&list, 0, &state, NULL);
    for (size_t n = 0; n < state.length; n++) {
        struct mk_bytes less = { .data = state.data, .length = n };
        bad += mk_devs_load(&list, 0, &less, MK_LOAD_CHECK, &err) < 0 && err.code == EBADMSG;
    }
    tap_is(bad, state.length, "a truncated state is refused, wherever it ends");
    for (size_t i = 0; i < 256 * state.length; i++) {
        uint8_t was = state.data[i / 256];
        state.data[i / 256] = (uint8_t)i;
        mk_devs_load(&list, 0, &state, MK_LOAD_CHECK, NULL);
        wrong += c->limit < 1 || c->limit > 1000 || c->length > 100;
        state.data[i / 256] = was;
    }
    tap_is(wrong, 0, "no byte leaves a field out of its range");
    mk_bytes_add(&state, "", 1);
    tap_is(mk_devs_load(&list, 0, &state, MK_LOAD_CHECK, &err), -1, "nothing may follow");
    tap_text(err.text, "its state is damaged", "the reason is said");
    mk_bytes_free(&state);
    counter_off(&list);
}

static void test_missing(void)
{
    struct mk_devs list = { 0 };
    struct mk_bus *const buses[MK_SPACES] = { &bus };
    struct mk_err err = { 0 };
    machine_on();
    mk_devs_add(&list, NULL, &counter_dev);
    tap_ok(mk_devs_attach(&list, buses, &err) < 0 && err.code == ENOMEM,
           "one that could not be made is told when they are attached");
    machine_off();
}

int main(void)
{
    test_life();
    test_damage();
    test_missing();
    return tap_done();
}
