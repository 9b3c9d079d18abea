/* fsbox.h - the files of one VM: its descriptors, its private directory, its quotas and its log.
 *
 * What a guest may do is the policy's matter (fsbox_policy.h); that nothing leads out of a
 * directory is the kernel's (fsbox_path.h). Descriptors are the VM's own small integers. All
 * descriptors that a VM has on one file share one host descriptor, so that all of them go on with
 * the copy when the VM writes to a `cow` file; each has a position of its own.
 *
 * Results are >= 0, or a negated errno for the guest. Functions may be called from any thread,
 * except init, free and reset, which the owner of the stopped VM calls. One lock a box, held while
 * a file is read, written or copied; decide() is called without it. */
#ifndef MK_FSBOX_H
#define MK_FSBOX_H

#include "base/abi.h"
#include "codec/fields.h"
#include "files/fsbox_path.h"
#include "files/fsbox_policy.h"

#include <pthread.h>

#define MK_FILE_AUDIT 1024 /* entries kept */

/* One entry of the log. Entries that only repeat the last one are added to it. */
struct mk_file_entry {
    const char *op;
    char name[MK_NAME_MAX + 1];
    unsigned name_length;
    const char *verdict;
    int error; /* errno, 0: it was done */
    uint64_t bytes;
    uint64_t times;
};

/* A file that is open: once a name. */
struct mk_file_node {
    char name[MK_NAME_MAX + 1];
    int fd;
    unsigned users;
    bool own, writable, locked;
    enum mk_verdict verdict; /* by which it was opened last */
};

struct mk_file_slot {
    struct mk_file_node *node; /* NULL: free */
    unsigned flags;            /* MK_FILE_* of abi.h */
    int64_t at;
};

struct mk_fsbox {
    pthread_mutex_t lock;
    struct mk_policy *policy; /* NULL: only own files */
    struct mk_file_limits limits;
    char vm_name[64];
    int own; /* descriptor of the private directory, -1: not made yet */
    char *own_path;
    char **made; /* names in a directory that stays: of what the VM made there or wrote to */
    size_t made_count;
    uint64_t bytes, files;
    struct mk_file_slot slot[MK_FILES_OPEN];
    struct mk_file_node node[MK_FILES_OPEN];
    struct mk_file_entry *audit; /* ring; NULL: not wanted */
    uint64_t audited;            /* entries ever made */
    /* May narrow what the rules allow: the verdict to use instead; `caller` is mk_fsbox_open()'s.
     * May be NULL. */
    enum mk_verdict (*decide)(void *ctx, void *caller, const char *name, unsigned flags,
                              enum mk_verdict rule);
    void *ctx;
    bool (*may_continue)(void *caller); /* between pieces of a copy: false ends it. May be NULL */
};

/* Holds the policy (NULL: the default one). -1 when there is no memory. */
int mk_fsbox_init(struct mk_fsbox *box, const char *vm_name, struct mk_policy *policy,
                  struct mk_err *err);
void mk_fsbox_free(struct mk_fsbox *box);
/* As after init: descriptors closed, quotas unused, an empty private directory. A directory that is
 * to be kept stays as it is, and the next file goes to a new one. The log stays. */
void mk_fsbox_reset(struct mk_fsbox *box);

/* `name` need not end with a NUL and is not trusted. */
int64_t mk_fsbox_open(struct mk_fsbox *box, void *caller, const char *name, size_t length,
                      unsigned flags);
int64_t mk_fsbox_close(struct mk_fsbox *box, int32_t fd);
int64_t mk_fsbox_read(struct mk_fsbox *box, int32_t fd, void *to, size_t count);
int64_t mk_fsbox_write(struct mk_fsbox *box, int32_t fd, const void *from, size_t count);
/* A position beyond `max` is -EOVERFLOW and does not become the position. */
int64_t mk_fsbox_seek(struct mk_fsbox *box, int32_t fd, int64_t offset, unsigned whence,
                      int64_t max);
int64_t mk_fsbox_size(struct mk_fsbox *box, int32_t fd);

/* Copies entry `index` of the log, 0 being the oldest that is kept; false behind the newest. */
bool mk_fsbox_log_entry(struct mk_fsbox *box, uint64_t index, struct mk_file_entry *entry);
/* The private directory's path, a string to free; NULL when it was not made yet. */
char *mk_fsbox_directory(struct mk_fsbox *box);

/* Temporary private directories are from here on made in a folder of their own, *path in *below,
 * which is removed when the process exits. Once. */
int mk_fsbox_make_folder(const char **path, const char **below, struct mk_err *err);
/* The same in a folder that is there, and that somebody else removes; NULL: there are none. */
int mk_fsbox_use_folder(const char *path, struct mk_err *err);
/* What all guests of this process may write into files from now on, copies included. */
void mk_fsbox_grant(uint64_t bytes);

/* fsbox_save.c: what a snapshot keeps, written or read. Reading fails when a file cannot be had any
 * more, or not under this box's policy: then none is open. */
void mk_fsbox_code(struct mk_fsbox *box, struct mk_codec *k);

#endif
