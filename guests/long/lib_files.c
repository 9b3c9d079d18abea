/* lib_files.c - the file port's two protocols. */
#include "minikvm.h"

/* --- the request block: one OUT of its address does it all. RAM is mapped at its own addresses, so
 * that a pointer is the physical address the VMM wants. --- */

struct request {
    uint32_t operation;
    uint32_t flags_or_whence;
    int32_t fd;
    uint32_t count;
    uint64_t buffer_or_name;
    int64_t offset;
    int64_t result;
};
_Static_assert(sizeof(struct request) == MK_FILE_BLOCK, "the ABI's request block");

static int64_t run(struct request request)
{
    outl(MK_PORT_FILE_BLOCK, (uint32_t)(uintptr_t)&request);
    return request.result;
}

static int64_t block_open(const char *name, size_t length, unsigned flags)
{
    return run((struct request){ .operation = MK_FILE_OP_OPEN, .flags_or_whence = flags,
                                 .count = (uint32_t)length, .buffer_or_name = (uint64_t)name });
}

static int64_t block_close(int fd)
{
    return run((struct request){ .operation = MK_FILE_OP_CLOSE, .fd = fd });
}

static int64_t block_read(int fd, void *buffer, int32_t count)
{
    return run((struct request){ .operation = MK_FILE_OP_READ, .fd = fd, .count = (uint32_t)count,
                                 .buffer_or_name = (uint64_t)buffer });
}

static int64_t block_write(int fd, const void *buffer, int32_t count)
{
    return run((struct request){ .operation = MK_FILE_OP_WRITE, .fd = fd, .count = (uint32_t)count,
                                 .buffer_or_name = (uint64_t)buffer });
}

static int64_t block_seek(int fd, int64_t offset, unsigned whence)
{
    return run((struct request){ .operation = MK_FILE_OP_SEEK, .flags_or_whence = whence, .fd = fd,
                                 .offset = offset });
}

static int64_t block_stat(int fd)
{
    return run((struct request){ .operation = MK_FILE_OP_STAT, .fd = fd });
}

const struct file_protocol file_block = {
    .name = "request block", .open = block_open, .close = block_close, .read = block_read,
    .write = block_write, .seek = block_seek, .stat = block_stat };

/* --- byte by byte --- */

static void send(const void *bytes, size_t length)
{
    for (const uint8_t *at = bytes; length; length--)
        outb(MK_PORT_FILE, *at++);
}

static void begin(uint8_t operation)
{
    outb(MK_PORT_FILE, operation);
}

static void send_i32(int32_t value)
{
    send(&value, sizeof(value));
}

static void receive(void *bytes, size_t length)
{
    for (uint8_t *at = bytes; length; length--)
        *at++ = inb(MK_PORT_FILE);
}

static int32_t result(void)
{
    int32_t value;

    receive(&value, sizeof(value));
    return value;
}

static int64_t bytes_open(const char *name, size_t length, unsigned flags)
{
    if (length > 255) /* the length is one byte: this protocol cannot even ask */
        return -ENAMETOOLONG;
    begin(MK_FILE_OP_OPEN);
    outb(MK_PORT_FILE, (uint8_t)flags);
    outb(MK_PORT_FILE, (uint8_t)length);
    send(name, length);
    return result();
}

static int64_t bytes_close(int fd)
{
    begin(MK_FILE_OP_CLOSE);
    send_i32(fd);
    return result();
}

static int64_t bytes_read(int fd, void *buffer, int32_t count)
{
    begin(MK_FILE_OP_READ);
    send_i32(fd);
    send_i32(count);
    int32_t got = result();
    if (got > 0)
        receive(buffer, (size_t)got);
    return got;
}

static int64_t bytes_write(int fd, const void *buffer, int32_t count)
{
    begin(MK_FILE_OP_WRITE);
    send_i32(fd);
    send_i32(count);
    if (count > 0)
        send(buffer, (size_t)count);
    return result();
}

static int64_t bytes_seek(int fd, int64_t offset, unsigned whence)
{
    begin(MK_FILE_OP_SEEK);
    send_i32(fd);
    send_i32((int32_t)offset);
    outb(MK_PORT_FILE, (uint8_t)whence);
    return result();
}

static int64_t bytes_stat(int fd)
{
    begin(MK_FILE_OP_STAT);
    send_i32(fd);
    return result();
}

const struct file_protocol file_bytes = {
    .name = "bytes", .open = bytes_open, .close = bytes_close, .read = bytes_read,
    .write = bytes_write, .seek = bytes_seek, .stat = bytes_stat };
