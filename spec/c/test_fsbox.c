/* test_fsbox.c - file policies, containment and copies without a guest: what is hard to bring about
 * from inside one. No KVM, no Lua.
 *
 * The system calls that make copies are replaced by wrappers that can fail, so that every way of
 * copying and every failure is taken. Prints TAP. */
#include "base/abi.h"
#include "box.h"
#include "files/fsbox.h"
#include "tap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BIG (3u << 20)
#define THREADS 4

/* --- system calls that fail when told to --- */

static bool no_tmpfile;
static _Atomic int writes_left = -1; /* pwrite() fails with ENOSPC after so many; -1: never */
static bool die;                     /* instead of failing, the process is killed */

static bool used_up(_Atomic int *left)
{
    if (*left < 0 || --*left >= 0)
        return false;
    if (die)
        raise(SIGKILL);
    *left = 0;
    return true;
}

int openat(int dir, const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_openat, dir, name, flags, mode);
}

ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
    if (used_up(&writes_left)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, from, n, at);
}

static unsigned steal; /* so many new directories are gone at once, as if they were stale */

char *mkdtemp(char *path)
{
    static unsigned made;
    made = made ? made : (unsigned)getpid();
    snprintf(path + strlen(path) - 6, 7, "%06u", made++ % 1000000);
    if (mkdir(path, 0700) < 0 || (steal && steal-- && rmdir(path) < 0))
        return NULL;
    return path;
}

/* --- folders --- */

static char base[] = "/tmp/test_fsbox-XXXXXX";
static char root_path[64], keep_path[64];
static struct mk_err err;

static char *path_of(const char *format, ...)
{
    static char path[4][512];
    static unsigned turn;
    va_list ap;
    va_start(ap, format);
    vsnprintf(path[++turn % 4], sizeof(path[0]), format, ap);
    va_end(ap);
    return path[turn % 4];
}

static const char *swap_with; /* changes names with "f" after the next fstat() */

int fstat(int fd, struct stat *st)
{
    int rc = (int)syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH);
    if (swap_with) {
        const char *other = swap_with;
        swap_with = NULL;
        renameat2(AT_FDCWD, path_of("%s/f", root_path), AT_FDCWD,
                  path_of("%s/%s", root_path, other), RENAME_EXCHANGE);
    }
    return rc;
}

static void put(const char *path, size_t size)
{
    FILE *f = fopen(path, "wb");
    for (size_t i = 0; f && i < size; i++)
        fputc((int)(i * 7 + i / 4096), f);
    if (!f || fclose(f) != 0)
        perror(path);
}

/* Whether it is what put() makes. */
static bool intact(const char *path, size_t size)
{
    FILE *f = fopen(path, "rb");
    bool good = f != NULL;
    for (size_t i = 0; good && i < size; i++)
        good = fgetc(f) == (uint8_t)(i * 7 + i / 4096);
    good = good && fgetc(f) == EOF;
    if (f)
        fclose(f);
    return good;
}

/* Entries of a folder; hidden ones are those that begin with '~'. */
static unsigned entries(const char *path, bool hidden)
{
    DIR *list = opendir(path);
    unsigned n = 0;
    for (struct dirent *e; list && (e = readdir(list));)
        n += e->d_name[0] != '.' && (e->d_name[0] == '~') == hidden;
    if (list)
        closedir(list);
    return n;
}

