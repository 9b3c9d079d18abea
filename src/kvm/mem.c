/* mem.c - the list of regions. See mem.h; mem_access.c has what is done with them. man 2 mmap,
 * madvise. */
#include "kvm/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE (UINT64_C(2) << 20)
#define HUGE_FROM (UINT64_C(64) << 20) /* smaller regions are used in part, and made often */
#define TOP (UINT64_C(1) << 52)        /* of what page tables can address (SDM volume 3, 4.5) */

typedef unsigned long long ull;

/* --- host memory --- */

/* At a place that is to a huge page as `gpa` is, so that KVM can map it by huge pages. */
static uint8_t *map_host(uint64_t gpa, uint64_t size, int prot, int flags, int fd, uint64_t offset)
{
    uint64_t more = size >= HUGE_PAGE ? HUGE_PAGE : 0;
    uint8_t *at =
        mmap(NULL, size + more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    uint64_t skip = more ? (gpa - (uintptr_t)at) & (HUGE_PAGE - 1) : 0;
    uint8_t *host =
        mmap(at + skip, size, prot, flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset);
    int code = errno;
    if (host == MAP_FAILED) {
        munmap(at, size + more);
        errno = code;
        return NULL;
    }
    if (skip)
        munmap(at, skip);
    if (more > skip)
        munmap(host + size, more - skip);
    madvise(host, size, MADV_DONTFORK);
    if (size >= HUGE_FROM && fd < 0)
        madvise(host, size, MADV_HUGEPAGE);
    return host;
}

/* A mapping for what `r` says; its place in the list and in a copy are set elsewhere. */
static int map_region(struct mk_region *r, int fd, uint64_t offset, struct mk_err *err)
{
    bool shared = r->kind == MK_SHARED;
    int prot = r->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = (shared ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0);
    r->fd = -1;
    r->host = map_host(r->gpa, r->size, prot, flags, fd, offset);
    if (!r->host)
        return mk_fail_errno(err, errno, "guest memory of %llu bytes", (ull)r->size);
    if (shared && (r->fd = dup(fd)) < 0) {
        int code = errno;
        munmap(r->host, r->size);
        return mk_fail_errno(err, code, "%s", r->name);
    }
    return 0;
}

static void unmap_region(struct mk_region *r)
{
    munmap(r->host, r->size);
    if (r->fd >= 0)
        close(r->fd);
}

/* --- the list --- */

/* For `count` more; NULL with *err. */
static struct mk_region *room_for(struct mk_mem *mem, unsigned count, struct mk_err *err)
{
    struct mk_region *more = realloc(mem->regions, (mem->count + count) * sizeof(*more));
    if (!more) {
        mk_fail_errno(err, ENOMEM, "guest memory");
        return NULL;
    }
    mem->regions = more;
    return more;
}

/* Puts it at its place; there is room. */
static struct mk_region *insert(struct mk_mem *mem, const struct mk_region *r)
{
    unsigned i = mem->count++;
    for (; i > 0 && mem->regions[i - 1].gpa > r->gpa; i--)
        mem->regions[i] = mem->regions[i - 1];
    mem->regions[i] = *r;
    return &mem->regions[i];
}

static uint32_t free_slot(const struct mk_mem *mem)
{
    uint32_t slot = 0;
    while (mk_mem_by_slot(mem, slot))
        slot++;
    return slot;
}

/* Where each is in a copy: in the order of their addresses. */
static void place_all(struct mk_mem *mem)
{
    mem->bytes = 0;
    for (unsigned i = 0; i < mem->count; i++) {
        struct mk_region *r = &mem->regions[i];
        r->at = mem->bytes;
        mem->bytes += r->kind == MK_SHARED ? 0 : r->size;
    }
}

static struct mk_region *add(struct mk_mem *mem, const struct mk_region *want, int fd,
                             uint64_t offset, struct mk_err *err)
{
    struct mk_region r = *want;
    if (!room_for(mem, 1, err) || map_region(&r, fd, offset, err) < 0)
        return NULL;
    r.slot = free_slot(mem);
    r.ignored = 0;
    struct mk_region *added = insert(mem, &r);
    mem->size += r.mapped ? 0 : r.size;
    place_all(mem);
    return added;
}

static struct mk_region own_ram(uint64_t gpa, uint64_t size)
{
    return (struct mk_region){
        .gpa = gpa, .size = size, .kind = MK_RAM, .in_tables = true, .name = "RAM"
    };
}

static int add_own(struct mk_mem *mem, uint64_t size, struct mk_err *err)
{
    uint64_t low = size < MK_HOLE ? size : MK_HOLE;
    struct mk_region first = own_ram(0, low), second = own_ram(MK_HIGH, size - low);
    return !add(mem, &first, -1, 0, err) || (second.size && !add(mem, &second, -1, 0, err)) ? -1
                                                                                            : 0;
}

static int check_size(uint64_t size, struct mk_err *err)
{
    if (size == 0 || size % MK_PAGE || size > MK_MEM_MAX)
        return mk_fail(err, EINVAL,
                       "memory of %llu bytes: it must be a multiple of 4096, "
                       "at most 64G",
                       (ull)size);
    return 0;
}

int mk_mem_open(struct mk_mem *mem, uint64_t size, struct mk_err *err)
{
    *mem = (struct mk_mem){ .owner = getpid() };
    if (check_size(size, err) < 0)
        return -1;
    if (add_own(mem, size, err) == 0)
        return 0;
    mk_mem_close(mem);
    return -1;
}

int mk_mem_open_copy(struct mk_mem *mem, const struct mk_region *list, unsigned count, int fd,
                     struct mk_err *err)
{
    *mem = (struct mk_mem){ .owner = getpid(), .copied = true };
    for (unsigned i = 0; i < count; i++)
        if (list[i].kind != MK_SHARED && !add(mem, &list[i], fd, list[i].at, err)) {
            mk_mem_close(mem);
            return -1;
        }
    return 0;
}

void mk_mem_close(struct mk_mem *mem)
{
    for (unsigned i = 0, here = mem->owner == getpid(); here && i < mem->count; i++)
        unmap_region(&mem->regions[i]);
    free(mem->regions);
    mk_mem_stop_log(mem);
    *mem = (struct mk_mem){ 0 };
}

/* Pages that the other memory has too, unless they are zero in both. */
static void copy_own(const struct mk_mem *from, const struct mk_mem *to)
{
    for (uint64_t at = 0; at < from->size && at < MK_HOLE; at += MK_PAGE) {
        const void *page = mk_mem_at(from, at, MK_PAGE);
        void *other = mk_mem_writable(to, at, MK_PAGE);
        if (other && !mk_is_zero(page, MK_PAGE))
            memcpy(other, page, MK_PAGE);
    }
}

/* Own RAM of `from` goes, its other regions are those of `to` now. There is room. */
static void move_mapped(struct mk_mem *from, struct mk_mem *to)
{
    for (unsigned i = 0; i < from->count; i++) {
        struct mk_region *r = &from->regions[i];
        if (r->mapped) {
            r->slot = free_slot(to);
            insert(to, r);
        } else {
            unmap_region(r);
        }
    }
    place_all(to);
    free(from->regions);
}

int mk_mem_resize(struct mk_mem *mem, uint64_t size, struct mk_err *err)
{
    struct mk_mem other = { .owner = getpid() };
    if (check_size(size, err) < 0)
        return -1;
    for (unsigned i = 0; i < mem->count; i++)
        if (mem->regions[i].mapped && mk_mem_is_own(size, mem->regions[i].gpa))
            return mk_fail(err, EEXIST,
                           "RAM of %llu bytes would lie over %s at 0x%llx: give the VM "
                           "its mode or memory when it is made",
                           (ull)size, mem->regions[i].name, (ull)mem->regions[i].gpa);
    if (add_own(&other, size, err) < 0 || !room_for(&other, mem->count, err)) {
        mk_mem_close(&other);
        return -1;
    }
    copy_own(mem, &other);
    move_mapped(mem, &other);
    *mem = other;
    return 0;
}

bool mk_mem_is_own(uint64_t memory, uint64_t gpa)
{
    return gpa < MK_HOLE ? gpa < memory
                         : memory > MK_HOLE && gpa >= MK_HIGH && gpa - MK_HIGH < memory - MK_HOLE;
}

const struct mk_region *mk_mem_overlap(const struct mk_mem *mem, uint64_t gpa, uint64_t size)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mk_region *r = &mem->regions[i];
        if (gpa < r->gpa + r->size && r->gpa < gpa + size)
            return r;
    }
    return NULL;
}

