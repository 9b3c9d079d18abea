/* test_layer.c - layers of a disk (src/files/layer.h) against a plain array, with copies held and
 * written to in random order. Prints TAP. */
#include "files/layer.h"
#include "tap.h"

#include <stdlib.h>

#define BLOCKS 5000u /* three levels of nodes */
#define COPIES 6u

static uint8_t model[COPIES][BLOCKS]; /* the first byte of each block; 0: it is not there */

static bool same(const struct mk_layer *layer, const uint8_t *want)
{
    uint64_t count = 0, at = 0;
    for (uint64_t i = 0; i < BLOCKS; i++) {
        const uint8_t *block = mk_layer_find(layer, i);
        if ((block ? block[0] : 0) != want[i] || (block && block[MK_LAYER_BLOCK - 1] != want[i]))
            return false;
        count += want[i] != 0;
        if (want[i] && (!mk_layer_next(layer, &at) || at++ != i))
            return false;
    }
    return !mk_layer_next(layer, &at) && layer->count == count;
}

static void test_random(unsigned steps)
{
    struct mk_layer *layer[COPIES];
    bool right = true;
    for (unsigned i = 0; i < COPIES; i++)
        layer[i] = mk_layer_new(BLOCKS);
    for (unsigned step = 0; step < steps && right; step++) {
        unsigned i = (unsigned)random() % COPIES, from = (unsigned)random() % COPIES;
        uint64_t block = (uint64_t)random() % BLOCKS;
        if (random() % 8 == 0 && i != from) { /* i becomes what `from` is */
            mk_layer_unref(layer[i]);
            layer[i] = mk_layer_ref(layer[from]);
            memcpy(model[i], model[from], BLOCKS);
        }
        uint8_t value = (uint8_t)(1 + random() % 255);
        if (random() % 4 == 0) {
            right = right && mk_layer_drop(&layer[i], block);
            value = 0;
        } else {
            memset(mk_layer_edit(&layer[i], block), value, MK_LAYER_BLOCK);
        }
        model[i][block] = value;
        if (step % 64 == 0)
            for (unsigned j = 0; j < COPIES; j++)
                right = right && same(layer[j], model[j]);
    }
    tap_ok(right, "copies have what was written to them, and nothing of the others");
    for (unsigned i = 0; i < COPIES; i++)
        mk_layer_unref(layer[i]);
}

static void test_sizes(void)
{
    static const uint64_t sizes[] = {
        1, 64, 65, 4096, 4097, UINT64_C(1) << 32, MK_LAYER_BLOCKS_MAX
    };
    for (size_t i = 0; i < MK_COUNT(sizes); i++) {
        struct mk_layer *layer = mk_layer_new(sizes[i]);
        uint64_t at = 0;
        bool empty = !mk_layer_next(layer, &at) && !mk_layer_find(layer, sizes[i] - 1);
        mk_layer_edit(&layer, sizes[i] - 1)[0] = 7;
        at = 0;
        tap_ok(empty && mk_layer_next(layer, &at) && at == sizes[i] - 1 &&
                   mk_layer_find(layer, at)[0] == 7 && layer->count == 1,
               "the last block of a disk of any size");
        mk_layer_unref(layer);
    }
}

int main(int argc, char **argv)
{
    srandom(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
    test_sizes();
    test_random(argc > 1 ? (unsigned)atoi(argv[1]) : 4000);
    return tap_done();
}
