/* test_file_port.c - the file port (src/dev/file.h) without a guest: long commands, and accesses by
 * chance. Arguments: how many of these and their seed. No KVM, no Lua. Prints TAP. */
#include "base/abi.h"
#include "box.h"
#include "dev/bus.h"
#include "dev/file.h"
#include "files/fsbox.h"
#include "tap.h"

#include <stdlib.h>

static struct mk_err err;

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static uint64_t cpu_reg(struct mk_cpu *cpu, enum mk_reg reg)
{
    return (void)cpu, (void)reg, 0;
}

static const struct mk_cpu_ops cpu_ops = { .reg = cpu_reg };

/* Numbers that are likely to matter. */
static uint32_t interesting(uint32_t *state, uint32_t ram)
{
    static const uint32_t numbers[] = { 0,   1,          2,          3,          4,         5,
                                        6,   7,          15,         16,         40,        255,
                                        256, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff };
    uint32_t n = numbers[next_random(state) % MK_COUNT(numbers)];
    switch (next_random(state) % 4) {
    case 0: return ram - n;
    case 1: return next_random(state) % ram;
    default: return n;
    }
}

static void random_block(struct mk_mem *mem, uint32_t at, uint32_t *state)
{
    uint32_t ram = (uint32_t)mem->size, block[10];
    for (unsigned i = 0; i < 10; i++)
        block[i] = interesting(state, ram);
    block[0] = next_random(state) % 8;
    block[1] = next_random(state) % 32;
    block[2] = next_random(state) % 4 ? next_random(state) % 4 : block[2];
    block[5] = next_random(state) % 8 ? 0 : block[5];
    if (block[0] == MK_FILE_OP_OPEN && next_random(state) % 2) {
        block[3] = 1;
        block[4] = 0x100;
        mk_mem_write(mem, 0x100, &(char){ (char)('a' + next_random(state) % 3) }, 1);
    }
    mk_mem_write(mem, at, block, sizeof(block));
}

/* A command of more bytes than are kept takes them all, and no more memory than is kept. */
static void test_long_commands(void)
{
    static const uint8_t write_head[] = { 4, 0, 0, 0, 0, 0, 0, 0x10, 1 }; /* 17 MiB */
    static const uint8_t read_head[] = { 3, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f };
    struct mk_fsbox box;
    struct mk_file_port port;
    struct mk_devs list = { 0 };
    struct mk_bus bus, *const buses[MK_SPACES] = { &bus };
    struct mk_mem mem = { 0 };
    struct mk_cpu cpu = { .ops = &cpu_ops };
    int32_t n = 0;
    mk_bus_init(&bus, MK_SPACE_PORTS);
    mk_fsbox_init(&box, "long", NULL, &err);
    mk_devs_add(&list, mk_file_init(&port, &box, &mem), &mk_file_dev);
    mk_devs_grow(&list, 1, &err);
    mk_devs_attach(&list, buses, &err);
    open_name(&box, "f", MK_FILE_READ | MK_FILE_WRITE);
    for (unsigned i = 0; i < sizeof(write_head) + (17u << 20); i++)
        mk_bus_out(&bus, &cpu, MK_PORT_FILE, 1, i < sizeof(write_head) ? write_head[i] : i, NULL);
    for (unsigned i = 0; i < 4; i++)
        n |= (int32_t)mk_bus_in(&bus, &cpu, MK_PORT_FILE, 1, NULL) << (8 * i);
    tap_is(n, MK_FILE_WIRE_MAX, "a WRITE of 17 MiB writes what is kept");
    tap_is(mk_fsbox_size(&box, 0), MK_FILE_WIRE_MAX, "and that is in the file");
    tap_is(mk_bus_in(&bus, &cpu, MK_PORT_FILE, 1, NULL), 0, "all its data were taken");
    mk_fsbox_write(&box, 0, "more", 4);
    mk_fsbox_seek(&box, 0, 9, MK_FILE_SET, INT64_MAX);
    for (unsigned i = 0; i < sizeof(read_head); i++)
        mk_bus_out(&bus, &cpu, MK_PORT_FILE, 1, read_head[i], NULL);
    n = 0;
    for (unsigned i = 0; i < 4; i++)
        n |= (int32_t)mk_bus_in(&bus, &cpu, MK_PORT_FILE, 1, NULL) << (8 * i);
    tap_is(n, MK_FILE_WIRE_MAX - 9 + 4, "a READ of 2 GiB reads what is there");
    bool same = true;
    for (unsigned i = 9; i < MK_FILE_WIRE_MAX && same; i++)
        same = mk_bus_in(&bus, &cpu, MK_PORT_FILE, 1, NULL) == (uint8_t)(i + sizeof(write_head));
    tap_ok(same && mk_bus_in(&bus, &cpu, MK_PORT_FILE, 1, NULL) == 'm', "its data are the file's");
    mk_bus_free(&bus);
    mk_devs_free(&list);
    mk_fsbox_free(&box);
}

static void test_random(unsigned accesses, uint32_t state)
{
    struct mk_mem mem = { 0 };
    struct mk_bus bus, *const buses[MK_SPACES] = { &bus };
    struct mk_fsbox box;
    struct mk_file_port port;
    struct mk_devs list = { 0 };
    struct mk_policy *p = mk_policy_new(NULL, NULL, &err);
    struct mk_cpu cpu[2] = { { .ops = &cpu_ops }, { .index = 1, .ops = &cpu_ops } };
    p->limits.bytes = p->limits.file = 1 << 20;
    p->audit = true;
    mk_mem_open(&mem, 64 << 10, &err);
    mk_bus_init(&bus, MK_SPACE_PORTS);
    mk_fsbox_init(&box, "random", p, &err);
    mk_devs_add(&list, mk_file_init(&port, &box, &mem), &mk_file_dev);
    mk_devs_grow(&list, 2, &err);
    mk_devs_attach(&list, buses, &err);
    unsigned before = descriptors();
    for (unsigned i = 0; i < accesses; i++) {
        struct mk_cpu *c = &cpu[next_random(&state) % 2];
        uint32_t at = next_random(&state) % 4 ? 0x1000 : interesting(&state, (uint32_t)mem.size);
        switch (next_random(&state) % 8) {
        case 0:
            random_block(&mem, at, &state);
            mk_bus_out(&bus, c, MK_PORT_FILE_BLOCK, 4, at, NULL);
            break;
        case 1:
            mk_bus_in(&bus, c, (uint16_t)(MK_PORT_FILE + next_random(&state) % 8), 4, NULL);
            break;
        case 2: mk_bus_in(&bus, c, MK_PORT_FILE, 1, NULL); break;
        case 3:
            if (next_random(&state) % 64 == 0)
                mk_file_abort(&port, c->index);
            break;
        default:
            mk_bus_out(&bus, c, MK_PORT_FILE, 1,
                       next_random(&state) % 3 ? next_random(&state) % 8 : next_random(&state),
                       NULL);
        }
    }
    bool bounded = box.bytes <= p->limits.bytes && box.files <= p->limits.files;
    mk_bus_free(&bus);
    mk_devs_free(&list);
    mk_fsbox_free(&box);
    mk_policy_unref(p);
    mk_mem_close(&mem);
    tap_ok(bounded, "random accesses stay within the quotas");
    tap_is(descriptors(), before, "and leave no descriptor open");
}

int main(int argc, char **argv)
{
    test_long_commands();
    test_random(argc > 1 ? (unsigned)atoi(argv[1]) : 100000,
                argc > 2 ? (uint32_t)atoi(argv[2]) : 1);
    return tap_done();
}
