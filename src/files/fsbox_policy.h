/* fsbox_policy.h - a file policy: which names a VM may open, how, and how much.
 *
 * Made once, then never changed, so that any number of VMs read it without a lock; counted, so that
 * it lives as long as the last of them. Rules are tried in order; the first whose pattern matches
 * the name counts. In a pattern `*` is any run of characters but '/', `**` any run of characters,
 * `?` one character but '/'. */
#ifndef MK_FSBOX_POLICY_H
#define MK_FSBOX_POLICY_H

#include "base/err.h"

#include <stdatomic.h>

/* From the narrowest to the widest; what none of the rules names is the VM's own business. */
enum mk_verdict {
    MK_FILE_DENY,      /* nothing */
    MK_FILE_RO,        /* the root's file, to read */
    MK_FILE_OWN,       /* no rule: only files that the VM made itself */
    MK_FILE_COW,       /* the root's file to read, a copy of its own as soon as it writes */
    MK_FILE_RW,        /* the root's file itself, written by one VM at a time */
    MK_FILE_SHARED_RW, /* the root's file itself, written by several at once */
    MK_FILE_VERDICTS
};

struct mk_file_limits {
    unsigned open;  /* descriptors at a time */
    uint64_t bytes; /* written in all */
    uint64_t file;  /* size of a file that is written or copied */
    uint64_t files; /* made, by creation or by copying */
};

struct mk_file_rule {
    char *pattern;
    enum mk_verdict verdict;
};

struct mk_policy {
    _Atomic unsigned users;
    int root; /* O_PATH descriptor, -1: none */
    int keep; /* VMs get a directory in there that stays; -1: one that vanishes */
    char *keep_path;
    struct mk_file_rule *rules;
    size_t rule_count;
    struct mk_file_limits limits;
    bool audit;
};

#define MK_FILES_OPEN 16 /* descriptors of a VM, as its guest numbers them */

extern const struct mk_file_limits mk_file_limits_default;

/* "ro" for MK_FILE_RO; and back, -1 for no such word ("own" is none that a rule can say). */
const char *mk_verdict_name(enum mk_verdict verdict);
int mk_verdict_of(const char *word);

/* A policy that denies everything but the VM's own files; with one user. root and keep may be NULL;
 * `keep` is made if it is missing. */
struct mk_policy *mk_policy_new(const char *root, const char *keep, struct mk_err *err);
/* Only before the first VM uses it. */
int mk_policy_add(struct mk_policy *p, const char *pattern, enum mk_verdict verdict,
                  struct mk_err *err);
struct mk_policy *mk_policy_ref(struct mk_policy *p);
void mk_policy_unref(struct mk_policy *p); /* NULL is fine */

enum mk_verdict mk_policy_match(const struct mk_policy *p, const char *name);
bool mk_glob_match(const char *pattern, const char *name);

#endif
