/* file.c - the file port: both protocols, any command, any request block (src/dev/file.c,
 * src/files/fsbox*.c), and states as a snapshot may have them. */
#include "fuzz.h"

#include "base/abi.h"
#include "dev/bus.h"
#include "dev/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct mk_policy *policy;
static struct mk_fsbox box;
static struct mk_file_port port;
static struct mk_devs devices;
static struct mk_bus bus;
static struct fuzz_cpu cpu;
static char root[] = "/dev/shm/fuzz-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    fuzz_check(fd >= 0 && write(fd, text, strlen(text)) >= 0);
    close(fd);
}

static void clean(void)
{
    char command[64];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    fuzz_check(system(command) >= 0);
}

static void init(void)
{
    static const struct {
        const char *pattern;
        enum mk_verdict verdict;
    } rules[] = { { "r", MK_FILE_RO },
                  { "w", MK_FILE_RW },
                  { "c*", MK_FILE_COW },
                  { "d", MK_FILE_DENY },
                  { "**/x?", MK_FILE_RW } };
    struct mk_err err;
    struct mk_bus *const buses[MK_SPACES] = { &bus };
    fuzz_mem_open();
    if (!mkdtemp(root))
        fuzz_check(mkdtemp(memcpy(root, "/tmp/fuzz-XXXXXX", sizeof("/tmp/fuzz-XXXXXX"))));
    atexit(clean);
    setenv("TMPDIR", root, 1);
    policy = mk_policy_new(root, NULL, &err);
    fuzz_check(policy);
    policy->limits.bytes = 100000;
    policy->audit = true;
    for (size_t i = 0; i < MK_COUNT(rules); i++)
        fuzz_check(mk_policy_add(policy, rules[i].pattern, rules[i].verdict, &err) == 0);
    put("r", "to read\n");
    put("c1", "to be copied\n");
    fuzz_check(mk_fsbox_init(&box, "fuzz", policy, &err) == 0);
    mk_bus_init(&bus, MK_SPACE_PORTS);
    mk_devs_add(&devices, mk_file_init(&port, &box, &fuzz_mem), &mk_file_dev);
    fuzz_check(mk_devs_attach(&devices, buses, &err) == 0 && mk_devs_grow(&devices, 1, &err) == 0);
}

static void out(uint16_t at, uint8_t size, uint32_t value)
{
    mk_bus_out(&bus, &cpu.cpu, at, size, value, NULL);
}

static uint32_t in(uint16_t at, uint8_t size)
{
    return (uint32_t)mk_bus_in(&bus, &cpu.cpu, at, size, NULL);
}

/* A whole command of the byte protocol, with a name or descriptor of its own. */
static void command(struct fuzz_in *input)
{
    static const uint8_t names[] = { 'r', 'w', 'c', 'd', 'n', '/', '.', 0 };
    uint8_t op = fuzz_u8(input) % 8;
    size_t length;
    out(MK_PORT_FILE, 1, op);
    if (op == MK_FILE_OP_OPEN) {
        out(MK_PORT_FILE, 1, fuzz_u8(input));
        out(MK_PORT_FILE, 1, 2);
        out(MK_PORT_FILE, 1, names[fuzz_u8(input) % MK_COUNT(names)]);
        out(MK_PORT_FILE, 1, '1');
    }
    const uint8_t *bytes = fuzz_bytes(input, fuzz_u8(input), &length);
    for (size_t i = 0; i < length; i++)
        out(MK_PORT_FILE, 1, bytes[i]);
    for (unsigned i = 0; i < 8; i++)
        in(MK_PORT_FILE, 1);
}

/* A request block with fields that are near to sense. */
static void block(struct fuzz_in *input)
{
    struct {
        uint32_t op, flags;
        int32_t fd;
        uint32_t count;
        uint64_t address;
        int64_t offset, result;
    } b = { .op = fuzz_u8(input) % 8, .flags = fuzz_u8(input), .fd = (int8_t)fuzz_u8(input) };
    uint8_t shape = fuzz_u8(input);
    b.count = shape & 1 ? fuzz_u32(input) : fuzz_u8(input);
    b.address = shape & 2 ? fuzz_address(input) : fuzz_u16(input);
    b.offset = shape & 4 ? (int64_t)fuzz_number(input, 8) : (int8_t)fuzz_u8(input);
    uint64_t at = shape & 8 ? fuzz_address(input) : 0x100;
    mk_mem_write(&fuzz_mem, at, &b, sizeof(b));
    out(MK_PORT_FILE_BLOCK, 4, (uint32_t)at);
    in(MK_PORT_FILE_BLOCK, 4);
}

/* What the device has, with a byte of it changed: refused, or harmless. */
static void load(struct fuzz_in *input)
{
    struct mk_bytes state = { 0 };
    mk_devs_save(&devices, 0, &state, NULL);
    for (unsigned n = fuzz_u8(input) % 4; n && state.length; n--)
        state.data[fuzz_u16(input) % state.length] = fuzz_u8(input);
    if (mk_devs_load(&devices, 0, &state, MK_LOAD_ALL, NULL) < 0)
        mk_devs_reset(&devices);
    mk_bytes_free(&state);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in input = { bytes, length };
    fuzz_mem_reset();
    fuzz_cpu_reset(&cpu);
    put("w", "to write\n");
    while (input.left) {
        fuzz_steps++;
        switch (fuzz_u8(&input) & 15) {
        case 0:
        case 1:
        case 2:
        case 3: command(&input); break;
        case 4:
        case 5:
        case 6:
        case 7: block(&input); break;
        case 8: fuzz_poke(&input); break;
        case 9: out(MK_PORT_FILE, 1, fuzz_u8(&input)); break;
        case 10: in(MK_PORT_FILE, 1); break;
        case 11: out(MK_PORT_FILE_BLOCK, (uint8_t)fuzz_size(&input) & 7, fuzz_u32(&input)); break;
        case 12: in(MK_PORT_FILE_BLOCK, 1); break;
        case 13: load(&input); break;
        case 14: mk_file_abort(&port, 0); break;
        default: mk_fsbox_size(&box, (int8_t)fuzz_u8(&input)); break;
        }
    }
    mk_devs_reset(&devices);
}

FUZZ_TARGET(file, init, one)
