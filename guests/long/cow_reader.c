/* cow_reader.c - reads a file that another VM changes meanwhile (cow_writer.c): with the verdict
 * "cow" nothing of that can be seen here. */
#include "minikvm.h"

#define ROUNDS 20

int main(void)
{
    char text[64];
    uint64_t sum = 0;

    for (int i = 0; i < ROUNDS; i++) {
        int fd = file_open("shared.txt", O_READ);
        int64_t n = file_read(fd, text, sizeof(text));
        if (fd < 0 || n < 0)
            return 1;
        for (int64_t j = 0; j < n; j++)
            sum += (uint8_t)text[j];
        if (i == ROUNDS - 1)
            write(text, (uint32_t)n);
        file_close(fd);
    }
    printf("read %d times, sum %lu\n", ROUNDS, sum);
    return 0;
}
