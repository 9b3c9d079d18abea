/* test_mem.c - what devices use of guest memory (src/kvm/mem.h): any address and length, and a file
 * that somebody cuts off between the look at it and the copy. No KVM. Prints TAP.
 *
 * fstat() is replaced by one that can cut the file when it has answered. */
#include "kvm/mem.h"
#include "tap.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RAM 0x10000u
#define ROM 0x20000u
#define FILE_AT 0x30000u

static bool cut;

int fstat(int fd, struct stat *st)
{
    int rc = (int)syscall(SYS_newfstatat, fd, "", st, 0x1000 /* AT_EMPTY_PATH */);
    if (cut && ftruncate(fd, 0) < 0)
        abort();
    return rc;
}

static struct mk_mem mem;
static int file;

static void add(uint64_t gpa, enum mk_region_kind kind, bool read_only, int fd)
{
    const struct mk_region want = {
        .gpa = gpa, .size = MK_PAGE, .kind = kind, .read_only = read_only, .mapped = true
    };
    struct mk_err err;
    if (!mk_mem_add(&mem, &want, fd, &err))
        abort();
}

static void open_all(void)
{
    struct mk_err err;
    file = memfd_create("test", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, MK_PAGE) < 0 || mk_mem_open(&mem, RAM, &err) < 0)
        abort();
    add(ROM, MK_ROM, true, -1);
    add(ROM + MK_PAGE, MK_RAM, false, -1);
    add(FILE_AT, MK_SHARED, false, file);
}

/* Whether each of the ways there are says the same; the bytes are copied over themselves. */
static bool agree(uint64_t at, uint64_t length, bool read, bool write)
{
    static uint8_t bytes[2 * MK_PAGE];
    bool same =
        mk_mem_has(&mem, at, length, false) == read && mk_mem_has(&mem, at, length, true) == write;
    if (length > sizeof(bytes))
        return same;
    return same && mk_mem_read(&mem, at, bytes, length) == read &&
           mk_mem_write(&mem, at, bytes, length) == write;
}

static void test_ranges(void)
{
    tap_ok(agree(0, RAM, true, true), "all of RAM");
    tap_ok(agree(RAM - 1, 1, true, true) && agree(RAM - 1, 2, false, false), "its end");
    tap_ok(agree(UINT64_MAX, 1, false, false) && agree(UINT64_MAX, 2, false, false) &&
               agree(1, UINT64_MAX, false, false) && agree(RAM - 4, UINT64_MAX - 3, false, false),
           "sums that overflow");
    tap_ok(agree(ROM, 16, true, false), "ROM");
    tap_ok(agree(ROM + MK_PAGE - 8, 16, true, false) &&
               agree(ROM + 2 * MK_PAGE - 8, 16, false, false),
           "two regions that meet, and a hole behind them");
    tap_ok(agree(FILE_AT, MK_PAGE, true, true), "a file");
}

static void test_pieces(void)
{
    uint64_t n = 100;
    tap_ok(mk_mem_piece(&mem, ROM + MK_PAGE - 8, &n) == mem.regions[1].host + MK_PAGE - 8 && n == 8,
           "a piece ends where its region does");
    n = 100;
    tap_ok(!mk_mem_writable_piece(&mem, ROM, &n), "none of ROM is to be written");
    n = UINT64_MAX;
    tap_ok(mk_mem_piece(&mem, RAM - 1, &n) && n == 1, "any length is taken");
    n = 1;
    tap_ok(!mk_mem_piece(&mem, RAM, &n) && n == 0, "nothing is in a hole");
}

/* Once a device has begun, a file of the host's may become shorter. */
static void test_cut_file(void)
{
    uint8_t bytes[8] = "bytes";
    cut = true;
    tap_ok(!mk_mem_read(&mem, FILE_AT, bytes, sizeof(bytes)), "a read of what is gone is none");
    cut = false;
    tap_ok(!mk_mem_has(&mem, FILE_AT, 1, false), "and it is no memory any more");
    uint64_t n = 8;
    tap_ok(!mk_mem_piece(&mem, FILE_AT, &n), "nor a piece of it");
    if (ftruncate(file, MK_PAGE) < 0)
        abort();
    tap_ok(mk_mem_write(&mem, FILE_AT + 8, "again", 5) &&
               mk_mem_read(&mem, FILE_AT + 8, bytes, 5) && memcmp(bytes, "again", 5) == 0 &&
               memcmp(mem.regions[3].host + 8, "again", 5) == 0,
           "until it is as long as before");
}

int main(void)
{
    open_all();
    test_ranges();
    test_pieces();
    test_cut_file();
    mk_mem_close(&mem);
    return tap_done();
}
