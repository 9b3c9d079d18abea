/* bus_save.c - what a snapshot keeps of hooks: the contents of those that hold some (latch, fifo).
 *
 * The hooks themselves are the script's. Contents go back to the hook of the same kind at the same
 * addresses; of several such, in their order. Used while no vCPU runs. */
#include "codec/bytes.h"
#include "dev/bus.h"

#include <string.h>

static bool keeps(const struct mk_hook *h)
{
    return h->ops->save && h->ops->load;
}

static bool alike(const struct mk_hook *a, const struct mk_hook *b)
{
    return a->ops == b->ops && a->first == b->first && a->last == b->last;
}

/* How many hooks like this one come before it. */
static unsigned rank(const struct mk_bus *bus, const struct mk_hook *hook)
{
    unsigned n = 0;
    for (const struct mk_hook *h = bus->hooks; h != hook; h = h->link)
        n += alike(h, hook);
    return n;
}

struct entry {
    char kind[16]; /* name of the ops */
    uint64_t first, last;
    uint32_t rank;
    uint64_t length;
};

static struct entry entry_of(const struct mk_bus *bus, const struct mk_hook *h)
{
    struct entry e;
    memset(&e, 0, sizeof(e)); /* between its fields, too */
    strncpy(e.kind, h->ops->name, sizeof(e.kind) - 1);
    e.first = h->first;
    e.last = h->last;
    e.rank = rank(bus, h);
    return e;
}

static void save(struct mk_bus *bus, struct mk_bytes *out)
{
    pthread_mutex_lock(&mk_bus_root(bus)->lock);
    for (const struct mk_hook *h = bus->hooks; h; h = h->link) {
        if (!keeps(h))
            continue;
        struct entry e = entry_of(bus, h);
        size_t at = out->length;
        mk_bytes_add(out, &e, sizeof(e));
        h->ops->save(h->self, out);
        mk_bytes_put_u64(out, at + offsetof(struct entry, length), out->length - at - sizeof(e));
    }
    pthread_mutex_unlock(&mk_bus_root(bus)->lock);
}

static void load_one(struct mk_bus *bus, struct entry *e, const uint8_t *bytes)
{
    uint64_t length = e->length;
    e->length = 0;
    for (const struct mk_hook *h = bus->hooks; h; h = h->link) {
        struct entry mine;
        if (keeps(h) && h->first == e->first && h->last == e->last) {
            mine = entry_of(bus, h);
            if (memcmp(&mine, e, sizeof(mine)) == 0)
                h->ops->load(h->self, bytes, (size_t)length);
        }
    }
}

static void load(struct mk_bus *bus, struct mk_reader *in, bool check)
{
    struct entry e;
    pthread_mutex_lock(&mk_bus_root(bus)->lock);
    while (in->left && !in->failed) {
        mk_reader_get(in, &e, sizeof(e));
        const uint8_t *contents = mk_reader_bytes(in, e.length);
        if (contents && !check)
            load_one(bus, &e, contents);
    }
    pthread_mutex_unlock(&mk_bus_root(bus)->lock);
}

static void code(void *self, struct mk_codec *k)
{
    if (k->out)
        save(self, k->out);
    else
        load(self, &k->in, k->check);
    mk_codec_check(k, !k->in.failed);
}

const struct mk_dev_ops mk_bus_dev = {
    .name = "hooks", .code = code, .hooks = true, .reset = mk_bus_reset, .free = mk_bus_free
};
