/* snapshot.c - files that claim to be snapshots (src/snapshot/file.c, code.c, all tables of
 * devices' states), with a checksum that is right. The machine is one without hardware. */
#include "fuzz.h"

#include "snapshot/snapshot.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

static int file;
static char path[64];

static void init(void)
{
    file = memfd_create("snapshot", MFD_CLOEXEC);
    fuzz_check(file >= 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
}

/* Magic, version, checksum and length as they must be; the rest is the input. */
static void put(const uint8_t *bytes, size_t length)
{
    struct {
        char magic[8];
        uint32_t version, crc;
        uint64_t length;
    } head = { "\x89MKSNAP\n", MK_SNAPSHOT_VERSION, (uint32_t)crc32(0, bytes, (uInt)length),
               sizeof(head) + length };
    fuzz_check(ftruncate(file, 0) == 0);
    fuzz_check(pwrite(file, &head, sizeof(head), 0) == sizeof(head));
    fuzz_check(pwrite(file, bytes, length, sizeof(head)) == (ssize_t)length);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct mk_err err = { 0 };
    fuzz_steps++;
    put(bytes, length);
    struct mk_snapshot *snap = mk_snapshot_load(path, &err);
    if (!snap)
        fuzz_check(err.text[0]);
    else
        fuzz_steps++;
    mk_snapshot_free(snap);
}

FUZZ_TARGET(snapshot, init, one)