static int open_folder(const char *path)
{
    mkdir(path, 0777);
    return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void remove_folder(const char *path)
{
    int fd = open_folder(path);
    mk_path_empty(fd);
    close(fd);
    rmdir(path);
}

/* --- names and patterns --- */

static void test_names(void)
{
    static const struct {
        const char *name;
        size_t length;
        int want;
    } names[] = { { "a", 1, 0 },          { "a/b", 3, 0 },         { "A-z_0.9", 7, 0 },
                  { "...", 3, 0 },        { ".a", 2, 0 },          { "", 0, -EINVAL },
                  { ".", 1, -EINVAL },    { "..", 2, -EINVAL },    { "a/..", 4, -EINVAL },
                  { "../a", 4, -EINVAL }, { "a/./b", 5, -EINVAL }, { "/", 1, -EINVAL },
                  { "/a", 2, -EINVAL },   { "a/", 2, -EINVAL },    { "a//b", 4, -EINVAL },
                  { "a\0b", 3, -EINVAL }, { "a", 2, -EINVAL },     { "a b", 3, -EINVAL },
                  { "~a", 2, -EINVAL },   { "\xff", 1, -EINVAL } };
    char longest[257];
    bool good = true;
    memset(longest, 'n', sizeof(longest));
    for (size_t i = 0; i < MK_COUNT(names); i++)
        good &= mk_path_check(names[i].name, names[i].length) == names[i].want;
    tap_ok(good, "names");
    tap_is(mk_path_check(longest, 255), 0, "a name of 255 bytes");
    tap_is(mk_path_check(longest, 256), -ENAMETOOLONG, "a name of 256 bytes");
    tap_is(mk_path_check(longest, SIZE_MAX), -ENAMETOOLONG, "a name of all bytes there are");
}

static void test_patterns(void)
{
    static const struct {
        const char *pattern, *name;
        bool want;
    } cases[] = { { "a", "a", true },
                  { "a", "b", false },
                  { "a", "ab", false },
                  { "ab", "a", false },
                  { "*", "abc", true },
                  { "*", "a/b", false },
                  { "**", "a/b/c", true },
                  { "a*", "a", true },
                  { "*c", "abc", true },
                  { "*b", "abc", false },
                  { "a*c*e", "abcde", true },
                  { "a*c*e", "abcd", false },
                  { "?", "a", true },
                  { "?", "/", false },
                  { "??", "a", false },
                  { "a/*", "a/b", true },
                  { "a/*", "a/b/c", false },
                  { "a/**", "a/b/c", true },
                  { "**/c", "a/b/c", true },
                  { "**/c", "c", false },
                  { "**c", "c", true },
                  { "*/**/x", "a/b/c/x", true },
                  { "*/**/x", "a/x", false },
                  { "**.txt", "a/b.txt", true },
                  { "**/*.t", "a/b/c.t", true },
                  { "**/*.t/d", "a/b.t/c.t/d", true },
                  { "a**b", "ab", true },
                  { "*.png", "x.png.png", true },
                  { "*.png", "x.png/y", false },
                  { "***", "a/b", true } };
    bool good = true;
    for (size_t i = 0; i < MK_COUNT(cases); i++)
        if (mk_glob_match(cases[i].pattern, cases[i].name) != cases[i].want) {
            printf("# %s on %s\n", cases[i].pattern, cases[i].name);
            good = false;
        }
    tap_ok(good, "patterns");
    char name[256], pattern[256];
    memset(name, 'a', 255);
    name[255] = pattern[254] = 0;
    for (unsigned i = 0; i < 254; i += 2)
        memcpy(pattern + i, i % 4 ? "*a" : "a*", 2);
    pattern[253] = 'b';
    uint64_t from = mk_now();
    tap_ok(!mk_glob_match(pattern, name) && mk_now() - from < 1000000000u,
           "a pattern of many stars takes no time");
}

/* --- copies --- */

static void copy_by(const char *how, bool tmpfile)
{
    char title[100];
    no_tmpfile = !tmpfile;
    int dir = open_folder(keep_path);
    int from = open(path_of("%s/big", root_path), O_RDONLY | O_CLOEXEC);
    int fd = mk_path_copy(dir, "x/copy", dir, from, NULL, NULL);
    snprintf(title, sizeof(title), "copy: %s", how);
    tap_ok(fd >= 0 && intact(path_of("%s/x/copy", keep_path), BIG) &&
               entries(path_of("%s/x", keep_path), true) == 0,
           title);
    snprintf(title, sizeof(title), "copy: %s, does not replace a file", how);
    tap_is(mk_path_copy(dir, "x/copy", dir, from, NULL, NULL), -EEXIST, title);
    close(fd);
    close(from);
    close(dir);
    remove_folder(keep_path);
    no_tmpfile = false;
}

/* Fails (or is killed) at the first step, then at the second, until it passes. */
static void copy_fails(const char *how, bool tmpfile)
{
    char title[100];
    bool good = true;
    int step = 0;
    no_tmpfile = !tmpfile;
    unsigned before = descriptors();
    for (int fd = -1; fd < 0; step++) {
        int dir = open_folder(keep_path);
        int from = open(path_of("%s/big", root_path), O_RDONLY | O_CLOEXEC);
        writes_left = step;
        fd = mk_path_copy(dir, "copy", dir, from, NULL, NULL);
        writes_left = -1;
        good &= fd >= 0 ||
                (fd == -ENOSPC && entries(keep_path, false) == 0 && entries(keep_path, true) == 0);
        if (fd >= 0)
            close(fd);
        close(from);
        close(dir);
        remove_folder(keep_path);
    }
    snprintf(title, sizeof(title), "copy: %s, disk full at each of %d steps", how, step);
    tap_ok(good && step > 2 && descriptors() == before, title);
    no_tmpfile = false;
}

static int copy_in_child(int step)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        die = true;
        writes_left = step;
        int dir = open_folder(keep_path);
        int from = open(path_of("%s/big", root_path), O_RDONLY | O_CLOEXEC);
        _exit(mk_path_copy(dir, "copy", dir, from, NULL, NULL) < 0);
    }
    waitpid(pid, &status, 0);
    return status;
}

