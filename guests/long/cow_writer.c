/* cow_writer.c - changes a file that others read (cow_reader.c): with the verdict "cow" it gets a
 * copy of its own when it first opens it for writing, and who reads here goes on in that copy. */
#include "minikvm.h"

static char text[64];

static void show(const char *what, int fd, int32_t count)
{
    int64_t n = file_read(fd, text, count);

    printf("%s: ", what);
    if (n < 0)
        exit((int)-n);
    write(text, (uint32_t)n);
    puts("\n");
}

int main(void)
{
    int reader = file_open("shared.txt", O_READ);
    show("before", reader, 6); /* "Shared" */
    int writer = file_open("shared.txt", O_WRITE);
    if (file_seek(writer, -14, SEEK_END) < 0 || file_write(writer, "a copy of it.\n", 14) != 14)
        return 1;
    show("from there on", reader, sizeof(text));
    int both = file_open("shared.txt", O_READ | O_WRITE | O_APPEND);
    if (file_write(both, "And more.\n", 10) != 10 || file_seek(both, 0, SEEK_SET) != 0)
        return 2;
    show("all of it", both, sizeof(text));
    int new = file_open("new.txt", O_READ | O_WRITE); /* nobody else will see this one */
    printf("new.txt had %ld bytes\n", file_stat(new));
    return file_write(new, "mine\n", 5) == 5 ? 0 : 3;
}
