/* guest.h - what guests in C share: calls of the SBI (specification 2.0), printing, CSRs. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

#define TICKS_PER_MS 10000ul

#define csr_read(name)                                                                             \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        __asm__ volatile("csrr %0, " #name : "=r"(value_));                                        \
        value_;                                                                                    \
    })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" : : "r"((uint64_t)(value)))
#define csr_set(name, bits) __asm__ volatile("csrs " #name ", %0" : : "r"((uint64_t)(bits)))

struct sbi_result {
    long error;
    long value;
};

int main(void);

/* lib.c */
struct sbi_result sbi(uint64_t extension, uint64_t function, uint64_t a, uint64_t b, uint64_t c);
void shut_down(void) __attribute__((noreturn));
void set_timer(uint64_t time);
int get_char(void); /* a byte, or -1 */
void put_char(char c);
void put_string(const char *text);
void put_number(uint64_t value);
void put_hex(uint64_t value);

#endif
