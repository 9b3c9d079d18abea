/* file.c - a snapshot as a file.
 *
 *   0  8 bytes    magic
 *   8  u32        version
 *  12  u32        CRC-32 of all from 24 on
 *  16  u64        length of the file
 *  24  u64        bytes of RAM and ROM
 *  32  u64 + ...  length of shape and state, and these (code.c)
 *      u64, u64 + pages   runs of pages that are not all zero: first page, count, contents; until
 *                         a run of no pages, at page 0
 *
 * It is written by outfile.c, so a regular file is complete or not there. It is read in one pass,
 * and used after its checksum was found right; still nothing in it is trusted. */
#include "files/outfile.h"
#include "snapshot/copy.h"
#include "snapshot/snapshot.h"

#include "io/rw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define CHECKED_FROM 24
#define CHUNK_PAGES 64u
#define HOLES_MAX (16u << 20)

static const char magic[8] = "\x89MKSNAP\n";

typedef unsigned long long ull;

/* --- writing --- */

struct output {
    struct mk_outfile file; /* fd -1: only length and checksum are wanted */
    uint64_t at, limit;
    uint32_t crc;
    int error; /* the first errno */
};

static void put(struct output *o, const void *bytes, size_t length)
{
    if (!o->error && length > o->limit - o->at)
        o->error = EFBIG; /* writing it would end the process */
    if (!o->error && o->file.fd >= 0)
        o->error = mk_outfile_write(&o->file, bytes, length);
    if (o->error)
        return;
    if (o->at >= CHECKED_FROM)
        o->crc = (uint32_t)crc32_z(o->crc, bytes, length);
    o->at += length;
}

static void put_u64(struct output *o, uint64_t value)
{
    put(o, &value, sizeof(value));
}

/* One run of pages, gathered: changed ones lie elsewhere than their neighbours. */
static void put_run(struct output *o, const struct mk_snapshot *snap, uint64_t first,
                    uint64_t count, size_t *next)
{
    put_u64(o, first);
    put_u64(o, count);
    for (uint64_t i = first; i < first + count; i++)
        put(o, mk_snapshot_page(snap, i, next), MK_PAGE);
}

/* Whether a page may be other than zero; asked of one after the other. The copy's holes are not
 * read: that would take memory for them. */
static bool may_hold(const struct mk_snapshot *snap, uint64_t page, off_t *data, off_t *end)
{
    off_t at = (off_t)(page * MK_PAGE);
    if (snap->changed && snap->changed[page / 64] >> page % 64 & 1)
        return true;
    if (at >= *end) {
        *data = at;
        if (!mk_extent_next(snap->ram->fd, (off_t)snap->ram->size, data, end))
            *data = *end = INT64_MAX;
    }
    return at + MK_PAGE > *data;
}

static void put_ram(struct output *o, const struct mk_snapshot *snap)
{
    off_t data = 0, end = 0;
    uint64_t pages = snap->ram->size / MK_PAGE, first = 0;
    size_t next = 0, look = 0; /* `look` runs ahead */
    for (uint64_t i = 0; i < pages && !o->error; i++)
        if (!may_hold(snap, i, &data, &end) ||
            mk_is_zero(mk_snapshot_page(snap, i, &look), MK_PAGE)) {
            if (i > first)
                put_run(o, snap, first, i - first, &next);
            next = look;
            first = i + 1;
        }
    if (pages > first)
        put_run(o, snap, first, pages - first, &next);
    put_u64(o, 0);
    put_u64(o, 0);
}

/* Each layer: how many blocks there may be, then those that are there, their numbers from 1. */
static void put_layers(struct output *o, const struct mk_snapshot *snap)
{
    put_u64(o, snap->layer_count);
    for (unsigned i = 0; i < snap->layer_count; i++) {
        const struct mk_layer *layer = snap->layers[i];
        put_u64(o, layer->blocks);
        for (uint64_t block = 0; mk_layer_next(layer, &block) && !o->error; block++) {
            put_u64(o, block + 1);
            put(o, mk_layer_find(layer, block), MK_LAYER_BLOCK);
        }
        put_u64(o, 0);
    }
}

/* Length and checksum are zeros where patch_head() replaces them. */
static void put_all(struct output *o, const struct mk_snapshot *snap, const struct mk_bytes *state,
                    uint64_t length, uint32_t crc)
{
    uint32_t version[2] = { MK_SNAPSHOT_VERSION, crc };
    put(o, magic, sizeof(magic));
    put(o, version, sizeof(version));
    put_u64(o, length);
    put_u64(o, snap->ram->size);
    put_u64(o, state->length);
    put(o, state->data, state->length);
    put_ram(o, snap);
    put_layers(o, snap);
}

