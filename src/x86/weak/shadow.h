/* shadow.h - paging by memory slots, for a KVM that does not run 32-bit paging.
 *
 * CR0.PG stays clear in the vCPU; every mapped run of the guest's two-level page tables becomes a
 * memory slot at its linear address, over the host memory of the physical one. So what the guest
 * calls a linear address is what KVM calls a guest-physical one. The tables are copied as they are
 * walked, to notice changes. Used by the thread of the VM's only vCPU. */
#ifndef MK_SHADOW_H
#define MK_SHADOW_H

#include "kvm/mem.h"

struct mk_run { /* of pages that lie side by side in both address spaces */
    uint64_t linear, physical, length;
    bool writable;
    uint32_t slot;
};

struct mk_shadow {
    bool on; /* the guest turned paging on; the slots of memory as it is are gone */
    uint64_t cr3;
    bool large; /* CR4.PSE */
    struct mk_run *runs;
    size_t run_count;
    uint32_t *tables; /* where the tables lie, the directory first */
    uint8_t *copies;  /* their contents when they were walked, a page each */
    size_t table_count;
    uint32_t next_slot;
};

/* Forgets all slots, after the KVM VM they belonged to is gone. */
void mk_shadow_reset(struct mk_shadow *s);
/* Makes the slots those of the tables at cr3. -1 with *err when KVM or memory refuses. */
int mk_shadow_set_cr3(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd, uint64_t cr3,
                      bool large, struct mk_err *err);
/* Memory has other regions than before, or its log begins: without slots until they are made
 * anew. */
void mk_shadow_remove_slots(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd);
int mk_shadow_rebuild(struct mk_shadow *s, const struct mk_mem *mem, int vm_fd, struct mk_err *err);
/* True when mk_shadow_set_cr3() would find other tables than last time. */
bool mk_shadow_stale(const struct mk_shadow *s, const struct mk_mem *mem, uint64_t cr3, bool large);

/* Paging ends: memory as it is takes the place of the slots. */
int mk_shadow_disable(struct mk_shadow *s, struct mk_mem *mem, int vm_fd, struct mk_err *err);
/* Notes what was written through the slots (mem.h). -1 with errno. */
int mk_shadow_sync_log(const struct mk_shadow *s, const struct mk_mem *mem, int vm_fd);

#endif
