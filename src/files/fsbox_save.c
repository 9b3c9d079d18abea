/* fsbox_save.c - what a snapshot keeps of a VM's files: its descriptors and their positions, and
 * the whole contents of its private directory, copies (cow) included. Holes of files stay holes.
 *
 * Files of the host's root are the host's: they are opened again by name, with the contents they
 * have then. Used by the owner of the stopped VM. */
#include "files/fsbox_in.h"

#include "io/rw.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUNS_MAX (UINT64_C(1) << 34) /* bytes */
#define BLOCK                                                                                      \
    512u /* that is left out when it is zero: a byte in a hole costs no more than that             \
          */

struct saved_file { /* of the private directory */
    char name[MK_NAME_MAX + 1];
    uint64_t length;
    struct mk_bytes runs; /* what is not zero: offset and length (u64), bytes; ascending */
};

static const struct mk_field file_fields[] = {
    MK_TEXT(struct saved_file, name),
    MK_RAW(struct saved_file, length),
    MK_BLOB(struct saved_file, runs.data, runs.length, RUNS_MAX),
    { 0 },
};

#define NODE struct mk_file_node
static const struct mk_field node_fields[] = {
    MK_TEXT(NODE, name),
    MK_FLAG(NODE, own),
    MK_FLAG(NODE, writable),
    MK_FLAG(NODE, locked),
    MK_RANGE(NODE, verdict, 0, MK_FILE_VERDICTS - 1),
    { 0 },
};

struct saved_slot {
    uint32_t node; /* MK_FILES_OPEN: the descriptor is free */
    uint32_t flags;
    int64_t at;
};

static const struct mk_field slot_fields[] = {
    MK_RANGE(struct saved_slot, node, 0, MK_FILES_OPEN),
    MK_RAW(struct saved_slot, flags),
    MK_RANGE(struct saved_slot, at, 0, INT64_MAX),
    { 0 },
};

static const struct mk_field quota_fields[] = {
    MK_RAW(struct mk_fsbox, bytes),
    MK_RAW(struct mk_fsbox, files),
    { 0 },
};

/* --- saving --- */

/* One run after the other is written; `end` is where the last one ends in the file. */
struct gather {
    struct mk_bytes *out;
    size_t head; /* of the last run */
    uint64_t end, length;
};

static void add_block(struct gather *g, const uint8_t *block, size_t length, uint64_t at)
{
    if (at != g->end || g->length == 0) {
        g->head = g->out->length;
        g->length = 0;
        mk_bytes_u64(g->out, at);
        mk_bytes_u64(g->out, 0);
    }
    mk_bytes_add(g->out, block, length);
    g->length += length;
    g->end = at + length;
    mk_bytes_put_u64(g->out, g->head + 8, g->length);
}

/* [at, end) of the file, without its blocks of zeros. */
static int read_data(int fd, struct gather *g, uint64_t at, uint64_t end)
{
    uint8_t buffer[128 * BLOCK];
    while (at < end) {
        size_t want = end - at < sizeof(buffer) ? (size_t)(end - at) : sizeof(buffer);
        ssize_t n = mk_read_at(fd, buffer, want, (off_t)at);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        for (size_t i = 0; i < (size_t)n; i += BLOCK) {
            size_t length = (size_t)n - i < BLOCK ? (size_t)n - i : BLOCK;
            if (!mk_is_zero(buffer + i, length))
                add_block(g, buffer + i, length, at + i);
        }
        at += (uint64_t)n;
    }
    return g->out->failed ? -ENOMEM : 0;
}

static int read_runs(int fd, struct saved_file *f)
{
    struct gather g = { .out = &f->runs };
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    f->length = (uint64_t)st.st_size;
    int rc = 0;
    for (off_t at = 0, end; rc == 0 && mk_extent_next(fd, st.st_size, &at, &end); at = end)
        rc = read_data(fd, &g, (uint64_t)at, (uint64_t)end);
    return rc;
}

static int save_file(struct mk_fsbox *box, const char *name, struct mk_codec *k)
{
    struct saved_file f = { 0 };
    int fd = mk_path_open(box->own, name, O_RDONLY);
    if (fd < 0)
        return fd == -EACCES ? 0 : fd; /* no regular file: not the guest's */
    strcpy(f.name, name);
    int rc = read_runs(fd, &f);
    mk_bytes_u8(k->out, true); /* another file follows */
    mk_codec_fields(k, file_fields, &f);
    mk_bytes_free(&f.runs);
    close(fd);
    return rc;
}

