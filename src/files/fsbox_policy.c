/* fsbox_policy.c - see fsbox_policy.h. */
#include "files/fsbox_policy.h"

#include "files/fsbox_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const struct mk_file_limits mk_file_limits_default = {
    .open = MK_FILES_OPEN, .bytes = UINT64_C(1) << 30, .file = UINT64_C(1) << 30, .files = 256
};

static const char *const verdicts[MK_FILE_VERDICTS] = {
    [MK_FILE_DENY] = "deny", [MK_FILE_RO] = "ro", [MK_FILE_OWN] = "own",
    [MK_FILE_COW] = "cow",   [MK_FILE_RW] = "rw", [MK_FILE_SHARED_RW] = "shared-rw"
};

const char *mk_verdict_name(enum mk_verdict verdict)
{
    return verdicts[verdict];
}

int mk_verdict_of(const char *word)
{
    for (int i = 0; i < MK_FILE_VERDICTS; i++)
        if (i != MK_FILE_OWN && strcmp(verdicts[i], word) == 0)
            return i;
    return -1;
}

/* --- patterns --- */

/* Remembers the last `*` and the last `**`: when the rest does not fit, the star takes one more
 * character, and when that is a '/', the double one does. No exponential case. */
bool mk_glob_match(const char *pattern, const char *name)
{
    const char *star = NULL, *star_name = NULL, *wide = NULL, *wide_name = NULL;
    while (*name || *pattern) {
        if (pattern[0] == '*' && pattern[1] == '*') {
            wide = pattern += 2;
            wide_name = name;
            star = NULL;
        } else if (*pattern == '*') {
            star = ++pattern;
            star_name = name;
        } else if (*name && (*pattern == *name || (*pattern == '?' && *name != '/'))) {
            pattern++;
            name++;
        } else if (star && *star_name && *star_name != '/') {
            pattern = star;
            name = ++star_name;
        } else if (wide && *wide_name) {
            pattern = wide;
            name = ++wide_name;
            star = NULL;
        } else {
            return false;
        }
    }
    return true;
}

/* A pattern is a name with letters in the places of its wildcards, or it would never match. */
static bool can_match(const char *pattern)
{
    char name[MK_NAME_MAX + 1];
    size_t length = strlen(pattern);
    if (length > MK_NAME_MAX)
        return false;
    for (size_t i = 0; i <= length; i++)
        name[i] = pattern[i] == '*' || pattern[i] == '?' ? 'x' : pattern[i];
    return mk_path_check(name, length) == 0;
}

enum mk_verdict mk_policy_match(const struct mk_policy *p, const char *name)
{
    for (size_t i = 0; i < p->rule_count; i++)
        if (mk_glob_match(p->rules[i].pattern, name))
            return p->rules[i].verdict;
    return MK_FILE_OWN;
}

/* --- life --- */

static int open_directory(const char *what, const char *path, struct mk_err *err)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? mk_fail_errno(err, errno, "%s %s", what, path) : fd;
}

static int open_keep(struct mk_policy *p, const char *path, struct mk_err *err)
{
    if (mkdir(path, 0777) < 0 && errno != EEXIST)
        return mk_fail_errno(err, errno, "private directory %s", path);
    p->keep = open_directory("private directory", path, err);
    p->keep_path = p->keep < 0 ? NULL : strdup(path);
    return p->keep;
}

struct mk_policy *mk_policy_new(const char *root, const char *keep, struct mk_err *err)
{
    struct mk_policy *p = calloc(1, sizeof(*p));
    if (!p) {
        mk_fail_errno(err, ENOMEM, "file policy");
        return NULL;
    }
    p->users = 1;
    p->root = p->keep = -1;
    p->limits = mk_file_limits_default;
    if ((root && (p->root = open_directory("root", root, err)) < 0) ||
        (keep && open_keep(p, keep, err) < 0)) {
        mk_policy_unref(p);
        return NULL;
    }
    return p;
}

int mk_policy_add(struct mk_policy *p, const char *pattern, enum mk_verdict verdict,
                  struct mk_err *err)
{
    if (!can_match(pattern))
        return mk_fail(err, EINVAL,
                       "pattern \"%s\" matches no name: names are relative, of "
                       "components of [A-Za-z0-9._-], none of them . or ..",
                       pattern);
    struct mk_file_rule *rules = realloc(p->rules, (p->rule_count + 1) * sizeof(*rules));
    if (!rules)
        return mk_fail_errno(err, ENOMEM, "file policy");
    p->rules = rules;
    rules[p->rule_count] = (struct mk_file_rule){ strdup(pattern), verdict };
    if (!rules[p->rule_count].pattern)
        return mk_fail_errno(err, ENOMEM, "file policy");
    p->rule_count++;
    return 0;
}

struct mk_policy *mk_policy_ref(struct mk_policy *p)
{
    atomic_fetch_add(&p->users, 1);
    return p;
}

void mk_policy_unref(struct mk_policy *p)
{
    if (!p || atomic_fetch_sub(&p->users, 1) > 1)
        return;
    if (p->root >= 0)
        close(p->root);
    if (p->keep >= 0)
        close(p->keep);
    for (size_t i = 0; i < p->rule_count; i++)
        free(p->rules[i].pattern);
    free(p->rules);
    free(p->keep_path);
    free(p);
}
