/* mem.c - see mem.h. */
#include "kvm/mem.h"

#include "kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int mk_mem_open(struct mk_mem *mem, uint64_t size, struct mk_err *err)
{
    if (size == 0 || size % MK_PAGE || size > MK_MEM_MAX)
        return mk_fail(err, EINVAL, "memory of %llu bytes: it must be a multiple of 4096, "
                                    "at most 64G", (unsigned long long)size);
    void *ram = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED)
        return mk_fail_errno(err, errno, "guest memory of %llu bytes", (unsigned long long)size);
    *mem = (struct mk_mem){ .ram = ram, .size = size };
    return 0;
}

void mk_mem_close(struct mk_mem *mem)
{
    if (mem->ram)
        munmap(mem->ram, mem->size);
    free(mem->written);
    free(mem->log);
    *mem = (struct mk_mem){ 0 };
}

int mk_mem_slot(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot->number,
        .flags = slot->read_only ? KVM_MEM_READONLY : mem->written ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = slot->linear,
        .memory_size = slot->length,
        .userspace_addr = (uint64_t)(uintptr_t)(mem->ram + slot->physical) };
    if (slot->length == 0)
        region.flags = 0;
    return mk_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int mk_mem_register(struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    if (mk_mem_slot(mem, vm_fd, &(struct mk_slot){ .length = mem->size }) < 0)
        return mk_fail_errno(err, errno, "KVM refuses the memory slot");
    return 0;
}

void mk_mem_clear(struct mk_mem *mem)
{
    if (mem->copied || madvise(mem->ram, mem->size, MADV_DONTNEED) < 0)
        memset(mem->ram, 0, mem->size);
    mk_mem_mark(mem, 0, mem->size);
}

/* --- which pages were written --- */

int mk_mem_watch(struct mk_mem *mem, struct mk_err *err)
{
    if (mem->written)
        return 0;
    size_t words = mem->size / MK_PAGE / 64 + 1;
    uint64_t *log = calloc(words, sizeof(*log));
    _Atomic uint64_t *written = calloc(words, sizeof(*written));
    if (!log || !written) {
        free(log);
        free(written);
        return mk_fail_errno(err, ENOMEM, "a record of %zu pages", words * 64);
    }
    mem->log = log;
    mem->written = written;
    return 0;
}

static void mark_page(const struct mk_mem *mem, uint64_t page)
{
    atomic_fetch_or_explicit(&mem->written[page / 64], UINT64_C(1) << page % 64,
                             memory_order_relaxed);
}

void mk_mem_mark(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    for (uint64_t page = gpa / MK_PAGE; mem->written && len && page <= (gpa + len - 1) / MK_PAGE;
         page++)
        mark_page(mem, page);
}

int mk_mem_collect(const struct mk_mem *mem, int vm_fd, const struct mk_slot *slot)
{
    if (!mem->written || slot->read_only)
        return 0;
    uint64_t words = (slot->length / MK_PAGE + 63) / 64, first = slot->physical / MK_PAGE;
    struct kvm_dirty_log log = { .slot = slot->number, .dirty_bitmap = mem->log };
    if (mk_ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
        return -1;
    for (uint64_t i = 0; i < words; i++)
        for (uint64_t bits = mem->log[i]; bits; bits &= bits - 1)
            mark_page(mem, first + i * 64 + (unsigned)__builtin_ctzll(bits));
    return 0;
}

/* --- access --- */

const void *mk_mem_at(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    return mk_inside(gpa, len, mem->size) ? mem->ram + gpa : NULL;
}

void *mk_mem_edit(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    if (!mk_inside(gpa, len, mem->size))
        return NULL;
    mk_mem_mark(mem, gpa, len);
    return mem->ram + gpa;
}

bool mk_mem_read(const struct mk_mem *mem, uint64_t gpa, void *to, size_t len)
{
    const void *from = mk_mem_at(mem, gpa, len);
    if (from)
        memcpy(to, from, len);
    return from != NULL;
}

bool mk_mem_write(struct mk_mem *mem, uint64_t gpa, const void *from, size_t len)
{
    void *to = mk_mem_edit(mem, gpa, len);
    if (to)
        memcpy(to, from, len);
    return to != NULL;
}
