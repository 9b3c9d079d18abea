/* fsbox_in.h - what the parts of fsbox share. The caller holds the box's lock. */
#ifndef MK_FSBOX_IN_H
#define MK_FSBOX_IN_H

#include "files/fsbox.h"

/* fsbox_log.c: notes an operation. `op` and `verdict` are constants. */
void mk_fsbox_log(struct mk_fsbox *box, const char *op, const char *name, size_t length,
                  const char *verdict, int64_t result, uint64_t bytes);

/* fsbox_own.c: makes the private directory if it is not there; 0 or a negated errno. */
int mk_fsbox_open_own(struct mk_fsbox *box);
/* It stays when the VM goes. */
bool mk_fsbox_is_persistent(const struct mk_fsbox *box);
/* A file in there is the VM's from now on: a restore replaces it. -ENOMEM. */
int mk_fsbox_claim(struct mk_fsbox *box, const char *name);
/* Removes what is the VM's: all of a directory that vanishes with it. */
void mk_fsbox_empty_own(struct mk_fsbox *box);
/* Closes it, and removes it unless it is to stay. */
void mk_fsbox_close_own(struct mk_fsbox *box);

/* fsbox_own.c: how many of these bytes may be written, which are then taken from what the process
 * was granted; and what was not written after all. */
uint64_t mk_fsbox_take(uint64_t wanted);
void mk_fsbox_give_back(uint64_t bytes);

/* fsbox_open.c: one user of an open file less; no descriptor is open any more. */
void mk_fsbox_close_node(struct mk_file_node *node);
void mk_fsbox_close_all(struct mk_fsbox *box);
/* What the guest is told of the host's own reasons. */
int64_t mk_fsbox_guest_errno(int64_t rc);

#endif
