/* fsbox_save.c - what a snapshot keeps of a VM's files: its descriptors and their positions, and the
 * whole contents of its private directory, copies (cow) included.
 *
 * Files of the host's root are the host's: they are opened again by name, with the contents they
 * have then. Used by the owner of the stopped VM. */
#include "files/fsbox_in.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

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

static int64_t read_whole(int fd, uint8_t **bytes, uint64_t *length)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *length = (uint64_t)st.st_size;
    *bytes = *length ? malloc(*length) : NULL;
    if (*length && !*bytes)
        return -ENOMEM;
    for (uint64_t at = 0; at < *length;) {
        ssize_t n = pread(fd, *bytes + at, *length - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += (uint64_t)n;
    }
    return 0;
}

static int save_file(struct mk_fsbox *box, const char *name, struct mk_fsbox_state *state)
{
    int fd = mk_path_open(box->own, name, O_RDONLY);
    if (fd < 0)
        return fd == -EACCES ? 0 : fd; /* no regular file: not the guest's */
    struct mk_saved_file *f = new_saved(state);
    int64_t rc = f ? 0 : -ENOMEM;
    if (f)
        strcpy(f->name, name);
    if (rc == 0)
        rc = read_whole(fd, &f->bytes, &f->length);
    close(fd);
    return (int)rc;
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
        free(state->file[i].bytes);
    free(state->file);
    *state = (struct mk_fsbox_state){ 0 };
}

/* --- restoring --- */

static int write_file(struct mk_fsbox *box, const struct mk_saved_file *f)
{
    int fd = mk_path_create(box->own, f->name), rc = fd < 0 ? fd : 0;
    for (uint64_t at = 0; rc == 0 && at < f->length;) {
        ssize_t n = pwrite(fd, f->bytes + at, f->length - at, (off_t)at);
        if (n < 0 && errno != EINTR)
            rc = -errno;
        if (n > 0)
            at += (uint64_t)n;
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int write_files(struct mk_fsbox *box, const struct mk_fsbox_state *state, struct mk_err *err)
{
    if (box->own >= 0)
        mk_path_empty(box->own);
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

static int open_node(struct mk_fsbox *box, unsigned i, const struct mk_saved_node *n,
                     struct mk_err *err)
{
    struct mk_file_node *node = &box->node[i];
    int fd = permitted(box, n) ? open_saved(box, n) : -EACCES;
    if (fd >= 0 && n->locked && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        fd = errno == EWOULDBLOCK ? -EBUSY : -errno;
    }
    if (fd < 0)
        return mk_fail_errno(err, -fd, "vm \"%s\": the file \"%s\" that its guest has open",
                             box->vm_name, n->name);
    *node = (struct mk_file_node){ .fd = fd, .users = 1, .own = n->own, .writable = n->writable,
                                   .locked = n->locked, .verdict = (enum mk_verdict)n->verdict };
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
