/* blk.c - requests of virtio's block device, in buffers of any shape (src/dev/blk_request.c), and
 * what they do to a disk (src/files/disk_io.c, layer.c). The threads that take them are in the
 * machine target. */
#include "fuzz.h"

#include "dev/blk.h"

#define DISK 0x40000u

static struct mk_disk disk, small;
static struct mk_blk_request request;

static void init(void)
{
    struct mk_err err;
    fuzz_mem_open();
    const struct mk_disk_config config = { .size = DISK, .limit = DISK / 2 };
    const struct mk_disk_config odd = { .size = 3 * MK_SECTOR, .limit = MK_LAYER_BLOCK };
    fuzz_check(mk_disk_open(&disk, &config, &err) == 0);
    fuzz_check(mk_disk_open(&small, &odd, &err) == 0);
}

static bool may_continue(void *ctx)
{
    unsigned *left = ctx;
    return *left && (*left)--;
}

/* A descriptor that is near to sense: what it has of the header comes first. */
static void add_part(struct fuzz_in *in)
{
    struct mk_virtq_chain *chain = &request.chain;
    struct mk_virtq_part part = { .at = fuzz_address(in), .length = fuzz_u16(in) };
    bool write = fuzz_u8(in) & 1;
    if (write || chain->readable == chain->count) {
        if (part.length && !mk_mem_has(&fuzz_mem, part.at, part.length, write))
            return;
        chain->part[chain->count++] = part;
        chain->readable += !write;
        *(write ? &chain->write_bytes : &chain->read_bytes) += part.length;
    }
}

static void make_chain(struct fuzz_in *in, uint8_t shape)
{
    struct mk_virtq_chain *chain = &request.chain;
    chain->count = chain->readable = 0;
    chain->read_bytes = chain->write_bytes = 0;
    if (shape & 1) { /* the usual one begins with a header */
        static const uint32_t kinds[] = { 0, 1, 4, 8, 11, 13, 2, UINT32_MAX };
        uint32_t kind = kinds[fuzz_u8(in) & 7];
        uint64_t sector = shape & 2 ? fuzz_number(in, 8) : fuzz_u8(in);
        mk_mem_write(&fuzz_mem, 0x1000, &kind, sizeof(kind));
        mk_mem_write(&fuzz_mem, 0x1008, &sector, sizeof(sector));
        chain->part[chain->count++] = (struct mk_virtq_part){ 0x1000, 16 };
        chain->readable++;
        chain->read_bytes = 16;
    }
    for (unsigned n = fuzz_u8(in) % 20; n; n--)
        add_part(in);
    if (shape & 4) {
        chain->part[chain->count++] = (struct mk_virtq_part){ 0x2000, 1 };
        chain->write_bytes++;
    }
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    struct mk_err err;
    fuzz_mem_reset();
    mk_disk_reset(&disk);
    mk_disk_reset(&small);
    while (in.left) {
        unsigned trips = 8;
        uint8_t shape = fuzz_u8(&in);
        fuzz_poke(&in);
        make_chain(&in, shape);
        request.mem = &fuzz_mem;
        request.disk = shape & 8 ? &small : &disk;
        if ((shape & 0xf0) == 0xf0)
            request.disk = NULL;
        request.read_only = (shape & 0x70) == 0x10;
        request.flushes = shape & 0x80;
        request.may_continue = may_continue;
        request.ctx = &trips;
        enum mk_blk_result result = mk_blk_serve(&request, &err);
        fuzz_check(result <= MK_BLK_AGAIN);
        if (shape & 4 && result == MK_BLK_OK)
            fuzz_check(((const uint8_t *)mk_mem_at(&fuzz_mem, 0x2000, 1))[0] == 0);
        fuzz_steps++;
    }
}

FUZZ_TARGET(blk, init, one)