/* Everything below the directory `at`, whose name within the private one is `path`; one descriptor
 * a level is open, and it is taken over. */
static int save_below(struct mk_fsbox *box, int at, char *path, struct mk_codec *k)
{
    DIR *list = fdopendir(at);
    size_t length = strlen(path);
    int rc = list ? 0 : -errno;
    if (!list)
        close(at);
    for (struct dirent *e; rc == 0 && list && (e = readdir(list)); path[length] = 0) {
        size_t n = strlen(e->d_name);
        if (mk_path_check(e->d_name, n) < 0 || length + n + 1 > MK_NAME_MAX)
            continue; /* ".", "..", and what no guest can say */
        memcpy(path + length, e->d_name, n + 1);
        int below = openat(at, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below >= 0) {
            strcat(path, "/");
            rc = save_below(box, below, path, k);
        } else {
            rc = save_file(box, path, k);
        }
    }
    if (list)
        closedir(list);
    return rc;
}

static void save_open(struct mk_fsbox *box, struct mk_codec *k)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        mk_bytes_u8(k->out, box->node[i].users > 0);
        if (box->node[i].users)
            mk_codec_fields(k, node_fields, &box->node[i]);
    }
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        const struct mk_file_slot *slot = &box->slot[i];
        struct saved_slot s = { slot->node ? (uint32_t)(slot->node - box->node) : MK_FILES_OPEN,
                                slot->flags, slot->at };
        mk_codec_fields(k, slot_fields, &s);
    }
}

