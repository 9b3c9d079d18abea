/* fuzz.c - see fuzz.h: what the targets share. */
#include "fuzz.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct fuzz_target *fuzz_targets;
uint64_t fuzz_steps;

/* By name. */
void fuzz_register(struct fuzz_target *target)
{
    struct fuzz_target **at = &fuzz_targets;
    while (*at && strcmp((*at)->name, target->name) < 0)
        at = &(*at)->next;
    target->next = *at;
    *at = target;
}

void fuzz_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

/* --- the bytes --- */

uint64_t fuzz_number(struct fuzz_in *in, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && in->left; i++, in->left--)
        value |= (uint64_t)*in->at++ << 8 * i;
    return value;
}

const uint8_t *fuzz_bytes(struct fuzz_in *in, size_t most, size_t *length)
{
    const uint8_t *at = in->at;
    *length = in->left < most ? in->left : most;
    in->at += *length;
    in->left -= *length;
    return at;
}

unsigned fuzz_size(struct fuzz_in *in)
{
    return 1u << (fuzz_u8(in) & 3);
}

/* --- a vCPU --- */

static uint64_t cpu_reg(struct mk_cpu *cpu, enum mk_reg reg)
{
    return ((struct fuzz_cpu *)cpu)->reg[reg];
}

static void MK_PRINTF(5, 6) cpu_end(struct mk_cpu *cpu, enum mk_reason reason, int64_t code,
                                    bool whole_vm, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    (void)code, (void)whole_vm;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    ((struct fuzz_cpu *)cpu)->reason = reason;
}

static void cpu_idle(struct mk_cpu *cpu, unsigned ms)
{
    (void)cpu, (void)ms;
}

static bool cpu_may_continue(struct mk_cpu *cpu)
{
    struct fuzz_cpu *c = (struct fuzz_cpu *)cpu;
    return c->trips && c->trips--;
}

static uint64_t cpu_output_room(struct mk_cpu *cpu)
{
    return cpu_may_continue(cpu) ? 1000 : 0;
}

void fuzz_cpu_reset(struct fuzz_cpu *cpu)
{
    static const struct mk_cpu_ops ops = { cpu_reg, cpu_end, cpu_idle, cpu_may_continue,
                                           cpu_output_room };
    *cpu = (struct fuzz_cpu){ .cpu = { .ops = &ops }, .trips = 64 };
}

/* --- memory --- */

struct mk_mem fuzz_mem;

static const struct mk_region mapped[] = {
    { .gpa = 0x20000, .size = MK_PAGE, .kind = MK_ROM, .read_only = true, .mapped = true },
    { .gpa = 0x21000, .size = MK_PAGE, .kind = MK_RAM, .mapped = true },
    { .gpa = 0x30000, .size = MK_PAGE, .kind = MK_SHARED, .mapped = true },
    { .gpa = 0x31000, .size = MK_PAGE, .kind = MK_SHARED, .read_only = true, .mapped = true },
};

void fuzz_mem_open(void)
{
    struct mk_err err;
    if (fuzz_mem.count) /* for another target of this process */
        return;
    int file = memfd_create("fuzz", MFD_CLOEXEC);
    bool fine =
        file >= 0 && ftruncate(file, MK_PAGE) == 0 && mk_mem_open(&fuzz_mem, FUZZ_RAM, &err) == 0;
    for (size_t i = 0; i < MK_COUNT(mapped) && fine; i++)
        fine = mk_mem_add(&fuzz_mem, &mapped[i], mapped[i].kind == MK_SHARED ? file : -1, &err);
    close(file);
    fuzz_check(fine && mk_mem_start_log(&fuzz_mem, &err) == 0);
}

void fuzz_mem_reset(void)
{
    for (unsigned i = 0; i < fuzz_mem.count; i++)
        if (!fuzz_mem.regions[i].read_only)
            memset(fuzz_mem.regions[i].host, 0, fuzz_mem.regions[i].size);
}

uint64_t fuzz_address(struct fuzz_in *in)
{
    static const uint64_t places[] = { 0,       0,          FUZZ_RAM,   0x20000,  0x21000,
                                       0x22000, 0x30000,    0x31000,    0x32000,  0x7fffffff,
                                       MK_HOLE, UINT32_MAX, UINT64_MAX, INT64_MAX };
    uint64_t place = places[fuzz_u8(in) % MK_COUNT(places)];
    return place + (uint64_t)(int64_t)(int16_t)fuzz_u16(in);
}

void fuzz_poke(struct fuzz_in *in)
{
    size_t length;
    uint64_t at = fuzz_u16(in);
    const uint8_t *bytes = fuzz_bytes(in, fuzz_u8(in), &length);
    if (at + length <= FUZZ_RAM)
        memcpy(fuzz_mem.regions[0].host + at, bytes, length);
}
