/* slots.c - guest memory as KVM has it: memory slots, and its log of what the guest wrote (Linux
 * Documentation/virt/kvm/api.rst, 4.8 and 4.35). See mem.h. */
#include "kvm/mem.h"

#include "kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>

typedef unsigned long long ull;

int mk_mem_slot(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot)
{
    const struct mk_region *r = slot->length ? mk_mem_find(mem, slot->physical) : NULL;
    bool read_only = slot->read_only || (r && r->read_only);
    bool log = mem->dirty && r && r->kind == MK_RAM;
    struct kvm_userspace_memory_region region = {
        .slot = slot->number,
        .flags = read_only ? KVM_MEM_READONLY
                 : log     ? KVM_MEM_LOG_DIRTY_PAGES
                           : 0,
        .guest_phys_addr = slot->linear,
        .memory_size = slot->length,
        .userspace_addr = r ? (uint64_t)(uintptr_t)(r->host + (slot->physical - r->gpa)) : 0
    };
    if (slot->length == 0)
        region.flags = 0;
    return mk_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static struct mk_slot slot_of(const struct mk_region *r)
{
    return (struct mk_slot){ r->slot, r->gpa, r->gpa, r->size, r->read_only };
}

int mk_mem_register(const struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    for (unsigned i = 0; i < mem->count; i++) {
        struct mk_slot slot = slot_of(&mem->regions[i]);
        if (mk_mem_slot(mem, vm_fd, &slot) < 0)
            return mk_fail_errno(err, errno,
                                 "KVM refuses the memory slot for %s, 0x%llx bytes at "
                                 "0x%llx",
                                 mem->regions[i].name, (ull)slot.length, (ull)slot.linear);
    }
    return 0;
}

int mk_mem_unregister(const struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    for (unsigned i = 0; i < mem->count; i++)
        if (mk_mem_slot(mem, vm_fd, &(struct mk_slot){ .number = mem->regions[i].slot }) < 0 &&
            errno != EINVAL) /* which says that it is not there */
            return mk_fail_errno(err, errno, "memory slot %u", mem->regions[i].slot);
    return 0;
}

int mk_mem_flush(const struct mk_mem *mem, int vm_fd)
{
    const struct mk_region *last = &mem->regions[mem->count - 1];
    uint64_t behind = last->gpa + last->size;
    struct mk_slot page = { .number = MK_REGIONS - 1,
                            .linear = behind > MK_HIGH ? behind : MK_HIGH,
                            .physical = mem->regions[0].gpa,
                            .length = MK_PAGE };
    if (mk_mem_slot(mem, vm_fd, &page) < 0)
        return -1;
    page.length = 0;
    return mk_mem_slot(mem, vm_fd, &page);
}

/* --- what the guest wrote --- */

int mk_mem_sync_slot(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot)
{
    const struct mk_region *r = mk_mem_find(mem, slot->physical);
    if (!mem->dirty || slot->read_only || r->kind != MK_RAM)
        return 0;
    uint64_t words = (slot->length / MK_PAGE + 63) / 64;
    uint64_t first = (r->at + slot->physical - r->gpa) / MK_PAGE;
    struct kvm_dirty_log log = { .slot = slot->number, .dirty_bitmap = mem->log };
    if (mk_ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
        return -1;
    for (uint64_t i = 0; i < words; i++)
        for (uint64_t bits = mem->log[i]; bits; bits &= bits - 1)
            mk_mem_mark_pages_dirty(mem, first + i * 64 + (unsigned)__builtin_ctzll(bits), 1);
    return 0;
}

int mk_mem_sync_log(const struct mk_mem *mem, int vm_fd)
{
    for (unsigned i = 0; i < mem->count; i++) {
        struct mk_slot slot = slot_of(&mem->regions[i]);
        if (mk_mem_sync_slot(mem, vm_fd, &slot) < 0)
            return -1;
    }
    return 0;
}
