/* fuzz.h - targets that are tried with bytes of any kind: one for each part of minikvm that reads
 * what a stranger sends (docs/security.md). No KVM.
 *
 * A target is a function of some bytes, registered by FUZZ_TARGET. libFuzzer calls it in the
 * program of `make fuzz`, replay.c with the kept inputs in that of `make test`. What is wrong is
 * told by sanitizers, by fuzz_check(), and by a time limit. Same bytes, same work: nothing is kept
 * from one call to the next that a guest could see. */
#ifndef FUZZ_H
#define FUZZ_H

#include "base/util.h"
#include "kvm/cpu.h"
#include "kvm/mem.h"

struct fuzz_target {
    const char *name;
    void (*init)(void); /* once, before the first call; may be NULL */
    void (*one)(const uint8_t *bytes, size_t length);
    struct fuzz_target *next;
};

extern struct fuzz_target *fuzz_targets;
void fuzz_register(struct fuzz_target *target);

#define FUZZ_TARGET(name, init, one)                                                               \
    __attribute__((constructor)) static void register_##name(void)                                 \
    {                                                                                              \
        static struct fuzz_target target = { #name, init, one, NULL };                             \
        fuzz_register(&target);                                                                    \
    }

/* What a target did: accesses, commands, requests. Told at the end. */
extern uint64_t fuzz_steps;

/* Ends the process with a report when it does not hold. */
#define fuzz_check(what)                                                                           \
    do                                                                                             \
        if (!(what))                                                                               \
            fuzz_failed(#what, __FILE__, __LINE__);                                                \
    while (0)
_Noreturn void fuzz_failed(const char *what, const char *file, int line);

/* --- the bytes, one after the other; zeros when there are no more --- */

struct fuzz_in {
    const uint8_t *at;
    size_t left;
};

uint64_t fuzz_number(struct fuzz_in *in, unsigned bytes);
static inline uint8_t fuzz_u8(struct fuzz_in *in)
{
    return (uint8_t)fuzz_number(in, 1);
}
static inline uint16_t fuzz_u16(struct fuzz_in *in)
{
    return (uint16_t)fuzz_number(in, 2);
}
static inline uint32_t fuzz_u32(struct fuzz_in *in)
{
    return (uint32_t)fuzz_number(in, 4);
}
/* Up to `most` of the bytes that follow, where they are; *length of them. */
const uint8_t *fuzz_bytes(struct fuzz_in *in, size_t most, size_t *length);
/* 1, 2, 4 or 8. */
unsigned fuzz_size(struct fuzz_in *in);

/* --- a vCPU, and memory --- */

/* Its registers, in the order of enum mk_reg, and why it ended, MK_RUNNING: it did not. */
struct fuzz_cpu {
    struct mk_cpu cpu;
    uint64_t reg[7];
    enum mk_reason reason;
    unsigned trips; /* so often it may go on */
};

void fuzz_cpu_reset(struct fuzz_cpu *cpu);

/* RAM at 0 (64 KiB) and at 0x21000, ROM at 0x20000, between them nothing; a file at 0x30000, and
 * one that is only read at 0x31000, a page each. */
#define FUZZ_RAM 0x10000u
extern struct mk_mem fuzz_mem;
void fuzz_mem_open(void);
/* All zero again, at most `bytes` of it. */
void fuzz_mem_reset(void);
/* Somewhere near an end of a region, or anywhere. */
uint64_t fuzz_address(struct fuzz_in *in);
/* Bytes of the input into memory. */
void fuzz_poke(struct fuzz_in *in);

#endif
