/* fsbox_save.c - what a snapshot keeps of a VM's files: its descriptors and their positions, and the
 * whole contents of its private directory, copies (cow) included. Holes of files stay holes.
 *
 * Files of the host's root are the host's: they are opened again by name, with the contents they
 * have then. Used by the owner of the stopped VM. */
#include "files/fsbox_in.h"

#include "files/extent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 512u /* that is left out when it is zero: a byte in a hole costs no more than that */

/* --- saving --- */

static struct mk_saved_file *new_saved(struct mk_fsbox_state *state)
{
    struct mk_saved_file *files = realloc(state->file, (state->count + 1) * sizeof(*files));
    if (!files)
        return NULL;
    state->file = files;
    state->file[state->count] = (struct mk_saved_file){ 0 };
    return &state->file[state->count++];
}

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

static bool is_zero(const uint8_t *block, size_t length)
{
    return block[0] == 0 && memcmp(block, block + 1, length - 1) == 0;
}

/* [at, end) of the file, without its blocks of zeros. */
static int read_data(int fd, struct gather *g, uint64_t at, uint64_t end)
{
    uint8_t buffer[128 * BLOCK];
    while (at < end) {
        size_t want = end - at < sizeof(buffer) ? (size_t)(end - at) : sizeof(buffer);
        ssize_t n = pread(fd, buffer, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        for (size_t i = 0; i < (size_t)n; i += BLOCK) {
            size_t length = (size_t)n - i < BLOCK ? (size_t)n - i : BLOCK;
            if (!is_zero(buffer + i, length))
                add_block(g, buffer + i, length, at + i);
        }
        at += (uint64_t)n;
    }
    return g->out->failed ? -ENOMEM : 0;
}

static int read_runs(int fd, struct mk_saved_file *f)
{
    struct gather g = { .out = &f->runs };
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    f->length = (uint64_t)st.st_size;
    int rc = 0;
    for (off_t at = 0, end; rc == 0 && mk_next_data(fd, st.st_size, &at, &end); at = end)
        rc = read_data(fd, &g, (uint64_t)at, (uint64_t)end);
    return rc;
}

static int save_file(struct mk_fsbox *box, const char *name, struct mk_fsbox_state *state)
{
    int fd = mk_path_open(box->own, name, O_RDONLY);
    if (fd < 0)
        return fd == -EACCES ? 0 : fd; /* no regular file: not the guest's */
    struct mk_saved_file *f = new_saved(state);
    int rc = -ENOMEM;
    if (f) {
        strcpy(f->name, name);
        rc = read_runs(fd, f);
    }
    close(fd);
    return rc;
}

/* Everything below the directory `at`, whose name within the private one is `path`; one descriptor
 * a level is open, and it is taken over. */
static int save_below(struct mk_fsbox *box, int at, char *path, struct mk_fsbox_state *state)
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
            rc = save_below(box, below, path, state);
        } else {
            rc = save_file(box, path, state);
        }
    }
    if (list)
        closedir(list);
    return rc;
}

static void save_slots(const struct mk_fsbox *box, struct mk_fsbox_state *state)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        const struct mk_file_slot *slot = &box->slot[i];
        const struct mk_file_node *node = &box->node[i];
        state->slot[i].node = slot->node ? (int)(slot->node - box->node) : -1;
        state->slot[i].flags = slot->flags;
        state->slot[i].at = slot->at;
        if (!node->users)
            continue;
        state->node[i].used = true;
        strcpy(state->node[i].name, node->name);
        state->node[i].own = node->own;
        state->node[i].writable = node->writable;
        state->node[i].locked = node->locked;
        state->node[i].verdict = (uint8_t)node->verdict;
    }
}

