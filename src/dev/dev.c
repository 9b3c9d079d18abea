/* dev.c - what is done with all devices of a VM. See dev.h.
 *
 * In a snapshot each device has a section: length of its name (u8), name, length of its state
 * (u64), state. */
#include "dev/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void mk_devs_add(struct mk_devs *list, struct mk_dev *dev, const struct mk_dev_ops *ops)
{
    if (!dev) {
        list->failed = true;
        return;
    }
    *dev = (struct mk_dev){ .ops = ops, .previous = list->last };
    pthread_mutex_init(&dev->lock, NULL);
    *(list->last ? &list->last->next : &list->first) = dev;
    list->last = dev;
}

static bool attach(struct mk_dev *dev, struct mk_bus *const bus[MK_SPACES])
{
    for (unsigned i = 0; i < MK_RANGES && dev->ops->ranges[i].io; i++) {
        const struct mk_dev_range *r = &dev->ops->ranges[i];
        if (!mk_bus_hook(bus[r->space], r->first, r->last, r->io, dev, NULL))
            return false;
    }
    return true;
}

int mk_devs_attach(const struct mk_devs *list, struct mk_bus *const bus[MK_SPACES],
                   struct mk_err *err)
{
    bool ok = !list->failed;
    for (struct mk_dev *d = list->first; d && ok; d = d->next)
        ok = attach(d, bus);
    return ok ? 0 : mk_fail_errno(err, ENOMEM, "devices");
}

int mk_devs_grow(const struct mk_devs *list, unsigned cpus, struct mk_err *err)
{
    bool ok = true;
    for (struct mk_dev *d = list->first; d && ok; d = d->next)
        ok = !d->ops->grow || d->ops->grow(d, cpus);
    return ok ? 0 : mk_fail_errno(err, ENOMEM, "devices of %u vCPUs", cpus);
}

bool mk_grow_cpus(void *array, size_t size, unsigned *count, unsigned cpus)
{
    uint8_t **at = array;
    if (cpus <= *count)
        return true;
    uint8_t *more = realloc(*at, cpus * size);
    if (!more)
        return false;
    memset(more + *count * size, 0, (cpus - *count) * size);
    *at = more;
    *count = cpus;
    return true;
}

void mk_devs_reset(const struct mk_devs *list)
{
    for (struct mk_dev *d = list->first; d; d = d->next)
        if (d->ops->reset)
            d->ops->reset(d);
}

void mk_devs_free(struct mk_devs *list)
{
    for (struct mk_dev *d = list->last, *previous; d; d = previous) {
        previous = d->previous;
        pthread_mutex_destroy(&d->lock);
        if (d->ops->free)
            d->ops->free(d);
    }
    *list = (struct mk_devs){ 0 };
}

static void code(void *self, struct mk_codec *k)
{
    struct mk_dev *dev = self;
    if (dev->ops->fields)
        mk_codec_fields(k, dev->ops->fields, dev);
    if (!k->out && !mk_codec_failed(k) && dev->ops->valid)
        mk_codec_check(k, dev->ops->valid(dev));
    if (dev->ops->code)
        dev->ops->code(dev, k);
}

static void save(struct mk_dev *dev, struct mk_codec *k)
{
    const char *name = dev->ops->name;
    mk_bytes_u8(k->out, (uint8_t)strlen(name));
    mk_bytes_add(k->out, name, strlen(name));
    mk_codec_part(k, code, dev);
}

int mk_devs_save(const struct mk_devs *list, uint64_t now, struct mk_bytes *out, struct mk_err *err)
{
    struct mk_codec k = { .out = out, .now = now, .err = err };
    for (struct mk_dev *d = list->first; d; d = d->next)
        if (d->ops->before_save)
            d->ops->before_save(d);
    for (struct mk_dev *d = list->first; d && !mk_codec_failed(&k); d = d->next)
        save(d, &k);
    mk_codec_check_memory(&k, !out->failed);
    return k.bad ? -1 : 0;
}

/* The section is this device's, and nothing but its state. */
static void load(struct mk_dev *dev, struct mk_codec *k, enum mk_load how)
{
    size_t length = mk_reader_u8(&k->in);
    const void *name = mk_reader_bytes(&k->in, length);
    bool wanted = how != MK_LOAD_HOOKS || dev->ops->hooks;
    mk_codec_check(k, name && length == strlen(dev->ops->name) &&
                          !memcmp(name, dev->ops->name, length));
    if (!k->bad)
        mk_codec_part(k, wanted ? code : NULL, dev);
    if (wanted && !k->bad && !k->check && dev->ops->after_load)
        dev->ops->after_load(dev);
}

int mk_devs_load(const struct mk_devs *list, uint64_t now, const struct mk_bytes *from,
                 enum mk_load how, struct mk_err *err)
{
    struct mk_codec k = { .in = { .at = from->data, .left = from->length },
                          .now = now,
                          .err = err,
                          .check = how == MK_LOAD_CHECK };
    for (struct mk_dev *d = list->first; d && !k.bad; d = d->next)
        load(d, &k, how);
    mk_codec_check(&k, k.in.left == 0);
    return k.bad ? -1 : 0;
}