/* Length and checksum are known at the end. */
static void patch_head(struct output *o)
{
    uint64_t length = o->at;
    if (!o->error && (mk_write_at(o->file.fd, &o->crc, sizeof(o->crc), 12) < 0 ||
                      mk_write_at(o->file.fd, &length, sizeof(length), 16) < 0))
        o->error = errno;
}

/* What cannot seek (a pipe) gets a head that was made by writing nowhere before. */
static int write_file(const struct mk_snapshot *snap, const struct mk_bytes *state,
                      const char *path, struct mk_err *err)
{
    struct output o = { .limit = mk_file_limit() };
    struct output nowhere = { .file = { .fd = -1 }, .limit = UINT64_MAX };
    if (mk_outfile_open(&o.file, path, err) < 0)
        return -1;
    if (!o.file.seekable)
        put_all(&nowhere, snap, state, 0, 0);
    put_all(&o, snap, state, nowhere.at, nowhere.crc);
    if (o.file.seekable)
        patch_head(&o);
    int code = mk_outfile_close(&o.file, o.error);
    return code ? mk_fail_errno(err, code, "%s", path) : 0;
}

int mk_snapshot_save(const struct mk_snapshot *snap, const char *path, struct mk_err *err)
{
    struct mk_bytes state = { 0 };
    int rc = mk_state_encode(snap, &state) ? write_file(snap, &state, path, err)
                                           : mk_fail_errno(err, ENOMEM, "%s", path);
    mk_bytes_free(&state);
    return rc;
}

/* --- reading --- */

struct input {
    int fd;
    const char *path;
    uint64_t size, at;
    uint32_t crc;
    struct mk_err *err;
};

static int damaged(struct input *in, const char *how)
{
    return mk_fail(in->err, EBADMSG, "%s: the snapshot is damaged: %s", in->path, how);
}

static int get(struct input *in, void *to, uint64_t length)
{
    if (length > in->size - in->at)
        return damaged(in, "it ends too early");
    ssize_t n = mk_read_at(in->fd, to, length, (off_t)in->at);
    if (n < 0)
        return mk_fail_errno(in->err, errno, "%s", in->path);
    if ((uint64_t)n < length)
        return damaged(in, "it ends too early");
    if (in->at >= CHECKED_FROM)
        in->crc = (uint32_t)crc32_z(in->crc, to, length);
    in->at += length;
    return 0;
}

/* Who it is of, before anything is made of it. */
static int get_head(struct input *in, uint32_t *crc, uint64_t *memory)
{
    struct {
        char magic[8];
        uint32_t version, crc;
        uint64_t length;
    } head;
    if (in->size < sizeof(head) || get(in, &head, sizeof(head)) < 0 ||
        memcmp(head.magic, magic, sizeof(magic)) != 0)
        return mk_fail(in->err, EINVAL, "%s: not a snapshot of minikvm", in->path);
    if (head.version != MK_SNAPSHOT_VERSION)
        return mk_fail(in->err, ENOTSUP,
                       "%s: a snapshot of version %u: this minikvm reads version "
                       "%u",
                       in->path, head.version, MK_SNAPSHOT_VERSION);
    if (head.length != in->size)
        return mk_fail(in->err, EBADMSG, "%s: the snapshot is truncated: %llu bytes of %llu",
                       in->path, (ull)in->size, (ull)head.length);
    if (get(in, memory, sizeof(*memory)) < 0)
        return -1;
    if (*memory == 0 || *memory % MK_PAGE || *memory > 2 * MK_MEM_MAX)
        return damaged(in, "no VM has so much memory");
    *crc = head.crc;
    return 0;
}

static int get_state(struct input *in, struct mk_bytes *state)
{
    uint64_t length;
    if (get(in, &length, sizeof(length)) < 0)
        return -1;
    if (length > in->size - in->at)
        return damaged(in, "it ends too early");
    state->data = malloc(length + 1);
    state->length = length;
    return state->data ? get(in, state->data, length)
                       : mk_fail_errno(in->err, ENOMEM, "%s", in->path);
}

static int get_pages(struct input *in, struct mk_ram *ram, uint8_t *chunk, uint64_t first,
                     uint64_t count)
{
    while (count) {
        uint64_t n = count < CHUNK_PAGES ? count : CHUNK_PAGES;
        if (get(in, chunk, n * MK_PAGE) < 0)
            return -1;
        if (mk_ram_fill(ram, first * MK_PAGE, chunk, n * MK_PAGE) < 0)
            return mk_fail_errno(in->err, errno, "%s: memory for its RAM", in->path);
        first += n;
        count -= n;
    }
    return 0;
}