static void copy_killed(const char *how, bool tmpfile)
{
    char title[100];
    bool good = true;
    int step = 0, status = 1;
    no_tmpfile = !tmpfile;
    for (; status != 0; step++) {
        status = copy_in_child(step);
        good &= status == 0 || (WIFSIGNALED(status) && entries(keep_path, false) == 0 &&
                                entries(keep_path, true) == !tmpfile);
        if (status == 0)
            good &= intact(path_of("%s/copy", keep_path), BIG);
        remove_folder(keep_path);
    }
    snprintf(title, sizeof(title), "copy: %s, killed at each of %d steps", how, step);
    tap_ok(good && step > 2, title);
    no_tmpfile = false;
}

static void test_copies(void)
{
    static const struct {
        const char *how;
        bool tmpfile;
    } ways[] = { { "unnamed file", true }, { "hidden name", false } };
    for (size_t i = 0; i < MK_COUNT(ways); i++) {
        copy_by(ways[i].how, ways[i].tmpfile);
        copy_fails(ways[i].how, ways[i].tmpfile);
        copy_killed(ways[i].how, ways[i].tmpfile);
    }
}

/* --- boxes --- */

static struct mk_policy *make_policy(const char *pattern, enum mk_verdict verdict)
{
    struct mk_policy *p = mk_policy_new(root_path, keep_path, &err);
    if (!p || mk_policy_add(p, pattern, verdict, &err) < 0)
        printf("# %s\n", err.text);
    return p;
}

/* A VM with a directory that stays is killed while it copies: the next one clears that away. */
static void test_left_copy(void)
{
    struct mk_policy *p = make_policy("*", MK_FILE_COW);
    struct mk_fsbox box;
    int status;
    pid_t pid = fork();
    no_tmpfile = true;
    if (pid == 0) {
        mk_fsbox_init(&box, "killed", p, &err);
        die = true;
        writes_left = 2;
        _exit(open_name(&box, "big", MK_FILE_WRITE) < 0);
    }
    waitpid(pid, &status, 0);
    tap_ok(WIFSIGNALED(status) && entries(keep_path, true) == 1 &&
               entries(path_of("%s/killed", keep_path), true) == 0,
           "a copy that was not completed lies beside the VM's directory");
    mk_fsbox_init(&box, "next", p, &err);
    tap_is(open_name(&box, "big", MK_FILE_WRITE), 0, "the next VM copies");
    tap_ok(entries(keep_path, true) == 0 && intact(path_of("%s/next/big", keep_path), BIG),
           "and nothing else is left");
    mk_fsbox_free(&box);
    mk_policy_unref(p);
    no_tmpfile = false;
    remove_folder(keep_path);
}

