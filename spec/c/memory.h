/* memory.h - guest memory without a VM, for tests of what lies in it. */
#ifndef TEST_MEMORY_H
#define TEST_MEMORY_H

#include "base/abi.h"
#include "tap.h"
#include "x86/mode.h"

#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)
#define P 1u    /* present */
#define W 2u    /* writable */
#define U 4u    /* user */
#define L 0x80u /* large */

static inline struct mk_mem open_memory(uint64_t size)
{
    struct mk_mem mem;
    struct mk_err err;
    if (mk_mem_open(&mem, size, &err) < 0) {
        printf("Bail out! %s\n", err.text);
        exit(1);
    }
    return mem;
}

static inline uint32_t get32(const struct mk_mem *mem, uint64_t at)
{
    uint32_t value = 0xdeadbeef;
    mk_mem_read(mem, at, &value, sizeof(value));
    return value;
}

static inline uint64_t get64(const struct mk_mem *mem, uint64_t at)
{
    return get32(mem, at) | (uint64_t)get32(mem, at + 4) << 32;
}

static inline void put32(struct mk_mem *mem, uint64_t at, uint32_t value)
{
    mk_mem_write(mem, at, &value, sizeof(value));
}

static inline void put64(struct mk_mem *mem, uint64_t at, uint64_t value)
{
    mk_mem_write(mem, at, &value, sizeof(value));
}

/* Is every byte of the range this one? */
static inline bool all(const struct mk_mem *mem, uint64_t from, uint64_t to, uint8_t byte)
{
    const uint8_t *at = mk_mem_at(mem, from, to - from);
    for (uint64_t i = 0; at && i < to - from; i++)
        if (at[i] != byte)
            return false;
    return at != NULL;
}

#endif