int mk_fsbox_save(struct mk_fsbox *box, struct mk_fsbox_state *state, struct mk_err *err)
{
    char path[MK_NAME_MAX + 2] = "";
    int rc = 0;
    *state = (struct mk_fsbox_state){ .bytes = box->bytes, .files = box->files };
    if (box->own >= 0) {
        int at = openat(box->own, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rc = at < 0 ? -errno : save_below(box, at, path, state);
    }
    save_slots(box, state);
    if (rc == 0)
        return 0;
    mk_fsbox_state_free(state);
    return mk_fail_errno(err, -rc, "vm \"%s\": its private files", box->vm_name);
}

void mk_fsbox_state_free(struct mk_fsbox_state *state)
{
    for (size_t i = 0; i < state->count; i++)
        mk_bytes_free(&state->file[i].runs);
    free(state->file);
    *state = (struct mk_fsbox_state){ 0 };
}

/* --- restoring --- */

bool mk_saved_file_valid(const struct mk_saved_file *f)
{
    struct mk_reader in = { .at = f->runs.data, .left = f->runs.length };
    uint64_t end = 0;
    while (in.left && !in.failed) {
        uint64_t at = mk_reader_u64(&in), length = mk_reader_u64(&in);
        if (at < end || !mk_inside(at, length, f->length) || !mk_reader_take(&in, length))
            return false;
        end = at + length;
    }
    return !in.failed;
}

static int write_run(int fd, const uint8_t *bytes, uint64_t length, uint64_t at)
{
    while (length) {
        ssize_t n = pwrite(fd, bytes, length, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        at += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

/* What the host has put there is the host's, and stays. */
static int write_file(struct mk_fsbox *box, const struct mk_saved_file *f)
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
        rc = write_run(fd, mk_reader_take(&in, length), length, at);
    }
    if (rc == 0 && ftruncate(fd, (off_t)f->length) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int write_files(struct mk_fsbox *box, const struct mk_fsbox_state *state, struct mk_err *err)
{
    mk_fsbox_empty_own(box);
    int rc = state->count ? mk_fsbox_need_own(box) : 0;
    for (size_t i = 0; rc == 0 && i < state->count; i++)
        rc = write_file(box, &state->file[i]);
    if (rc < 0)
        mk_fail_errno(err, -rc, "vm \"%s\": its private files", box->vm_name);
    return rc;
}

static int open_saved(struct mk_fsbox *box, const struct mk_saved_node *n)
{
    if (n->own)
        return box->own < 0 ? -ENOENT : mk_path_open(box->own, n->name, O_RDWR);
    if (!box->policy || box->policy->root < 0)
        return -EACCES;
    return mk_path_open(box->policy->root, n->name, n->writable ? O_RDWR : O_RDONLY);
}

/* A policy that is narrower than the one the file was opened under holds. */
static bool permitted(const struct mk_fsbox *box, const struct mk_saved_node *n)
{
    enum mk_verdict verdict = box->policy ? mk_policy_match(box->policy, n->name) : MK_FILE_OWN;
    if (n->own)
        return verdict != MK_FILE_DENY;
    return verdict != MK_FILE_OWN && verdict >= (enum mk_verdict)n->verdict &&
           (!n->writable || verdict >= MK_FILE_RW);
}

/* Whatever the snapshot says: one VM at a time writes to a file that is not shared. */
static bool must_lock(const struct mk_fsbox *box, const struct mk_saved_node *n)
{
    return !n->own && n->writable && mk_policy_match(box->policy, n->name) != MK_FILE_SHARED_RW;
}

static int open_node(struct mk_fsbox *box, unsigned i, const struct mk_saved_node *n,
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
    *node = (struct mk_file_node){ .fd = fd, .users = 1, .own = n->own, .writable = n->writable,
                                   .locked = lock, .verdict = (enum mk_verdict)n->verdict };
    strcpy(node->name, n->name);
    return 0;
}

static void close_all(struct mk_fsbox *box)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        if (box->slot[i].node)
            mk_fsbox_release(box->slot[i].node);
        box->slot[i].node = NULL;
    }
}

static void fill_slots(struct mk_fsbox *box, const struct mk_fsbox_state *state)
{
    for (unsigned i = 0; i < MK_FILES_OPEN; i++) {
        int node = state->slot[i].node;
        if (node < 0 || !box->node[node].users)
            continue;
        box->slot[i] = (struct mk_file_slot){ &box->node[node], state->slot[i].flags,
                                              state->slot[i].at };
        box->node[node].users++;
    }
}

/* While they are opened each counts one user; what no descriptor uses then is closed again. */
static int restore(struct mk_fsbox *box, const struct mk_fsbox_state *state, struct mk_err *err)
{
    int rc = write_files(box, state, err);
    for (unsigned i = 0; rc == 0 && i < MK_FILES_OPEN; i++)
        if (state->node[i].used)
            rc = open_node(box, i, &state->node[i], err);
    if (rc == 0)
        fill_slots(box, state);
    for (unsigned i = 0; i < MK_FILES_OPEN; i++)
        if (box->node[i].users)
            mk_fsbox_release(&box->node[i]);
    box->bytes = state->bytes;
    box->files = state->files;
    return rc < 0 ? -1 : 0;
}

int mk_fsbox_load(struct mk_fsbox *box, const struct mk_fsbox_state *state, struct mk_err *err)
{
    pthread_mutex_lock(&box->lock);
    close_all(box);
    int rc = restore(box, state, err);
    pthread_mutex_unlock(&box->lock);
    return rc;
}
