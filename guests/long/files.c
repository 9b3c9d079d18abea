/* files.c - all that the file port does, by both of its protocols, and every error it answers.
 *
 * Wants a policy that lets it see read.txt ("ro"), shared.txt ("cow") and nothing of secret.txt
 * ("deny"), files of 4096 bytes at the most, and 24576 bytes written in all. */
#include "minikvm.h"

#define FILE_LIMIT 4096
#define TOO_MANY 16

static const struct file_protocol *via;
static const char *own; /* a file of this guest's, another one for each protocol */
static int passed, failed;
static uint8_t buffer[FILE_LIMIT + 1000];

static void check(const char *what, int64_t got, int64_t wanted)
{
    if (got == wanted) {
        passed++;
        return;
    }
    failed++;
    printf("FAIL %s, %s: %ld instead of %ld\n", via->name, what, got, wanted);
}

static int open(const char *name, unsigned flags)
{
    return (int)via->open(name, strlen(name), flags);
}

/* The file from its start is just this. */
static void check_content(const char *what, const char *name, const char *wanted)
{
    int fd = open(name, O_READ);
    int64_t n = via->read(fd, buffer, sizeof(buffer));

    check(what, n, (int64_t)strlen(wanted));
    check(what, n > 0 ? memcmp(buffer, wanted, (size_t)n) : 0, 0);
    check("close", via->close(fd), 0);
}

static void reading(void)
{
    int fd = open("read.txt", O_READ);

    check("the lowest descriptor is free", fd, 0);
    check("stat", via->stat(fd), 18);
    check("read", via->read(fd, buffer, 5), 5);
    check("what was read", memcmp(buffer, "Read ", 5), 0);
    check("seek from the start", via->seek(fd, 5, SEEK_SET), 5);
    check("seek from here", via->seek(fd, 2, SEEK_CUR), 7);
    check("seek from the end", via->seek(fd, -2, SEEK_END), 16);
    check("read less than asked", via->read(fd, buffer, 100), 2);
    check("read at the end", via->read(fd, buffer, 100), 0);
    check("read nothing", via->read(fd, buffer, 0), 0);
    check("close", via->close(fd), 0);
    check_content("all of it", "read.txt", "Read me, only me.\n");
}

static void writing(void)
{
    int fd = open(own, O_READ | O_WRITE);

    check("create by opening", fd, 0);
    check("an empty file", via->stat(fd), 0);
    check("write", via->write(fd, "Hello, file!\n", 13), 13);
    check("write nothing", via->write(fd, "", 0), 0);
    check("overwrite: seek", via->seek(fd, 7, SEEK_SET), 7);
    check("overwrite", via->write(fd, "disk", 4), 4);
    check("close", via->close(fd), 0);
    check_content("what was written", own, "Hello, disk!\n");
    fd = open(own, O_WRITE | O_APPEND);
    check("append", via->write(fd, "More.\n", 6), 6);
    check("append moves the position", via->seek(fd, 0, SEEK_CUR), 19);
    check("close", via->close(fd), 0);
    check_content("what was appended", own, "Hello, disk!\nMore.\n");
    fd = open(own, O_WRITE | O_TRUNC);
    check("truncated", via->stat(fd), 0);
    check("seek beyond the end", via->seek(fd, 3, SEEK_SET), 3);
    check("write there", via->write(fd, "!", 1), 1);
    check("size with the gap", via->stat(fd), 4);
    check("close", via->close(fd), 0);
    fd = open(own, O_READ);
    check("read the gap", via->read(fd, buffer, 10), 4);
    check("zeros in the gap", memcmp(buffer, "\0\0\0!", 4), 0);
    check("close", via->close(fd), 0);
}

static void descriptors(void)
{
    static const int none[] = { -1, 3, 15, 16, 0x7fffffff };
    int fd = open("read.txt", O_READ);

    check("write to what is open for reading", via->write(fd, "x", 1), -EBADF);
    check("close", via->close(fd), 0);
    check("close again", via->close(fd), -EBADF);
    check("read after close", via->read(fd, buffer, 1), -EBADF);
    fd = open(own, O_WRITE);
    check("read from what is open for writing", via->read(fd, buffer, 1), -EBADF);
    check("close", via->close(fd), 0);
    for (unsigned i = 0; i < COUNT(none); i++) {
        check("read from no descriptor", via->read(none[i], buffer, 1), -EBADF);
        check("write to no descriptor", via->write(none[i], "x", 1), -EBADF);
        check("seek in no descriptor", via->seek(none[i], 0, SEEK_SET), -EBADF);
        check("stat of no descriptor", via->stat(none[i]), -EBADF);
        check("close no descriptor", via->close(none[i]), -EBADF);
    }
    for (fd = 0; fd < TOO_MANY; fd++)
        check("open many", open("read.txt", O_READ), fd);
    check("the 17th", open("read.txt", O_READ), -EMFILE);
    for (fd = 0; fd < TOO_MANY; fd++)
        check("close many", via->close(fd), 0);
}

