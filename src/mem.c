/* mem.c - see mem.h. */
#include "mem.h"

#include "kvm.h"

#include <errno.h>
#include <linux/kvm.h>
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
    *mem = (struct mk_mem){ 0 };
}

int mk_mem_register(struct mk_mem *mem, int vm_fd, struct mk_err *err)
{
    struct kvm_userspace_memory_region region = {
        .memory_size = mem->size, .userspace_addr = (uint64_t)(uintptr_t)mem->ram };
    if (mk_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return mk_fail_errno(err, errno, "KVM refuses the memory slot");
    return 0;
}

void mk_mem_clear(struct mk_mem *mem)
{
    if (madvise(mem->ram, mem->size, MADV_DONTNEED) < 0)
        memset(mem->ram, 0, mem->size);
}

void *mk_mem_at(const struct mk_mem *mem, uint64_t gpa, uint64_t len)
{
    return mk_inside(gpa, len, mem->size) ? mem->ram + gpa : NULL;
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
    void *to = mk_mem_at(mem, gpa, len);
    if (to)
        memcpy(to, from, len);
    return to != NULL;
}
