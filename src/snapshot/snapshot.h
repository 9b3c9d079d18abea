/* snapshot.h - a VM at one moment, to go back to, to branch from, or to put into a file.
 *
 * A snapshot is never changed once it was taken, so any number of threads may use it; it has
 * one owner. Its RAM is a copy that snapshots of one VM and the VMs made from them share (ram.h),
 * and the pages in which it differs from that copy. A VM knows which pages it has written since it
 * last equalled a copy, so going back copies only those.
 *
 * What belongs to the script is not part of it: handlers, hooks, listeners; nor are counters.
 * VMs that are captured or restored must not run; that is for the caller to check. */
#ifndef MK_SNAPSHOT_H
#define MK_SNAPSHOT_H

#include "files/layer.h"
#include "files/ram.h"
#include "vm/vm.h"

#define MK_SNAPSHOT_VERSION 8u /* of its file: of all tables of devices' states, too */
#define MK_SNAPSHOT_LAYERS 32u /* disks of a VM */

/* What a VM must be like to take a snapshot's state; and what else one is made from. */
struct mk_snapshot_config {
    enum mk_mode mode;
    uint64_t memory;           /* the VM's own RAM */
    struct mk_region *regions; /* all memory, as data: without host memory */
    uint32_t region_count;
    uint32_t cpus;
    bool pic;
    struct mk_mapping mapping;
    struct mk_places places;
    uint32_t boot_features;
    char name[64], command_line[448];
};

struct mk_state {
    enum mk_vm_state vm_state;
    uint64_t time;           /* of the VM */
    struct mk_bytes cpus;    /* cpu.h */
    struct mk_bytes devices; /* of all of them (dev.h) */
    struct mk_console_place input;
    bool paging; /* done by the assist */
    struct mk_deferred_write deferred;
};

struct mk_snapshot {
    struct mk_snapshot_config config;
    struct mk_state state;
    struct mk_ram *ram;
    uint64_t *changed; /* pages that differ from `ram`, a bit each; NULL: none */
    uint8_t *pages;    /* their contents, in order */
    size_t changed_count;
    struct kvm_cpuid2 *cpuid; /* NULL: nobody changed it */
    struct mk_bytes script;   /* what devices of the script saved; for the script */
    struct mk_layer *layers[MK_SNAPSHOT_LAYERS]; /* what was written to their disks */
    unsigned layer_count;
};

/* Takes over *script; the layers are the caller's to add. NULL with *err, and the VM as it was. */
struct mk_snapshot *mk_snapshot_take(struct mk_vm *vm, struct mk_bytes *script, struct mk_err *err);
void mk_snapshot_free(struct mk_snapshot *snap); /* NULL is fine */

/* -1 when the VM is of another shape. */
int mk_snapshot_fits(const struct mk_snapshot *snap, const struct mk_vm *vm, struct mk_err *err);
/* Into a VM that it fits. After -1 the VM cannot run until it is restored again, or reset. `fresh`:
 * the VM was made with snap->ram and has not run. */
int mk_snapshot_restore(const struct mk_snapshot *snap, struct mk_vm *vm, bool fresh,
                        struct mk_err *err);
/* The page at `page` * 4096; *next counts the changed ones and begins with 0. */
const uint8_t *mk_snapshot_page(const struct mk_snapshot *snap, uint64_t page, size_t *next);

/* state.c: all but RAM. */
int mk_state_save(struct mk_vm *vm, struct mk_state *state, struct mk_err *err);
/* MK_LOAD_CHECK is for a VM like this without hardware, which compose.c makes; MK_LOAD_HOOKS for
 * hooks that were made after a restore. */
int mk_state_load(struct mk_vm *vm, const struct mk_state *state, enum mk_load how,
                  struct mk_err *err);
void mk_state_free(struct mk_state *state);

/* code.c: shape and state as bytes, and back. -1 when they are damaged. */
bool mk_state_encode(const struct mk_snapshot *snap, struct mk_bytes *out);
int mk_state_decode(struct mk_snapshot *snap, struct mk_reader *in, struct mk_err *err);

/* file.c. A file appears under its name when it is complete and on the disk. */
int mk_snapshot_save(const struct mk_snapshot *snap, const char *path, struct mk_err *err);
struct mk_snapshot *mk_snapshot_load(const char *path, struct mk_err *err);

#endif
