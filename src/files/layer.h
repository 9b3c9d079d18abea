/* layer.h - blocks that were written over something else, such as a disk image: sparse, in memory,
 * shared by snapshots and forks.
 *
 * A tree of nodes that count their users. Holding a layer takes no copy; who then writes copies the
 * nodes from the top to the one block. So a snapshot of a layer costs nothing, and what follows it
 * costs what is written. A layer that has several users is not changed any more, and may be read by
 * any thread; one with a single user belongs to that one. */
#ifndef MK_LAYER_H
#define MK_LAYER_H

#include "base/util.h"

#define MK_LAYER_BLOCK 4096u
#define MK_LAYER_BLOCKS_MAX (UINT64_C(1) << 51) /* of 4096 bytes: as far as offsets of files go */

struct mk_layer_node;

struct mk_layer {
    _Atomic unsigned users;
    unsigned levels;           /* of nodes above the blocks */
    uint64_t blocks;           /* there may be */
    uint64_t count;            /* there are */
    struct mk_layer_node *top; /* NULL: none is there */
};

/* Empty, for so many blocks, with one user; NULL when memory ran out. */
struct mk_layer *mk_layer_new(uint64_t blocks);
struct mk_layer *mk_layer_ref(struct mk_layer *layer);
void mk_layer_unref(struct mk_layer *layer); /* NULL is fine */

/* The bytes of a block; NULL: it was not written. */
const uint8_t *mk_layer_find(const struct mk_layer *layer, uint64_t block);
/* The same to write to, zeros when it is new. *layer is replaced when others use it, too. NULL when
 * memory ran out; then nothing has changed. */
uint8_t *mk_layer_edit(struct mk_layer **layer, uint64_t block);
/* The block is not there any more. False when memory ran out; then nothing has changed. */
bool mk_layer_drop(struct mk_layer **layer, uint64_t block);
/* The first block that is there from *block on; false: none. */
bool mk_layer_next(const struct mk_layer *layer, uint64_t *block);

#endif
