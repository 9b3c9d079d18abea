/* fsbox_log.c - what a VM did with its files: a ring of the newest entries. */
#include "files/fsbox_in.h"

#include <string.h>

static struct mk_file_entry *newest(struct mk_fsbox *box)
{
    return box->audited ? &box->audit[(box->audited - 1) % MK_FILE_AUDIT] : NULL;
}

static bool repeats(const struct mk_file_entry *e, const char *op, const char *name, size_t length,
                    const char *verdict, int error)
{
    return e && e->op == op && e->error == error && e->verdict == verdict &&
           e->name_length == length && memcmp(e->name, name, length) == 0;
}

void mk_fsbox_log(struct mk_fsbox *box, const char *op, const char *name, size_t length,
                  const char *verdict, int64_t result, uint64_t bytes)
{
    int error = result < 0 ? (int)-result : 0;
    if (!box->audit)
        return;
    if (length > MK_NAME_MAX)
        length = MK_NAME_MAX;
    struct mk_file_entry *e = newest(box);
    if (!repeats(e, op, name, length, verdict, error)) {
        e = &box->audit[box->audited++ % MK_FILE_AUDIT];
        *e = (struct mk_file_entry){
            .op = op, .verdict = verdict, .error = error, .name_length = (unsigned)length
        };
        memcpy(e->name, name, length);
    }
    e->bytes += bytes;
    e->times++;
}

bool mk_fsbox_log_entry(struct mk_fsbox *box, uint64_t index, struct mk_file_entry *entry)
{
    pthread_mutex_lock(&box->lock);
    uint64_t first = box->audited > MK_FILE_AUDIT ? box->audited - MK_FILE_AUDIT : 0;
    bool there = box->audit && index < box->audited - first;
    if (there)
        *entry = box->audit[(first + index) % MK_FILE_AUDIT];
    pthread_mutex_unlock(&box->lock);
    return there;
}