/* Another process takes the new private directory for one that was left. */
static void test_stolen_directory(void)
{
    struct mk_fsbox box;
    unsigned before = descriptors();
    mk_fsbox_init(&box, "stolen", NULL, &err);
    steal = 3;
    tap_is(open_name(&box, "f", MK_FILE_WRITE), 0, "a private directory that was taken away");
    char *path = mk_fsbox_directory(&box);
    tap_ok(path && entries(path, false) == 1 && steal == 0, "is made again");
    free(path);
    mk_fsbox_free(&box);
    tap_is(descriptors(), before, "and leaves nothing");
}

/* What was written before the disk was full stays; the error comes with the next write. */
static void test_full(void)
{
    struct mk_fsbox box;
    char bytes[1000];
    memset(bytes, 'x', sizeof(bytes));
    mk_fsbox_init(&box, "full", NULL, &err);
    open_name(&box, "f", MK_FILE_READ | MK_FILE_WRITE);
    writes_left = 2;
    tap_is(mk_fsbox_write(&box, 0, bytes, 1000), 1000, "room for two writes: the first");
    tap_is(mk_fsbox_write(&box, 0, bytes, 1000), 1000, "the second");
    tap_is(mk_fsbox_write(&box, 0, bytes, 1000), -ENOSPC, "and no more");
    writes_left = -1;
    tap_is(mk_fsbox_size(&box, 0), 2000, "what was written stays");
    tap_is(mk_fsbox_seek(&box, 0, 0, MK_FILE_CUR, INT64_MAX), 2000, "and the position");
    mk_fsbox_free(&box);
}

/* A copy that cannot be made leaves the descriptor on the original. */
static void test_failed_cow(void)
{
    struct mk_policy *p = make_policy("*", MK_FILE_COW);
    struct mk_fsbox box;
    uint8_t byte;
    mk_fsbox_init(&box, "cow", p, &err);
    tap_is(open_name(&box, "big", MK_FILE_READ), 0, "cow: open for reading");
    writes_left = 1;
    tap_is(open_name(&box, "big", MK_FILE_WRITE), -ENOSPC, "cow: no room for the copy");
    writes_left = -1;
    tap_ok(mk_fsbox_read(&box, 0, &byte, 1) == 1 && byte == 0, "cow: still on the original");
    tap_is(open_name(&box, "big", MK_FILE_WRITE), 1, "cow: room again");
    byte = 77;
    tap_is(mk_fsbox_write(&box, 1, &byte, 1), 1, "cow: write");
    tap_is(mk_fsbox_seek(&box, 0, 0, MK_FILE_SET, INT64_MAX), 0, "cow: back to the start");
    tap_ok(mk_fsbox_read(&box, 0, &byte, 1) == 1 && byte == 77, "cow: both are on the copy");
    tap_ok(intact(path_of("%s/big", root_path), BIG), "cow: the original is untouched");
    mk_fsbox_free(&box);
    mk_policy_unref(p);
    remove_folder(keep_path);
}

/* Between the look at a file and its opening a FIFO takes its name: opening it would wake a writer.
 */
static void test_swapped(void)
{
    put(path_of("%s/f", root_path), 10);
    mkfifo(path_of("%s/fifo", root_path), 0666);
    int dir = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    swap_with = "fifo";
    int fd = mk_path_open(dir, "f", O_RDONLY);
    struct stat st = { 0 };
    tap_ok(!swap_with && fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 10,
           "the file that was looked at is the one that is opened");
    tap_is(mk_path_open(dir, "f", O_RDONLY), -EACCES, "and the FIFO is not");
    close(fd);
    close(dir);
    unlink(path_of("%s/f", root_path));
    unlink(path_of("%s/fifo", root_path));
}