static void names(void)
{
    static const char *const invalid[] = {
        "", ".", "..", "../read.txt", "/etc/passwd", "a//b", "a/", "a/./b", "a b", "a*", "\xe4" };
    static char long_name[256];

    memset(long_name, 'n', sizeof(long_name));
    for (unsigned i = 0; i < COUNT(invalid); i++)
        check("invalid name", open(invalid[i], O_READ | O_WRITE), -EINVAL);
    check("a name with a NUL", via->open("read.txt\0x", 10, O_READ), -EINVAL);
    check("a name of 255 bytes", via->open(long_name, 255, O_READ), -ENOENT);
    check("a name of 256 bytes", via->open(long_name, 256, O_READ), -ENAMETOOLONG);
    check("no such file", open("missing.txt", O_READ), -ENOENT);
    check("denied", open("secret.txt", O_READ), -EACCES);
    check("denied, to write", open("secret.txt", O_WRITE), -EACCES);
    check("read-only", open("read.txt", O_READ | O_WRITE), -EROFS);
    check("read-only, to truncate", open("read.txt", O_READ | O_TRUNC), -EROFS);
}

static void arguments(void)
{
    int fd = open("read.txt", O_READ);

    check("no flags", open("read.txt", 0), -EINVAL);
    check("unknown flags", open("read.txt", O_READ | 0x80), -EINVAL);
    check("unknown whence", via->seek(fd, 0, 3), -EINVAL);
    check("seek before the start", via->seek(fd, -1, SEEK_SET), -EINVAL);
    check("the position stays", via->seek(fd, 0, SEEK_CUR), 0);
    check("read a negative count", via->read(fd, buffer, -1), -EINVAL);
    check("close", via->close(fd), 0);
    fd = open(own, O_WRITE);
    check("write a negative count", via->write(fd, buffer, -1), -EINVAL);
    check("close", via->close(fd), 0);
}

/* What the protocols do not have in common. */
static void block_only(void)
{
    int fd = open(own, O_READ | O_WRITE);

    check("read to nowhere", via->read(fd, (void *)0x40000000, 1), -EFAULT);
    check("write from nowhere", via->write(fd, (void *)0x40000000, 1), -EFAULT);
    check("a buffer that wraps", via->write(fd, (void *)-8, 16), -EFAULT);
    check("a name from nowhere", via->open((void *)0x40000000, 5, O_READ), -EFAULT);
    outl(MK_PORT_FILE_BLOCK, 0xfffffff0);
    check("a block nowhere", (int32_t)inl(MK_PORT_FILE_BLOCK), -EFAULT);
    check("no answer is left", inl(MK_PORT_FILE_BLOCK), 0);
    check("a position beyond 32 bits", via->seek(fd, INT64_C(1) << 32, SEEK_SET), INT64_C(1) << 32);
    check("close", via->close(fd), 0);
}

static void bytes_only(void)
{
    int32_t answer = 0;

    outb(MK_PORT_FILE, 99);
    for (unsigned i = 0; i < 32; i += 8)
        answer |= inb(MK_PORT_FILE) << i;
    check("unknown operation", answer, -EINVAL);
    check("no answer is left", inb(MK_PORT_FILE), 0);
    int fd = open("read.txt", O_READ);
    check("seek to the last position", via->seek(fd, INT32_MAX, SEEK_SET), INT32_MAX);
    check("seek beyond it", via->seek(fd, 1, SEEK_CUR), -EOVERFLOW);
    check("close", via->close(fd), 0);
}

static void quotas(void)
{
    int fd = open(own, O_READ | O_WRITE | O_TRUNC);

    check("write as far as a file may grow", via->write(fd, buffer, sizeof(buffer)), FILE_LIMIT);
    check("a file that is too large", via->write(fd, buffer, 1), -EFBIG);
    check("what was written stays", via->stat(fd), FILE_LIMIT);
    check("close", via->close(fd), 0);
}

/* Until nothing may be written any more. */
static void fill(void)
{
    int64_t n;
    int fd = open(own, O_READ | O_WRITE);

    do {
        via->seek(fd, 0, SEEK_SET);
        n = via->write(fd, buffer, FILE_LIMIT);
    } while (n > 0);
    check("too much written in all", n, -ENOSPC);
    check("close", via->close(fd), 0);
}

static void all(const struct file_protocol *protocol, const char *name)
{
    via = protocol;
    own = name;
    reading();
    writing();
    descriptors();
    names();
    arguments();
    if (via == &file_block)
        block_only();
    else
        bytes_only();
    quotas();
}

int main(void)
{
    all(&file_block, "block.txt");
    all(&file_bytes, "bytes.txt");
    via = &file_block;
    fill();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
