/* unknown.c - calls of the SBI that are not there, or that are wrong (SBI specification 2.0:
 * chapter 3 for the errors, 4.4 for probing). */
#include "guest.h"

static void show(const char *what, struct sbi_result result)
{
    put_string(what);
    put_string(result.error < 0 ? " error -" : " error ");
    put_number((uint64_t)(result.error < 0 ? -result.error : result.error));
    put_string(", value ");
    put_hex((uint64_t)result.value);
    put_string("\n");
}

int main(void)
{
    show("version:", sbi(0x10, 0, 0, 0, 0));
    show("implementation:", sbi(0x10, 1, 0, 0, 0));
    show("TIME is there:", sbi(0x10, 3, 0x54494d45, 0, 0));
    show("HSM is there:", sbi(0x10, 3, 0x48534d, 0, 0));
    show("base, function 7:", sbi(0x10, 7, 1, 2, 3));
    show("HSM, function 0:", sbi(0x48534d, 0, 0, 0, 0));
    show("extension -1:", sbi(~0ul, 0, 0, 0, 0));
    show("TIME, function 1:", sbi(0x54494d45, 1, 0, 0, 0));
    show("SRST, type 9:", sbi(0x53525354, 0, 9, 0, 0));
    show("SRST, cold reboot:", sbi(0x53525354, 0, 1, 0, 0));
    show("DBCN, function 3:", sbi(0x4442434e, 3, 0, 0, 0));
    show("write of a UART:", sbi(0x4442434e, 0, 1, 0x10000000, 0));
    show("write at the end:", sbi(0x4442434e, 0, ~0ul, 0x40800000, 0));
    show("write far up:", sbi(0x4442434e, 0, 1, 0x40000000, 1));
    show("read into a UART:", sbi(0x4442434e, 1, 1, 0x10000000, 0));
    show("write of nothing:", sbi(0x4442434e, 0, 0, 0x40000000, 0));
    return 0;
}
