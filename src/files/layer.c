/* layer.c - see layer.h. Nodes have 64 children; the path to a block is its number, six bits a
 * level. */
#include "files/layer.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BITS 6u
#define CHILDREN (1u << BITS)

/* A node of level 0 is a block. */
struct mk_layer_node {
    _Atomic unsigned users;
    union {
        struct mk_layer_node *child[CHILDREN];
        uint8_t bytes[MK_LAYER_BLOCK];
    };
};

static size_t size_of(unsigned level)
{
    size_t head = offsetof(struct mk_layer_node, bytes);
    return head + (level ? CHILDREN * sizeof(struct mk_layer_node *) : MK_LAYER_BLOCK);
}

static struct mk_layer_node *new_node(unsigned level)
{
    struct mk_layer_node *node = calloc(1, size_of(level));
    if (node)
        node->users = 1;
    return node;
}

static void drop_node(struct mk_layer_node *node, unsigned level)
{
    if (!node || atomic_fetch_sub(&node->users, 1) != 1)
        return;
    for (unsigned i = 0; level && i < CHILDREN; i++)
        drop_node(node->child[i], level - 1);
    free(node);
}

static struct mk_layer_node *copy_node(const struct mk_layer_node *from, unsigned level)
{
    struct mk_layer_node *node = new_node(level);
    if (!node)
        return NULL;
    memcpy(node->bytes, from->bytes, size_of(level) - offsetof(struct mk_layer_node, bytes));
    for (unsigned i = 0; level && i < CHILDREN; i++)
        if (node->child[i])
            atomic_fetch_add(&node->child[i]->users, 1);
    return node;
}

struct mk_layer *mk_layer_new(uint64_t blocks)
{
    struct mk_layer *layer = calloc(1, sizeof(*layer));
    if (!layer)
        return NULL;
    layer->users = 1;
    layer->blocks = blocks;
    for (layer->levels = 1; blocks > CHILDREN; blocks = (blocks - 1) / CHILDREN + 1)
        layer->levels++;
    return layer;
}

struct mk_layer *mk_layer_ref(struct mk_layer *layer)
{
    atomic_fetch_add(&layer->users, 1);
    return layer;
}

void mk_layer_unref(struct mk_layer *layer)
{
    if (!layer || atomic_fetch_sub(&layer->users, 1) != 1)
        return;
    drop_node(layer->top, layer->levels);
    free(layer);
}

static unsigned index_at(uint64_t block, unsigned level)
{
    return block >> BITS * (level - 1) & (CHILDREN - 1);
}

const uint8_t *mk_layer_find(const struct mk_layer *layer, uint64_t block)
{
    const struct mk_layer_node *node = layer->top;
    for (unsigned level = layer->levels; node && level; level--)
        node = node->child[index_at(block, level)];
    return node ? node->bytes : NULL;
}

/* A layer of the caller's own. */
static struct mk_layer *unshare(struct mk_layer **layer)
{
    if (atomic_load(&(*layer)->users) == 1)
        return *layer;
    struct mk_layer *own = mk_layer_new((*layer)->blocks);
    if (!own)
        return NULL;
    own->top = (*layer)->top;
    own->count = (*layer)->count;
    if (own->top)
        atomic_fetch_add(&own->top->users, 1);
    mk_layer_unref(*layer);
    *layer = own;
    return own;
}

/* Makes the node at *place there, and nobody else's. */
static struct mk_layer_node *own_node(struct mk_layer_node **place, unsigned level)
{
    struct mk_layer_node *node = *place;
    if (node && atomic_load(&node->users) == 1)
        return node;
    struct mk_layer_node *own = node ? copy_node(node, level) : new_node(level);
    if (!own)
        return NULL;
    drop_node(node, level);
    *place = own;
    return own;
}

/* Where the block hangs, in nodes that are nobody else's; NULL when memory ran out: nodes without a
 * block change nothing. */
static struct mk_layer_node **own_place(struct mk_layer *own, uint64_t block)
{
    struct mk_layer_node **place = &own->top;
    for (unsigned level = own->levels; level; level--) {
        struct mk_layer_node *node = own_node(place, level);
        if (!node)
            return NULL;
        place = &node->child[index_at(block, level)];
    }
    return place;
}

uint8_t *mk_layer_edit(struct mk_layer **layer, uint64_t block)
{
    struct mk_layer *own = unshare(layer);
    struct mk_layer_node **place = own ? own_place(own, block) : NULL;
    bool fresh = place && !*place;
    struct mk_layer_node *leaf = place ? own_node(place, 0) : NULL;
    if (!leaf)
        return NULL;
    own->count += fresh;
    return leaf->bytes;
}

bool mk_layer_drop(struct mk_layer **layer, uint64_t block)
{
    if (!mk_layer_find(*layer, block))
        return true;
    struct mk_layer *own = unshare(layer);
    struct mk_layer_node **place = own ? own_place(own, block) : NULL;
    if (!place)
        return false;
    drop_node(*place, 0);
    *place = NULL;
    own->count--;
    return true;
}

static bool next_below(const struct mk_layer_node *node, unsigned level, uint64_t *block)
{
    if (!node || level == 0)
        return node != NULL;
    uint64_t span = UINT64_C(1) << BITS * (level - 1);
    for (unsigned i = index_at(*block, level); i < CHILDREN; i++) {
        uint64_t next = (*block / span + 1) * span; /* the first of the next child's */
        if (next_below(node->child[i], level - 1, block))
            return true;
        *block = next;
    }
    return false;
}

bool mk_layer_next(const struct mk_layer *layer, uint64_t *block)
{
    return *block < layer->blocks && next_below(layer->top, layer->levels, block);
}