/* The file behind a name is another one when it is opened for writing. */
static void test_replaced(void)
{
    struct mk_policy *p = make_policy("*", MK_FILE_RW);
    struct mk_fsbox box;
    mk_fsbox_init(&box, "rw", p, &err);
    put(path_of("%s/f", root_path), 10);
    tap_is(open_name(&box, "f", MK_FILE_READ), 0, "rw: open");
    put(path_of("%s/g", root_path), 20);
    rename(path_of("%s/g", root_path), path_of("%s/f", root_path));
    tap_is(open_name(&box, "f", MK_FILE_WRITE), 1, "rw: another file bears the name by now");
    tap_is(mk_fsbox_size(&box, 0), 10, "rw: the old descriptor is of the old one (POSIX, open)");
    tap_is(mk_fsbox_size(&box, 1), 20, "rw: the new one of the new one");
    tap_is(mk_fsbox_close(&box, 0), 0, "rw: close");
    tap_is(open_name(&box, "f", MK_FILE_WRITE), 0, "rw: opened again");
    mk_fsbox_free(&box);
    mk_policy_unref(p);
    unlink(path_of("%s/f", root_path));
    remove_folder(keep_path);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *use_box(void *arg)
{
    struct mk_fsbox *box = arg;
    uint32_t state = (uint32_t)(uintptr_t)&state;
    char bytes[200] = "";
    for (unsigned i = 0; i < 2000; i++) {
        char name[] = { (char)('a' + next_random(&state) % 5), 0 };
        int32_t fd = (int32_t)(next_random(&state) % 18) - 1;
        switch (next_random(&state) % 8) {
        case 0:
        case 1: open_name(box, name, next_random(&state) % 32); break;
        case 2: mk_fsbox_close(box, fd); break;
        case 3: mk_fsbox_read(box, fd, bytes, sizeof(bytes)); break;
        case 4: mk_fsbox_write(box, fd, "0123456789", 1 + next_random(&state) % 10); break;
        case 5:
            mk_fsbox_seek(box, fd, next_random(&state) % 100, next_random(&state) % 4, 1000);
            break;
        case 6: mk_fsbox_size(box, fd); break;
        default: free(mk_fsbox_directory(box));
        }
    }
    return NULL;
}

static void test_threads(void)
{
    struct mk_policy *p = make_policy("a", MK_FILE_COW);
    struct mk_fsbox box[2];
    pthread_t thread[2][THREADS];
    put(path_of("%s/a", root_path), 100);
    put(path_of("%s/b", root_path), 100);
    mk_policy_add(p, "b", MK_FILE_SHARED_RW, &err);
    p->audit = true;
    unsigned before = descriptors();
    for (unsigned b = 0; b < 2; b++)
        mk_fsbox_init(&box[b], "threads", p, &err);
    for (unsigned i = 0; i < 2 * THREADS; i++)
        pthread_create(&thread[i % 2][i / 2], NULL, use_box, &box[i % 2]);
    for (unsigned i = 0; i < 2 * THREADS; i++)
        pthread_join(thread[i % 2][i / 2], NULL);
    for (unsigned b = 0; b < 2; b++)
        mk_fsbox_free(&box[b]);
    tap_is(descriptors(), before, "threads on two boxes leave no descriptor open");
    tap_ok(intact(path_of("%s/a", root_path), 100), "and the original as it was");
    mk_policy_unref(p);
    remove_folder(keep_path);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!mkdtemp(base))
        return 1;
    snprintf(root_path, sizeof(root_path), "%s/root", base);
    snprintf(keep_path, sizeof(keep_path), "%s/keep", base);
    mkdir(root_path, 0777);
    put(path_of("%s/big", root_path), BIG);
    test_names();
    test_patterns();
    test_copies();
    test_full();
    test_failed_cow();
    test_left_copy();
    test_stolen_directory();
    test_swapped();
    test_replaced();
    test_threads();
    remove_folder(base);
    return tap_done();
}