struct mk_region *mk_mem_by_slot(const struct mk_mem *mem, uint32_t slot)
{
    for (unsigned i = 0; i < mem->count; i++)
        if (mem->regions[i].slot == slot)
            return &mem->regions[i];
    return NULL;
}

int mk_mem_check_add(const struct mk_mem *mem, const struct mk_region *r, struct mk_err *err)
{
    const struct mk_region *other;
    if (r->size == 0 || r->size % MK_PAGE || r->gpa % MK_PAGE)
        return mk_fail(err, EINVAL,
                       "%s: 0x%llx bytes at 0x%llx: both are multiples of 4096, and the "
                       "size is not 0",
                       r->name, (ull)r->size, (ull)r->gpa);
    if (r->size > MK_MEM_MAX - (mem->bytes - mem->size) || r->gpa > TOP - r->size)
        return mk_fail(err, EINVAL,
                       "%s: 0x%llx bytes at 0x%llx: a VM's regions have at most 64G in "
                       "all, and end below 0x%llx",
                       r->name, (ull)r->size, (ull)r->gpa, (ull)TOP);
    if ((other = mk_mem_overlap(mem, r->gpa, r->size)))
        return mk_fail(err, EEXIST, "%s: 0x%llx-0x%llx overlaps %s at 0x%llx-0x%llx", r->name,
                       (ull)r->gpa, (ull)(r->gpa + r->size - 1), other->name, (ull)other->gpa,
                       (ull)(other->gpa + other->size - 1));
    if (mem->count >= MK_REGIONS - 1) /* one slot is for mk_mem_flush() */
        return mk_fail(err, ENOSPC,
                       "%s: a VM has at most %d regions of memory: remove others, or "
                       "map larger ones",
                       r->name, MK_REGIONS - 1);
    return 0;
}

struct mk_region *mk_mem_add(struct mk_mem *mem, const struct mk_region *want, int fd,
                             struct mk_err *err)
{
    if (mk_mem_check_add(mem, want, err) < 0)
        return NULL;
    struct mk_region *added = add(mem, want, fd, 0, err);
    if (added && added->kind != MK_SHARED)
        mk_mem_stop_log(mem);
    return added;
}

void mk_mem_remove(struct mk_mem *mem, struct mk_region *region)
{
    if (region->kind != MK_SHARED)
        mk_mem_stop_log(mem);
    unmap_region(region);
    for (unsigned i = (unsigned)(region - mem->regions); i + 1 < mem->count; i++)
        mem->regions[i] = mem->regions[i + 1];
    mem->count--;
    place_all(mem);
}

void mk_mem_reset(struct mk_mem *mem)
{
    for (unsigned i = 0; i < mem->count; i++) {
        struct mk_region *r = &mem->regions[i];
        r->ignored = 0;
        if (r->kind == MK_RAM && (mem->copied || madvise(r->host, r->size, MADV_DONTNEED) < 0))
            memset(r->host, 0, r->size);
    }
    mk_mem_stop_log(mem);
}