static int get_runs(struct input *in, struct mk_ram *ram, uint8_t *chunk)
{
    uint64_t run[2], pages = ram->size / MK_PAGE, from = 0;
    for (;;) {
        if (get(in, run, sizeof(run)) < 0)
            return -1;
        if (run[1] == 0)
            return 0;
        if (run[0] < from || !mk_inside(run[0], run[1], pages))
            return damaged(in, "pages outside its memory");
        if (get_pages(in, ram, chunk, run[0], run[1]) < 0)
            return -1;
        from = run[0] + run[1];
    }
}

static int get_ram(struct input *in, struct mk_ram *ram)
{
    uint8_t *chunk = malloc(CHUNK_PAGES * MK_PAGE);
    int rc = chunk ? get_runs(in, ram, chunk) : mk_fail_errno(in->err, ENOMEM, "%s", in->path);
    free(chunk);
    return rc;
}

static int get_layer(struct input *in, struct mk_layer **layer)
{
    uint64_t blocks, number, from = 0;
    if (get(in, &blocks, sizeof(blocks)) < 0)
        return -1;
    if (blocks == 0 || blocks > MK_LAYER_BLOCKS_MAX)
        return damaged(in, "no disk has so many blocks");
    *layer = mk_layer_new(blocks);
    while (*layer) {
        if (get(in, &number, sizeof(number)) < 0)
            return -1;
        if (number == 0)
            return 0;
        if (number <= from || number > blocks)
            return damaged(in, "blocks outside a disk");
        uint8_t *to = mk_layer_edit(layer, number - 1);
        if (!to)
            break;
        if (get(in, to, MK_LAYER_BLOCK) < 0)
            return -1;
        from = number;
    }
    return mk_fail_errno(in->err, ENOMEM, "%s: what its disks hold", in->path);
}

static int get_layers(struct input *in, struct mk_snapshot *snap)
{
    uint64_t count;
    if (get(in, &count, sizeof(count)) < 0)
        return -1;
    if (count > MK_SNAPSHOT_LAYERS)
        return damaged(in, "no VM has so many disks");
    for (; count; count--)
        if (get_layer(in, &snap->layers[snap->layer_count++]) < 0)
            return -1;
    return 0;
}

/* Bytes of RAM and ROM. */
static uint64_t memory_of(const struct mk_snapshot_config *config)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < config->region_count; i++)
        bytes += config->regions[i].kind == MK_SHARED ? 0 : config->regions[i].size;
    return bytes;
}

static int decode(struct input *in, struct mk_snapshot *snap, const struct mk_bytes *state)
{
    struct mk_err why;
    struct mk_reader reader = { .at = state->data, .left = state->length };
    if (mk_state_decode(snap, &reader, &why) < 0)
        return damaged(in, why.text);
    return reader.left || memory_of(&snap->config) != snap->ram->size
               ? damaged(in, "its parts disagree")
               : 0;
}

/* A file of which most is a hole would take far more memory than it has bytes; what minikvm writes
 * has none, and copying it may make a few. */
static int check_holes(struct input *in)
{
    uint64_t data = 0;
    for (off_t at = 0, end; mk_extent_next(in->fd, (off_t)in->size, &at, &end); at = end)
        data += (uint64_t)(end - at);
    return in->size - data > data + HOLES_MAX ? damaged(in, "most of it is a hole") : 0;
}

static int get_all(struct input *in, struct mk_snapshot *snap, struct mk_bytes *state)
{
    uint32_t crc = 0;
    uint64_t memory = 0;
    if (get_head(in, &crc, &memory) < 0 || check_holes(in) < 0 || get_state(in, state) < 0)
        return -1;
    snap->ram = mk_ram_new(memory, in->err);
    if (!snap->ram || get_ram(in, snap->ram) < 0 || get_layers(in, snap) < 0)
        return -1;
    if (in->at != in->size)
        return damaged(in, "something follows it");
    if (in->crc != crc)
        return damaged(in, "its checksum is wrong");
    return decode(in, snap, state);
}

static struct mk_snapshot *read_file(struct input *in)
{
    struct stat st;
    struct mk_bytes state = { 0 };
    if (fstat(in->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        mk_fail(in->err, EINVAL, "%s: not a file", in->path);
        return NULL;
    }
    in->size = (uint64_t)st.st_size;
    struct mk_snapshot *snap = calloc(1, sizeof(*snap));
    if (!snap) {
        mk_fail_errno(in->err, ENOMEM, "%s", in->path);
        return NULL;
    }
    int rc = get_all(in, snap, &state);
    mk_bytes_free(&state);
    if (rc == 0)
        return snap;
    mk_snapshot_free(snap);
    return NULL;
}

struct mk_snapshot *mk_snapshot_load(const char *path, struct mk_err *err)
{
    struct input in = { .path = path, .err = err };
    in.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (in.fd < 0) {
        mk_fail_errno(err, errno, "%s", path);
        return NULL;
    }
    struct mk_snapshot *snap = read_file(&in);
    close(in.fd);
    return snap;
}