static void save(struct mk_fsbox *box, struct mk_codec *k)
{
    char path[MK_NAME_MAX + 2] = "";
    int rc = 0;
    if (box->own >= 0) {
        int at = openat(box->own, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rc = at < 0 ? -errno : save_below(box, at, path, k);
    }
    mk_bytes_u8(k->out, false);
    save_open(box, k);
    if (rc < 0)
        mk_fail_errno(k->err, -rc, "vm \"%s\": its private files", box->vm_name);
    k->bad |= rc < 0;
}

/* --- restoring --- */

/* The runs lie in the file, one behind the other. */
static bool valid_file(const struct saved_file *f)
{
    struct mk_reader in = { .at = f->runs.data, .left = f->runs.length };
    uint64_t end = 0;
    while (in.left && !in.failed) {
        uint64_t at = mk_reader_u64(&in), length = mk_reader_u64(&in);
        if (at < end || !mk_inside(at, length, f->length) || !mk_reader_bytes(&in, length))
            return false;
        end = at + length;
    }
    return !in.failed && mk_path_check(f->name, strlen(f->name)) == 0;
}

/* What the host has put there is the host's, and stays. */
static int write_file(struct mk_fsbox *box, const struct saved_file *f)
{
    struct mk_reader in = { .at = f->runs.data, .left = f->runs.length };
    if (f->length > box->limits.file)
        return -EFBIG;
    int fd = mk_path_create(box->own, f->name);
    if (fd == -EEXIST)
        return 0;
    int rc = fd < 0 ? fd : mk_fsbox_claim(box, f->name);
    while (rc == 0 && in.left) {
        uint64_t at = mk_reader_u64(&in), length = mk_reader_u64(&in);
        if (mk_fsbox_take(length) < length)
            rc = -ENOSPC;
        else if (mk_write_at(fd, mk_reader_bytes(&in, length), length, (off_t)at) < 0)
            rc = -errno;
    }
    if (rc == 0 && ftruncate(fd, (off_t)f->length) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    return rc;
}

static void load_files(struct mk_fsbox *box, struct mk_codec *k)
{
    int rc = 0;
    while (mk_reader_u8(&k->in) && !mk_codec_failed(k) && rc == 0) {
        struct saved_file f = { 0 };
        mk_codec_fields(k, file_fields, &f);
        mk_codec_check(k, !mk_codec_failed(k) && valid_file(&f));
        if (!k->check && !k->bad)
            rc = mk_fsbox_open_own(box);
        if (!k->check && !k->bad && rc == 0)
            rc = write_file(box, &f);
        mk_bytes_free(&f.runs);
    }
    if (rc < 0)
        mk_fail_errno(k->err, -rc, "vm \"%s\": its private files", box->vm_name);
    k->bad |= rc < 0;
}

static int open_saved(struct mk_fsbox *box, const struct mk_file_node *n)
{
    if (n->own)
        return box->own < 0 ? -ENOENT : mk_path_open(box->own, n->name, O_RDWR);
    if (!box->policy || box->policy->root < 0)
        return -EACCES;
    return mk_path_open(box->policy->root, n->name, n->writable ? O_RDWR : O_RDONLY);
}

/* A policy that is narrower than the one the file was opened under holds. */
static bool permitted(const struct mk_fsbox *box, const struct mk_file_node *n)
{
    enum mk_verdict verdict = box->policy ? mk_policy_match(box->policy, n->name) : MK_FILE_OWN;
    if (n->own)
        return verdict != MK_FILE_DENY;
    return verdict != MK_FILE_OWN && verdict >= n->verdict &&
           (!n->writable || verdict >= MK_FILE_RW);
}

/* Whatever the snapshot says: one VM at a time writes to a file that is not shared. */
static bool must_lock(const struct mk_fsbox *box, const struct mk_file_node *n)
{
    return !n->own && n->writable && mk_policy_match(box->policy, n->name) != MK_FILE_SHARED_RW;
}

static int open_node(struct mk_fsbox *box, unsigned i, const struct mk_file_node *n,
                     struct mk_err *err)
{
    struct mk_file_node *node = &box->node[i];
    int fd = permitted(box, n) ? open_saved(box, n) : -EACCES;
    bool lock = n->locked || must_lock(box, n);
    if (fd >= 0 && lock && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int code = errno;
        close(fd);
        fd = code == EWOULDBLOCK ? -EBUSY : -code;
    }
    if (fd < 0)
        return mk_fail_errno(err, -fd, "vm \"%s\": the file \"%s\" that its guest has open",
                             box->vm_name, n->name);
    *node = (struct mk_file_node){ .fd = fd,
                                   .users = 1,
                                   .own = n->own,
                                   .writable = n->writable,
                                   .locked = lock,
                                   .verdict = n->verdict };
    strcpy(node->name, n->name);
    return 0;
}

/* While they are opened each counts one user; what no descriptor uses then is closed again. */
static void load_nodes(struct mk_fsbox *box, struct mk_codec *k)
{
    for (unsigned i = 0; i < MK_FILES_OPEN && !mk_codec_failed(k); i++) {
        struct mk_file_node n = { 0 };
        if (!mk_reader_u8(&k->in))
            continue;
        mk_codec_fields(k, node_fields, &n);
        mk_codec_check(k, mk_path_check(n.name, strlen(n.name)) == 0);
        if (!k->check && !mk_codec_failed(k))
            k->bad |= open_node(box, i, &n, k->err) < 0;
    }
}

static void load_slots(struct mk_fsbox *box, struct mk_codec *k)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        struct saved_slot s = { .node = MK_FILES_OPEN };
        mk_codec_fields(k, slot_fields, &s);
        if (mk_codec_failed(k) || s.node == MK_FILES_OPEN || !box->node[s.node].users)
            continue;
        box->slot[i] = (struct mk_file_slot){ &box->node[s.node], s.flags, s.at };
        box->node[s.node].users++;
    }
}

static void load(struct mk_fsbox *box, struct mk_codec *k)
{
    mk_fsbox_close_all(box);
    mk_fsbox_empty_own(box);
    load_files(box, k);
    load_nodes(box, k);
    load_slots(box, k);
    for (unsigned i = 0; i < MK_FILES_OPEN; i++)
        if (box->node[i].users)
            mk_fsbox_close_node(&box->node[i]);
}

void mk_fsbox_code(struct mk_fsbox *box, struct mk_codec *k)
{
    pthread_mutex_lock(&box->lock);
    if (k->out)
        save(box, k);
    else
        load(box, k);
    mk_codec_fields(k, quota_fields, box);
    pthread_mutex_unlock(&box->lock);
}
